"""Postgres behind the ports: the calls that were made, sealed."""

# Before anything here names SQLAlchemy, for what it keeps out of memory.
import services.meshkit.sql as _sql  # noqa: F401  # pyright: ignore[reportUnusedImport]
