"""An index of the ledger's entries by project, for those who may read one project's only."""

from alembic.operations import Operations

revision = "0018"
down_revision = "0017"


def upgrade(op: Operations) -> None:
    """Makes it. Entries of no project are found by the tenant's own index, so they cost nothing here."""
    op.execute(
        "CREATE INDEX ix_cost_event_project ON cost_event (tenant_id, project, created_time, id) WHERE project <> ''"
    )


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP INDEX ix_cost_event_project")
