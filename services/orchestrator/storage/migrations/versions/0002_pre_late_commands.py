"""Lets background work remove the commands that came too late for their run."""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of
from services.meshkit.sql.roles import roles_of

revision = "0002"
down_revision = "0001"


def upgrade(op: Operations) -> None:
    """Grants it."""
    op.execute(f"GRANT DELETE ON run_command TO {quoted(roles_of(database_of(op)).maintenance)}")


def downgrade(op: Operations) -> None:
    """Takes it back."""
    op.execute(f"REVOKE DELETE ON run_command FROM {quoted(roles_of(database_of(op)).maintenance)}")
