"""Makes the memory of calls and the tenants' data keys."""

from alembic.operations import Operations

from services.meshkit.sql.data_keys import create_data_keys
from services.meshkit.sql.rls import tenant_table

revision = "0001"
down_revision = None


def upgrade(op: Operations) -> None:
    op.execute("""
        CREATE TABLE call (
            tenant_id uuid NOT NULL,
            run_id text NOT NULL,
            path text NOT NULL,
            attempt_group integer NOT NULL,
            call_index integer NOT NULL,
            arguments_hash bytea NOT NULL,
            hold_id text,
            outcome bytea,
            usage_tokens bigint[],
            settle_state text,
            charged_nano_usd bigint,
            token bytea,
            created_time timestamptz NOT NULL DEFAULT now(),
            recorded_time timestamptz,
            CONSTRAINT pk_call PRIMARY KEY (tenant_id, run_id, path, attempt_group, call_index),
            CONSTRAINT ck_call_recorded CHECK (
                (hold_id IS NULL) = (outcome IS NULL) AND (hold_id IS NULL) = (recorded_time IS NULL)
                AND (hold_id IS NULL) = (settle_state IS NULL) AND (hold_id IS NULL) = (usage_tokens IS NULL)),
            CONSTRAINT ck_call_settle_state CHECK (settle_state IN ('pending', 'settled', 'assumed', 'lapsed')),
            CONSTRAINT ck_call_token CHECK ((token IS NOT NULL) = (settle_state IS NOT DISTINCT FROM 'pending'))
        )""")
    op.execute("CREATE INDEX ix_call_pending ON call (recorded_time) WHERE settle_state = 'pending'")
    op.execute("CREATE INDEX ix_call_created_time ON call (created_time)")
    tenant_table(op, "call", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "UPDATE", "DELETE"))
    create_data_keys(op)


def downgrade(op: Operations) -> None:
    op.execute("DROP TABLE data_key, call")
