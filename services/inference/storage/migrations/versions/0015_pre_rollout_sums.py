"""Sums of what rollouts are judged by, so that no bad event and no score is read twice."""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of, run_together, tenant_table
from services.meshkit.sql.roles import roles_of

revision = "0015"
down_revision = "0014"

_TABLES = """
CREATE TABLE rollout_event_sum (
    tenant_id uuid NOT NULL,
    rollout_id uuid NOT NULL,
    metric text NOT NULL,
    canary boolean NOT NULL,
    share_permille integer NOT NULL,
    times bigint NOT NULL,
    CONSTRAINT pk_rollout_event_sum PRIMARY KEY (tenant_id, rollout_id, metric, canary, share_permille)
);
CREATE TABLE rollout_score_sum (
    tenant_id uuid NOT NULL,
    rollout_id uuid NOT NULL,
    step integer NOT NULL,
    canary boolean NOT NULL,
    units bigint NOT NULL,
    total double precision NOT NULL,
    lower_logs double precision[] NOT NULL,
    kept_logs double precision[] NOT NULL,
    CONSTRAINT pk_rollout_score_sum PRIMARY KEY (tenant_id, rollout_id, step, canary)
);
ALTER TABLE rollout_event ADD COLUMN judged boolean NOT NULL DEFAULT false;
ALTER TABLE rollout_score ADD COLUMN judged boolean NOT NULL DEFAULT false;
CREATE INDEX ix_rollout_event_fresh ON rollout_event (tenant_id, rollout_id) WHERE NOT judged;
CREATE INDEX ix_rollout_score_fresh ON rollout_score (tenant_id, rollout_id) WHERE NOT judged
"""


def upgrade(op: Operations) -> None:
    """Makes the tables.

    What is there already, and what a release before this one adds, is summed by the judge while its rollout runs, and
    by those who ask for it once it has ended.
    """
    run_together(op, _TABLES.split(";"))
    app = quoted(roles_of(database_of(op)).app)
    for seen in ("rollout_event", "rollout_score"):
        tenant_table(op, f"{seen}_sum", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))
        op.execute(f"GRANT UPDATE (judged) ON {seen} TO {app}")


def downgrade(op: Operations) -> None:
    """Drops them; a release before this one reads bad events and scores themselves."""
    op.execute("DROP TABLE rollout_event_sum, rollout_score_sum")
    for seen in ("rollout_event", "rollout_score"):
        op.execute(f"REVOKE UPDATE (judged) ON {seen} FROM {quoted(roles_of(database_of(op)).app)}")
        op.execute(f"ALTER TABLE {seen} DROP COLUMN judged")
