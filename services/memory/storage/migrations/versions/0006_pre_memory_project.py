"""Gives memories a project. Those that are there already belong to none."""

from alembic.operations import Operations

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations) -> None:
    """Adds the column; code from before leaves it out."""
    op.execute("ALTER TABLE memory ADD COLUMN project text NOT NULL DEFAULT ''")


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("ALTER TABLE memory DROP COLUMN project")
