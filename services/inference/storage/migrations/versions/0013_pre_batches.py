"""Batches that providers work on for hours, and their items."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0013"
down_revision = "0012"

_TABLES = """
CREATE TABLE model_batch (
    tenant_id uuid NOT NULL,
    batch_id uuid NOT NULL,
    deployment text NOT NULL,
    version integer NOT NULL,
    deployment_id text NOT NULL,
    payee text NOT NULL,
    grant_id text NOT NULL,
    project text NOT NULL,
    item_count integer NOT NULL,
    state text NOT NULL CONSTRAINT ck_model_batch_state CHECK (state IN
        ('accepted', 'held', 'submitting', 'running', 'cancelling', 'ended', 'cancelled', 'lost')),
    tries integer NOT NULL,
    provider_id text NOT NULL,
    cancel_requested boolean NOT NULL,
    reason text NOT NULL,
    created_time timestamptz NOT NULL,
    submitted_time timestamptz,
    ended_time timestamptz,
    look_time timestamptz NOT NULL,
    lease_until timestamptz,
    lease_epoch bigint NOT NULL DEFAULT 0,
    CONSTRAINT pk_model_batch PRIMARY KEY (tenant_id, batch_id),
    CONSTRAINT ck_model_batch_ended CHECK ((state IN ('ended', 'cancelled', 'lost')) = (ended_time IS NOT NULL))
);
CREATE INDEX ix_model_batch_look_time ON model_batch (look_time) WHERE ended_time IS NULL;
CREATE INDEX ix_model_batch_ended_time ON model_batch (ended_time) WHERE ended_time IS NOT NULL;
CREATE TABLE model_batch_item (
    tenant_id uuid NOT NULL,
    batch_id uuid NOT NULL,
    place integer NOT NULL,
    item_id text NOT NULL,
    request bytea,
    state text NOT NULL CONSTRAINT ck_model_batch_item_state CHECK (state IN
        ('waiting', 'sent', 'answered', 'failed', 'cancelled', 'unknown')),
    reason text NOT NULL DEFAULT '',
    hold_id text NOT NULL DEFAULT '',
    charged_nano_usd bigint,
    outcome bytea,
    CONSTRAINT pk_model_batch_item PRIMARY KEY (tenant_id, batch_id, place)
)
"""


def upgrade(op: Operations) -> None:
    """Makes the tables."""
    run_together(op, _TABLES.split(";"))
    tenant_table(op, "model_batch", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "UPDATE", "DELETE"))
    tenant_table(op, "model_batch_item", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops them."""
    op.execute("DROP TABLE model_batch, model_batch_item")
