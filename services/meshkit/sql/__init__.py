"""Postgres: engine, tenant scope, row-level security, migrations, outbox, stored answers, data keys."""

from services.meshkit.core.imports import hollow

# SQLAlchemy's package for asyncio offers sessions of its ORM beside the engine: 6 MB that no service has a use for.
with hollow("sqlalchemy.ext.asyncio.scoping", "sqlalchemy.ext.asyncio.session"):
    import sqlalchemy.ext.asyncio as _asyncio  # noqa: F401  # pyright: ignore[reportUnusedImport]
