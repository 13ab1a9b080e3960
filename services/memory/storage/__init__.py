"""Memories in Postgres, the system of record."""

# Before anything here names SQLAlchemy, for what it keeps out of memory.
import services.meshkit.sql as _sql  # noqa: F401  # pyright: ignore[reportUnusedImport]
