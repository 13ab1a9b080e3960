"""Changes of relations that a server elsewhere is still to be told of."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0013"
down_revision = "0012"

_TABLE = """
CREATE TABLE relation_change (
    tenant_id uuid NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    body bytea NOT NULL,
    CONSTRAINT relation_change_pkey PRIMARY KEY (tenant_id, number)
)
"""


def upgrade(op: Operations) -> None:
    """Makes the table."""
    run_together(op, [_TABLE])
    tenant_table(op, "relation_change", app=("SELECT", "INSERT", "DELETE"), maintenance=("SELECT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE relation_change")
