"""Keeps answers per `request_id`."""

from alembic.operations import Operations

from services.meshkit.sql.request_ids import create_request_ids

revision = "0004"
down_revision = "0003"


def upgrade(op: Operations) -> None:
    """Makes the table."""
    create_request_ids(op)


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE request_id")
