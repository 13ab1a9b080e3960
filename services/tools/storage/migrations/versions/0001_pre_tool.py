"""Makes tools, the memory of their calls, and the tenants' data keys."""

from alembic.operations import Operations

from services.meshkit.sql.data_keys import create_data_keys
from services.meshkit.sql.rls import tenant_table

revision = "0001"
down_revision = None


def upgrade(op: Operations) -> None:
    op.execute("""
        CREATE TABLE tool (
            tenant_id uuid NOT NULL,
            tool_id uuid NOT NULL,
            name text COLLATE "C" NOT NULL,
            major integer NOT NULL,
            minor integer NOT NULL,
            patch integer NOT NULL,
            definition bytea NOT NULL,
            digest bytea NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT pk_tool PRIMARY KEY (tenant_id, name, major, minor, patch)
        )""")
    op.execute("""
        CREATE TABLE invocation (
            tenant_id uuid NOT NULL,
            run_id text NOT NULL,
            path text NOT NULL,
            attempt_group integer NOT NULL,
            call_index integer NOT NULL,
            arguments_hash bytea NOT NULL,
            tool text NOT NULL,
            state text NOT NULL,
            hold_id text NOT NULL,
            outcome bytea,
            settle_state text,
            charged_nano_usd bigint,
            token bytea,
            create_time timestamptz NOT NULL DEFAULT now(),
            record_time timestamptz,
            CONSTRAINT pk_invocation PRIMARY KEY (tenant_id, run_id, path, attempt_group, call_index),
            CONSTRAINT ck_invocation_state CHECK (state IN ('dispatched', 'confirmed', 'failed', 'blocked')),
            CONSTRAINT ck_invocation_recorded CHECK (
                (state = 'dispatched') = (outcome IS NULL) AND (outcome IS NULL) = (record_time IS NULL)
                AND (outcome IS NULL) = (settle_state IS NULL)),
            CONSTRAINT ck_invocation_settle_state CHECK (settle_state IN ('free', 'pending', 'settled', 'lapsed')),
            CONSTRAINT ck_invocation_token CHECK (token IS NULL OR settle_state = 'pending')
        )""")
    op.execute("CREATE INDEX ix_invocation_pending ON invocation (record_time) WHERE settle_state = 'pending'")
    op.execute("CREATE INDEX ix_invocation_create_time ON invocation (create_time)")
    # A version never changes and never goes.
    tenant_table(op, "tool", app=("SELECT", "INSERT"), maintenance=("SELECT",))
    tenant_table(op, "invocation", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "UPDATE", "DELETE"))
    create_data_keys(op)


def downgrade(op: Operations) -> None:
    op.execute("DROP TABLE data_key, invocation, tool")
