"""Tenants, keys, grants and the audit trail in Postgres."""
