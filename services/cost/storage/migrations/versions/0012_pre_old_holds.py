"""Lets holds of calls that ended long ago be removed, and notes from when on all are there."""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of
from services.meshkit.sql.roles import roles_of

revision = "0012"
down_revision = "0011"


def upgrade(op: Operations) -> None:
    """Grants it to background work alone."""
    op.execute("ALTER TABLE rollup_mark ADD COLUMN holds_from timestamptz")
    op.execute(f"GRANT DELETE ON hold TO {_maintenance(op)}")


def downgrade(op: Operations) -> None:
    """Takes the grant back; holds that were removed do not come back."""
    op.execute(f"REVOKE DELETE ON hold FROM {_maintenance(op)}")
    op.execute("ALTER TABLE rollup_mark DROP COLUMN holds_from")


def _maintenance(op: Operations) -> str:
    return quoted(roles_of(database_of(op)).maintenance)
