"""Makes memories and the data keys that seal them."""

from alembic.operations import Operations

from services.meshkit.sql.data_keys import create_data_keys
from services.meshkit.sql.rls import tenant_table

revision = "0001"
down_revision = None


def upgrade(op: Operations) -> None:
    """Makes the tables and their policies."""
    op.execute("""
        CREATE TABLE memory (
            tenant_id uuid NOT NULL,
            memory_id uuid NOT NULL,
            session_id uuid,
            agent_name text NOT NULL,
            tags text[] NOT NULL,
            payload bytea,
            call_key bytea NOT NULL,
            request_digest bytea NOT NULL,
            verdict_id text NOT NULL,
            create_time timestamptz NOT NULL,
            expire_time timestamptz,
            forget_time timestamptz,
            placement smallint NOT NULL,
            lease_until timestamptz,
            embed_model text,
            embed_dimensions integer,
            vector bytea,
            CONSTRAINT pk_memory PRIMARY KEY (tenant_id, memory_id),
            CONSTRAINT uq_memory_call UNIQUE (tenant_id, call_key),
            CONSTRAINT ck_memory_forgotten CHECK ((payload IS NULL) = (forget_time IS NOT NULL)),
            CONSTRAINT ck_memory_vector CHECK (
                (vector IS NULL) = (embed_model IS NULL) AND (vector IS NULL) = (embed_dimensions IS NULL)),
            CONSTRAINT ck_memory_placement CHECK (
                placement BETWEEN 0 AND 4 AND (placement NOT IN (2, 3) OR vector IS NOT NULL)
                AND (forget_time IS NULL OR placement IN (0, 4)))
        )""")
    op.execute("CREATE INDEX ix_memory_page ON memory (tenant_id, create_time, memory_id)")
    op.execute("""
        CREATE INDEX ix_memory_ring ON memory (tenant_id, session_id, create_time, memory_id)
        WHERE session_id IS NOT NULL AND forget_time IS NULL""")
    op.execute("CREATE INDEX ix_memory_agent ON memory (tenant_id, agent_name, create_time, memory_id)")
    op.execute("CREATE INDEX ix_memory_pending ON memory (tenant_id, memory_id) WHERE placement = 1")
    op.execute("CREATE INDEX ix_memory_unplaced ON memory (placement, memory_id) WHERE placement IN (2, 4)")
    op.execute("CREATE INDEX ix_memory_placed ON memory (embed_model, embed_dimensions) WHERE placement = 3")
    tenant_table(op, "memory", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "UPDATE"))
    create_data_keys(op)


def downgrade(op: Operations) -> None:
    """Drops everything."""
    op.execute("DROP TABLE data_key, memory")
