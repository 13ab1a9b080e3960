"""Finds budgets that were removed by their names, since one that is made again goes on from there."""

from alembic.operations import Operations

revision = "0019"
down_revision = "0018"


def upgrade(op: Operations) -> None:
    """Adds an index of the few that were removed."""
    op.execute("CREATE INDEX ix_budget_removed ON budget (tenant_id, scope, name) WHERE removed")


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP INDEX ix_budget_removed")
