"""Moves what the first form of the audit trail holds into audit entries, and drops it."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0009"
down_revision = "0008"

# They get places behind the entries of today; when they were written stands in their details.
_MOVE = """
INSERT INTO audit_entry (tenant_id, actor, peer, action, method, target, outcome, reason, request_hash, request_id,
                         correlation_id, source_address, details)
SELECT tenant_id, actor, '', action, '', subject, 1, '', '', '', '', '',
       jsonb_build_object('written_time', to_char(record_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
FROM audit ORDER BY record_time, id
"""
_TABLE = """
CREATE TABLE audit (
    id uuid NOT NULL PRIMARY KEY,
    tenant_id uuid NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    actor text NOT NULL,
    record_time timestamptz NOT NULL
);
CREATE INDEX ix_audit_tenant_id ON audit (tenant_id)
"""


def upgrade(op: Operations) -> None:
    """Nothing reads or writes it any more."""
    op.execute(_MOVE)
    op.execute("DROP TABLE audit")


def downgrade(op: Operations) -> None:
    """Makes it empty: what it held is in the chain already."""
    run_together(op, _TABLE.split(";"))
    tenant_table(op, "audit", app=("SELECT", "INSERT"), maintenance=("SELECT",))
