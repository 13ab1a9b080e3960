"""Postgres: engine, tenant scope, row-level security, migrations, outbox, stored answers, data keys."""
