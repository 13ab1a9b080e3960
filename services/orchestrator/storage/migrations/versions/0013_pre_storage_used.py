"""Bytes that a tenant's runs take, counted in the transactions that add them."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0013"
down_revision = "0012"

#: Half of each page stays free, so that a row that grows at every tick finds room beside its older versions.
_TABLE = """
    CREATE TABLE storage_used (tenant_id uuid NOT NULL, slot smallint NOT NULL, bytes bigint NOT NULL,
        CONSTRAINT pk_storage_used PRIMARY KEY (tenant_id, slot)) WITH (fillfactor = 50)"""
_COUNT = """
    INSERT INTO storage_used SELECT tenant_id, -1, sum(bytes) FROM (
        SELECT tenant_id, octet_length(payload) AS bytes FROM journal
        UNION ALL SELECT tenant_id, bytes FROM journal_blob) AS there
    GROUP BY tenant_id"""


def upgrade(op: Operations) -> None:
    """Makes the table and counts what is there. What older code adds meanwhile is not counted."""
    run_together(op, [_TABLE])
    tenant_table(op, "storage_used", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "INSERT", "UPDATE"))
    op.execute(_COUNT)


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE storage_used")
