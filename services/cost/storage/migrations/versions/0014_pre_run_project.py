"""Has the budget of a run say which project the run is of."""

from alembic.operations import Operations

revision = "0014"
down_revision = "0013"


def upgrade(op: Operations) -> None:
    """Leaves it open for runs that are there."""
    op.execute("ALTER TABLE budget ADD COLUMN project text")


def downgrade(op: Operations) -> None:
    """Drops it; runs stand below the tenant again."""
    op.execute("ALTER TABLE budget DROP COLUMN project")
