"""Runs whose facts are in the archive, and the right to take those out of the journal."""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of, run_together
from services.meshkit.sql.roles import roles_of

revision = "0011"
down_revision = "0010"

_INDEX = "CREATE INDEX ix_run_archivable ON run (tenant_id, run_id) WHERE state IN (5, 6, 7) AND archive_parts IS NULL"


def upgrade(op: Operations) -> None:
    """Adds the column and the index by which maintenance finds runs that are due."""
    run_together(
        op,
        [
            "ALTER TABLE run ADD COLUMN archive_parts integer",
            _INDEX,
            f"GRANT DELETE ON journal, turn_place, journal_blob TO {quoted(roles_of(database_of(op)).maintenance)}",
        ],
    )


def downgrade(op: Operations) -> None:
    """Drops it. The files of archived runs stay where they are; nothing finds them any more."""
    run_together(
        op,
        [
            "DROP INDEX ix_run_archivable",
            "ALTER TABLE run DROP COLUMN archive_parts",
            f"REVOKE DELETE ON journal, turn_place, journal_blob FROM {quoted(roles_of(database_of(op)).maintenance)}",
        ],
    )
