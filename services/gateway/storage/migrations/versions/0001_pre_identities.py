"""Tenants, keys, grants and the audit trail."""

from alembic.operations import Operations

from services.meshkit.sql.request_ids import create_request_ids
from services.meshkit.sql.rls import run_together, tenant_table

revision = "0001"
down_revision = None

_TABLES = """
CREATE TABLE tenant (
    tenant_id uuid NOT NULL PRIMARY KEY,
    name text NOT NULL,
    residency_region text NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT uq_tenant_name UNIQUE (name)
);
CREATE TABLE api_key (
    id uuid NOT NULL PRIMARY KEY,
    tenant_id uuid NOT NULL,
    display_name text NOT NULL,
    roles text[] NOT NULL CHECK (cardinality(roles) > 0),
    project text,
    salt bytea NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32),
    create_time timestamptz NOT NULL,
    expire_time timestamptz,
    revoke_time timestamptz
);
CREATE INDEX ix_api_key_tenant_id ON api_key (tenant_id);
CREATE TABLE run_grant (
    id uuid NOT NULL PRIMARY KEY,
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    roles text[] NOT NULL,
    project text,
    scopes text[],
    create_time timestamptz NOT NULL,
    revoke_time timestamptz,
    CONSTRAINT uq_run_grant_run UNIQUE (tenant_id, run_id)
);
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
    """Makes the tables and their policies."""
    run_together(op, _TABLES.split(";"))
    create_request_ids(op)
    tenant_table(op, "tenant", app=("SELECT", "INSERT"), maintenance=("SELECT",))
    tenant_table(op, "api_key", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))
    tenant_table(op, "run_grant", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))
    # What was recorded is never changed.
    tenant_table(op, "audit", app=("SELECT", "INSERT"), maintenance=("SELECT",))


def downgrade(op: Operations) -> None:
    """Drops everything."""
    for table in ("audit", "run_grant", "api_key", "tenant", "request_id"):
        op.execute(f"DROP TABLE {table}")
