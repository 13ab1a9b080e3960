"""Runs: agents deliberate, durably, on the record."""
