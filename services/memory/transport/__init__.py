"""The calls that come in."""
