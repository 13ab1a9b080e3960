"""Workflows: immutable versions, as canonical JSON."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0008"
down_revision = "0007"

_TABLES = """
CREATE TABLE workflow (
    tenant_id uuid NOT NULL, name text NOT NULL, version text NOT NULL,
    major integer NOT NULL, minor integer NOT NULL, patch integer NOT NULL,
    definition bytea NOT NULL, digest bytea NOT NULL, written_digest bytea NOT NULL,
    description text NOT NULL, deadline interval, input_schema bytea,
    node_count integer NOT NULL, depth smallint NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_workflow PRIMARY KEY (tenant_id, name, version));
CREATE INDEX ix_workflow_version ON workflow (tenant_id, name, major, minor, patch)"""


def upgrade(op: Operations) -> None:
    """Makes the table and its policies."""
    run_together(op, _TABLES.split(";"))
    # A version never changes.
    tenant_table(op, "workflow", app=("SELECT", "INSERT"), maintenance=("SELECT",))


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE workflow")
