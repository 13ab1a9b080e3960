"""Bundles and violations in Postgres."""
