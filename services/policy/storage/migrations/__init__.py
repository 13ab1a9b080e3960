"""Migrations of the database of policy."""
