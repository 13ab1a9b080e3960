"""Postgres behind the ports: tools and the calls that were made of them, sealed."""
