"""Since when a person has had their roles, so that tokens of before and after a change are told apart exactly."""

from alembic.operations import Operations

revision = "0011"
down_revision = "0010"


def upgrade(op: Operations) -> None:
    """Adds it. For persons of before it is the time of the migration: later than every revocation they had."""
    op.execute("ALTER TABLE person ADD COLUMN roles_time timestamptz NOT NULL DEFAULT now()")


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("ALTER TABLE person DROP COLUMN roles_time")
