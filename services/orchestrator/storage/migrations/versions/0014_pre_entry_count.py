"""Rows of the journal that hold more than 32,767 facts: what many answers at once lead to is written in one."""

from alembic.operations import Operations

revision = "0014"
down_revision = "0013"


def upgrade(op: Operations) -> None:
    """Widens the count. Code that gives a smallint goes on working."""
    op.execute("ALTER TABLE journal ALTER COLUMN entry_count TYPE integer")


def downgrade(op: Operations) -> None:
    """Narrows it again; refused where a row holds more."""
    op.execute("ALTER TABLE journal ALTER COLUMN entry_count TYPE smallint")
