"""What callers see of a run: a session, or a run of any other program."""

from alembic.operations import Operations

revision = "0007"
down_revision = "0006"


def upgrade(op: Operations) -> None:
    """Adds it; all that there is are sessions."""
    op.execute("ALTER TABLE run ADD COLUMN kind smallint NOT NULL DEFAULT 0")


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("ALTER TABLE run DROP COLUMN kind")
