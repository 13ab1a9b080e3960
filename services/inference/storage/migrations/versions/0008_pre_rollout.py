"""Rollouts, and what their judge goes by."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0008"
down_revision = "0007"

_TABLES = """
CREATE TABLE model_rollout (
    tenant_id uuid NOT NULL,
    rollout_id uuid NOT NULL,
    route text NOT NULL,
    spec jsonb NOT NULL,
    state text NOT NULL
        CONSTRAINT ck_model_rollout_state CHECK (state IN ('running', 'promoted', 'rolled_back')),
    step integer NOT NULL,
    share_permille integer NOT NULL
        CONSTRAINT ck_model_rollout_share CHECK (share_permille BETWEEN 0 AND 1000),
    reason text,
    decided_by text,
    revision bigint NOT NULL,
    started_time timestamptz NOT NULL,
    step_time timestamptz NOT NULL,
    decided_time timestamptz,
    CONSTRAINT pk_model_rollout PRIMARY KEY (tenant_id, rollout_id),
    CONSTRAINT ck_model_rollout_decided CHECK ((state = 'running') = (decided_time IS NULL))
);
CREATE UNIQUE INDEX uq_model_rollout_running ON model_rollout (tenant_id, route) WHERE state = 'running';
CREATE TABLE rollout_event (
    tenant_id uuid NOT NULL,
    rollout_id uuid NOT NULL,
    metric text NOT NULL,
    unit bytea NOT NULL,
    canary boolean NOT NULL,
    share_permille integer NOT NULL,
    event_time timestamptz NOT NULL,
    CONSTRAINT pk_rollout_event PRIMARY KEY (tenant_id, rollout_id, metric, unit)
);
CREATE TABLE rollout_tally (
    tenant_id uuid NOT NULL,
    rollout_id uuid NOT NULL,
    replica text NOT NULL,
    metric text NOT NULL,
    canary boolean NOT NULL,
    units bigint NOT NULL,
    bad bigint NOT NULL,
    CONSTRAINT pk_rollout_tally PRIMARY KEY (tenant_id, rollout_id, replica, metric, canary)
)
"""


def upgrade(op: Operations) -> None:
    """Makes the tables; replicas follow rollouts as they follow routes."""
    run_together(op, _TABLES.split(";"))
    for table in ("model_rollout", "rollout_tally"):
        tenant_table(op, table, app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))
    tenant_table(op, "rollout_event", app=("SELECT", "INSERT"), maintenance=("SELECT", "DELETE"))
    op.execute(
        "CREATE CONSTRAINT TRIGGER registry_change AFTER INSERT OR UPDATE OR DELETE ON model_rollout"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_registry_change('rollout', 'rollout_id')"
    )


def downgrade(op: Operations) -> None:
    """Drops them."""
    op.execute("DROP TABLE model_rollout, rollout_event, rollout_tally")
