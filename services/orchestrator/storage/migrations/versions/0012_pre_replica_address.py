"""Where replicas reach each other."""

from alembic.operations import Operations

revision = "0012"
down_revision = "0011"


def upgrade(op: Operations) -> None:
    """Adds the column. Replicas of the release before have none, and nobody lends them workers."""
    op.execute("ALTER TABLE engine_replica ADD COLUMN address text")


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("ALTER TABLE engine_replica DROP COLUMN address")
