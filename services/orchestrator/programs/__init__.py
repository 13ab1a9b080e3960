"""Pure deciders: facts in, commands out. No clock, no dice, no IO."""
