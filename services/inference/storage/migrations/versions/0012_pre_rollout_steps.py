"""Tallies of rollouts by step."""

from alembic.operations import Operations

revision = "0012"
down_revision = "0011"


def upgrade(op: Operations) -> None:
    """Adds the step, which a release before this one leaves at the first."""
    op.execute(
        "ALTER TABLE rollout_tally ADD COLUMN step integer NOT NULL DEFAULT 0,"
        " DROP CONSTRAINT pk_rollout_tally,"
        " ADD CONSTRAINT pk_rollout_tally PRIMARY KEY (tenant_id, rollout_id, replica, metric, canary, step)"
    )


def downgrade(op: Operations) -> None:
    """Keeps what was counted in the first step."""
    op.execute("DELETE FROM rollout_tally WHERE step > 0")
    op.execute(
        "ALTER TABLE rollout_tally DROP CONSTRAINT pk_rollout_tally,"
        " ADD CONSTRAINT pk_rollout_tally PRIMARY KEY (tenant_id, rollout_id, replica, metric, canary),"
        " DROP COLUMN step"
    )
