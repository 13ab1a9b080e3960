"""Calls to the neighbours, one file each."""
