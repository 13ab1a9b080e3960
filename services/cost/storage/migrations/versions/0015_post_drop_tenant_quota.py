"""Drops the quota that each tenant's own budget was last limited to: the budget has it now."""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table

revision = "0015"
down_revision = "0014"


def upgrade(op: Operations) -> None:
    """Nothing reads or writes it any more."""
    op.execute("DROP TABLE tenant_quota")


def downgrade(op: Operations) -> None:
    """Makes it of what the budgets have."""
    op.execute("CREATE TABLE tenant_quota (tenant_id uuid NOT NULL PRIMARY KEY, max_cost_nano_usd bigint NOT NULL)")
    op.execute("INSERT INTO tenant_quota SELECT tenant_id, quota_nano_usd FROM budget WHERE quota_nano_usd > 0")
    tenant_table(op, "tenant_quota", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))
