"""Quotas and rules of tenants, and how far the erasure of a tenant is."""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of, run_together, tenant_table
from services.meshkit.sql.roles import roles_of

revision = "0007"
down_revision = "0006"

_TABLES = """
ALTER TABLE tenant
    ADD COLUMN quotas jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN security_policy jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN revision bigint NOT NULL DEFAULT 1;
CREATE TABLE erasure (
    tenant_id uuid NOT NULL PRIMARY KEY,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    progress jsonb NOT NULL,
    lease_until timestamptz NOT NULL
);
CREATE INDEX ix_erasure_open ON erasure (lease_until) WHERE end_time IS NULL
"""


def upgrade(op: Operations) -> None:
    """Adds the columns and the table."""
    run_together(op, _TABLES.split(";"))
    op.execute(f"GRANT UPDATE ON tenant TO {quoted(roles_of(database_of(op)).app)}")
    tenant_table(op, "erasure", app=("SELECT", "INSERT"), maintenance=("SELECT", "UPDATE"))


def downgrade(op: Operations) -> None:
    """Drops them."""
    op.execute("DROP TABLE erasure")
    op.execute(f"REVOKE UPDATE ON tenant FROM {quoted(roles_of(database_of(op)).app)}")
    for column in ("quotas", "security_policy", "revision"):
        op.execute(f"ALTER TABLE tenant DROP COLUMN {column}")
