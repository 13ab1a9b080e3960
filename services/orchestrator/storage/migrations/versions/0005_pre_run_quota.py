"""An index to count a tenant's runs in progress by, for its quota."""

from alembic.operations import Operations

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations) -> None:
    """Makes it."""
    op.execute("CREATE INDEX ix_run_in_progress ON run (tenant_id) WHERE state < 5")


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP INDEX ix_run_in_progress")
