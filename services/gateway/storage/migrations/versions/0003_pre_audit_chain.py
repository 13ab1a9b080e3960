"""The chain of the audit trail: entries, trees, heads, archive, and how far each service is known."""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of, run_together, tenant_table, untenanted_table
from services.meshkit.sql.roles import roles_of

revision = "0003"
down_revision = "0002"

_TABLES = """
CREATE TABLE audit_chain (
    tenant_id uuid NOT NULL,
    index bigint NOT NULL CHECK (index >= 0),
    record_time timestamptz NOT NULL,
    actor text,
    action text,
    target text,
    canonical bytea,
    leaf_hash bytea NOT NULL CHECK (length(leaf_hash) = 32),
    chain_hash bytea NOT NULL CHECK (length(chain_hash) = 32),
    subtrees bytea NOT NULL CHECK (length(subtrees) % 32 = 0),
    CONSTRAINT pk_audit_chain PRIMARY KEY (tenant_id, index)
);
CREATE INDEX ix_audit_chain_actor ON audit_chain (tenant_id, actor, index) WHERE canonical IS NOT NULL;
CREATE INDEX ix_audit_chain_action ON audit_chain (tenant_id, action, index) WHERE canonical IS NOT NULL;
CREATE INDEX ix_audit_chain_target ON audit_chain (tenant_id, target, index) WHERE canonical IS NOT NULL;
CREATE INDEX ix_audit_chain_time ON audit_chain (tenant_id, record_time) WHERE canonical IS NOT NULL;
CREATE TABLE audit_tree (
    tenant_id uuid NOT NULL PRIMARY KEY,
    size bigint NOT NULL,
    chain_hash bytea NOT NULL CHECK (length(chain_hash) = 32),
    peaks bytea NOT NULL CHECK (length(peaks) % 32 = 0),
    signed_size bigint NOT NULL CHECK (signed_size BETWEEN 0 AND size),
    archived_size bigint NOT NULL CHECK (archived_size BETWEEN 0 AND signed_size)
);
CREATE INDEX ix_audit_tree_unsigned ON audit_tree (tenant_id) WHERE size > signed_size;
CREATE TABLE audit_head (
    tenant_id uuid NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    head bytea NOT NULL,
    CONSTRAINT pk_audit_head PRIMARY KEY (tenant_id, size)
);
CREATE TABLE audit_archive (
    tenant_id uuid NOT NULL,
    first_index bigint NOT NULL,
    end_index bigint NOT NULL CHECK (end_index > first_index),
    CONSTRAINT pk_audit_archive PRIMARY KEY (tenant_id, first_index)
);
CREATE TABLE audit_cursor (
    service text NOT NULL,
    stream integer NOT NULL,
    position bigint NOT NULL CHECK (position >= 0),
    leaf_hash bytea NOT NULL,
    again boolean NOT NULL,
    CONSTRAINT pk_audit_cursor PRIMARY KEY (service, stream)
);
CREATE TABLE audit_break (
    service text NOT NULL,
    stream integer NOT NULL,
    position bigint NOT NULL,
    kind text NOT NULL,
    notice_time timestamptz NOT NULL,
    CONSTRAINT pk_audit_break PRIMARY KEY (service, stream, position, kind)
);
CREATE TABLE audit_acknowledgement (
    service text NOT NULL,
    stream integer NOT NULL,
    position bigint NOT NULL,
    kind text NOT NULL,
    acknowledge_time timestamptz NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    CONSTRAINT pk_audit_acknowledgement PRIMARY KEY (service, stream, position, kind, acknowledge_time),
    CONSTRAINT fk_audit_acknowledgement FOREIGN KEY (service, stream, position, kind) REFERENCES audit_break
)
"""


def upgrade(op: Operations) -> None:
    """Makes the tables and their policies."""
    run_together(op, _TABLES.split(";"))
    tenant_table(op, "audit_chain", app=("SELECT",), maintenance=("SELECT", "INSERT"))
    tenant_table(op, "audit_tree", app=("SELECT",), maintenance=("SELECT", "INSERT", "UPDATE"))
    tenant_table(op, "audit_head", app=("SELECT",), maintenance=("SELECT", "INSERT"))
    tenant_table(op, "audit_archive", app=("SELECT",), maintenance=("SELECT", "INSERT"))
    reason = "streams of services, not of tenants"
    untenanted_table(op, "audit_cursor", reason=reason, app=(), maintenance=("SELECT", "INSERT", "UPDATE"))
    untenanted_table(op, "audit_break", reason=reason, app=("SELECT",), maintenance=("SELECT", "INSERT"))
    untenanted_table(op, "audit_acknowledgement", reason=reason, app=("SELECT", "INSERT"), maintenance=("SELECT",))
    # Archiving takes the content out and nothing else: no role that a service runs as can change a hash.
    maintenance = quoted(roles_of(database_of(op)).maintenance)
    op.execute(f"GRANT UPDATE (notice_time) ON audit_break TO {maintenance}")
    op.execute(f"GRANT UPDATE (canonical, actor, action, target) ON audit_chain TO {maintenance}")


def downgrade(op: Operations) -> None:
    """Drops them."""
    for table in (
        "audit_acknowledgement",
        "audit_break",
        "audit_cursor",
        "audit_archive",
        "audit_head",
        "audit_tree",
        "audit_chain",
    ):
        op.execute(f"DROP TABLE {table}")
