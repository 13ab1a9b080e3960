"""How many bytes each tenant has stored, so that its quota can be kept exactly."""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of, tenant_table
from services.meshkit.sql.roles import roles_of

revision = "0004"
down_revision = "0003"


def upgrade(op: Operations) -> None:
    """Makes the table, and counts what is there."""
    roles = roles_of(database_of(op))
    op.execute(
        "CREATE TABLE storage_used (tenant_id uuid NOT NULL PRIMARY KEY, bytes bigint NOT NULL) WITH (fillfactor = 50)"
    )
    tenant_table(op, "storage_used", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "INSERT"))
    # Not even the owner of the tables sees their rows.
    op.execute(f"SET LOCAL ROLE {quoted(roles.maintenance)}")
    op.execute(
        "INSERT INTO storage_used SELECT tenant_id, sum(octet_length(payload)) FROM memory"
        " WHERE payload IS NOT NULL GROUP BY tenant_id"
    )
    op.execute(f"SET LOCAL ROLE {quoted(roles.migrator)}")


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE storage_used")
