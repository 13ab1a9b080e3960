"""Alerts of budgets, to be listed."""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table

revision = "0016"
down_revision = "0015"


def upgrade(op: Operations) -> None:
    """Makes the table. Requests and the sweep of holds add to it, and only background work removes."""
    op.execute("""
        CREATE TABLE budget_alert (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            budget_id uuid NOT NULL,
            created_time timestamptz NOT NULL,
            body bytea NOT NULL
        )""")
    op.execute("CREATE INDEX ix_budget_alert_page ON budget_alert (tenant_id, created_time, id)")
    op.execute("CREATE INDEX ix_budget_alert_budget ON budget_alert (tenant_id, budget_id, created_time, id)")
    tenant_table(op, "budget_alert", app=("SELECT", "INSERT"), maintenance=("SELECT", "INSERT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE budget_alert")
