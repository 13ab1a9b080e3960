"""Memories in Postgres, the system of record."""
