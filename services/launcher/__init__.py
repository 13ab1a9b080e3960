"""Starts the whole mesh on one machine and keeps it running."""
