"""Authorization models and relation tuples."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0002"
down_revision = "0001"

_TABLES = """
CREATE TABLE access_model (
    tenant_id uuid NOT NULL PRIMARY KEY,
    model text,
    revision bigint NOT NULL,
    governed text[] NOT NULL,
    write_time timestamptz NOT NULL
);
CREATE TABLE relation_tuple (
    tenant_id uuid NOT NULL,
    object_type text NOT NULL,
    object_id text NOT NULL,
    relation text NOT NULL,
    user_type text NOT NULL,
    user_id text NOT NULL,
    user_relation text NOT NULL,
    write_time timestamptz NOT NULL,
    CONSTRAINT relation_tuple_pkey
        PRIMARY KEY (tenant_id, object_type, object_id, relation, user_type, user_id, user_relation)
);
CREATE INDEX ix_relation_tuple_userset ON relation_tuple (tenant_id, object_type, object_id, relation)
    WHERE user_relation <> '';
CREATE INDEX ix_relation_tuple_user ON relation_tuple (tenant_id, user_type, user_id)
"""


def upgrade(op: Operations) -> None:
    """Makes the tables and their policies."""
    run_together(op, _TABLES.split(";"))
    tenant_table(op, "access_model", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))
    tenant_table(op, "relation_tuple", app=("SELECT", "INSERT", "DELETE"), maintenance=("SELECT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops both."""
    op.execute("DROP TABLE relation_tuple")
    op.execute("DROP TABLE access_model")
