"""The rules of agents and sessions; no IO."""
