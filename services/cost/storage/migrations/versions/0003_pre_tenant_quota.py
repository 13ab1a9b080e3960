"""The quota that each tenant's own budget was last limited to."""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table

revision = "0003"
down_revision = "0002"


def upgrade(op: Operations) -> None:
    """Makes the table."""
    op.execute("CREATE TABLE tenant_quota (tenant_id uuid NOT NULL PRIMARY KEY, max_cost_nano_usd bigint NOT NULL)")
    tenant_table(op, "tenant_quota", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))


def downgrade(op: Operations) -> None:
    """Drops it; limits stay as they are."""
    op.execute("DROP TABLE tenant_quota")
