"""Postgres behind the ports: the calls that were made, sealed."""
