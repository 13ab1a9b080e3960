"""Answers on trial, and how good somebody said they were."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, tenant_table

revision = "0014"
down_revision = "0013"

_TABLES = """
CREATE TABLE tried_answer (
    tenant_id uuid NOT NULL,
    hold_id uuid NOT NULL,
    rollout_id uuid NOT NULL,
    unit bytea NOT NULL,
    step integer NOT NULL,
    canary boolean NOT NULL,
    share_permille integer NOT NULL,
    project text NOT NULL,
    scored boolean NOT NULL DEFAULT false,
    answer_time timestamptz NOT NULL,
    CONSTRAINT pk_tried_answer PRIMARY KEY (tenant_id, hold_id)
);
CREATE INDEX ix_tried_answer_answer_time ON tried_answer (answer_time);
CREATE INDEX ix_tried_answer_rollout_id ON tried_answer (tenant_id, rollout_id);
CREATE TABLE rollout_score (
    tenant_id uuid NOT NULL,
    rollout_id uuid NOT NULL,
    unit bytea NOT NULL,
    step integer NOT NULL,
    canary boolean NOT NULL,
    share_permille integer NOT NULL,
    score_percent integer NOT NULL CONSTRAINT ck_rollout_score CHECK (score_percent BETWEEN 0 AND 100),
    usual_permille integer,
    first boolean NOT NULL,
    score_time timestamptz NOT NULL,
    CONSTRAINT pk_rollout_score PRIMARY KEY (tenant_id, rollout_id, unit, step)
);
CREATE UNIQUE INDEX uq_rollout_score_first ON rollout_score (tenant_id, rollout_id, unit) WHERE first;
CREATE INDEX ix_rollout_score_score_time ON rollout_score (tenant_id, rollout_id, score_time) WHERE NOT canary
"""


def upgrade(op: Operations) -> None:
    """Makes the tables."""
    run_together(op, _TABLES.split(";"))
    tenant_table(op, "tried_answer", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))
    tenant_table(op, "rollout_score", app=("SELECT", "INSERT"), maintenance=("SELECT", "DELETE"))


def downgrade(op: Operations) -> None:
    """Drops them."""
    op.execute("DROP TABLE tried_answer, rollout_score")
