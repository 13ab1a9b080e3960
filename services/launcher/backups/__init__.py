"""Backups of a mesh on one machine: taken while it runs, restored into an empty place, checked there."""
