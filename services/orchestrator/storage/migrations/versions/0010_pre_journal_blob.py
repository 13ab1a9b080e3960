"""Which objects of the object store the journal names."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0010"
down_revision = "0009"

_TABLE = """
CREATE TABLE journal_blob (
    tenant_id uuid NOT NULL, run_id uuid NOT NULL, digest bytea NOT NULL, sequence bigint NOT NULL,
    bytes bigint NOT NULL,
    CONSTRAINT pk_journal_blob PRIMARY KEY (run_id, digest))"""


def upgrade(op: Operations) -> None:
    """Makes the table and its policies."""
    run_together(op, [_TABLE])
    tenant_table(op, "journal_blob", app=("SELECT", "INSERT"), maintenance=("SELECT",))


def downgrade(op: Operations) -> None:
    """Drops it. Runs with facts in the object store wait, parked, for a release that can read them."""
    op.execute("DROP TABLE journal_blob")
