"""Counts the messages that data keys seal, so that a key is replaced in time."""

from alembic.operations import Operations

from services.meshkit.sql.data_keys import count_messages, count_no_messages

revision = "0002"
down_revision = "0001"


def upgrade(op: Operations) -> None:
    """Adds the column."""
    count_messages(op)


def downgrade(op: Operations) -> None:
    """Takes it away."""
    count_no_messages(op)
