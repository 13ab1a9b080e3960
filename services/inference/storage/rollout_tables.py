"""The tables of rollouts. `migrations/` makes them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.inference.storage.metadata import metadata

UQ_MODEL_ROLLOUT_RUNNING: Final = "uq_model_rollout_running"

model_rollout: Final = Table(
    "model_rollout",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("rollout_id", Uuid, nullable=False),
    Column("route", Text, nullable=False),
    # Versions, kind and steps, as they were asked for.
    Column("spec", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("share_permille", Integer, nullable=False),
    Column("reason", Text),
    Column("decided_by", Text),
    Column("revision", BigInteger, nullable=False),
    Column("started_time", DateTime(timezone=True), nullable=False),
    # When the step began.
    Column("step_time", DateTime(timezone=True), nullable=False),
    Column("decided_time", DateTime(timezone=True)),
    PrimaryKeyConstraint("tenant_id", "rollout_id", name="pk_model_rollout"),
    Index(UQ_MODEL_ROLLOUT_RUNNING, "tenant_id", "route", unique=True, postgresql_where=text("state = 'running'")),
)

#: Bad events, at most one of a metric for each unit that is assigned to a side.
rollout_event: Final = Table(
    "rollout_event",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("rollout_id", Uuid, nullable=False),
    Column("metric", Text, nullable=False),
    Column("unit", LargeBinary, nullable=False),
    Column("canary", Boolean, nullable=False),
    # The canary's share when it happened: how likely it was the canary's if that is no worse.
    Column("share_permille", Integer, nullable=False),
    Column("event_time", DateTime(timezone=True), nullable=False),
    # True once it is in a sum.
    Column("judged", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("tenant_id", "rollout_id", "metric", "unit", name="pk_rollout_event"),
    Index("ix_rollout_event_fresh", "tenant_id", "rollout_id", postgresql_where=text("NOT judged")),
)

#: How many bad events were alike, of those that the judge has looked at.
rollout_event_sum: Final = Table(
    "rollout_event_sum",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("rollout_id", Uuid, nullable=False),
    Column("metric", Text, nullable=False),
    Column("canary", Boolean, nullable=False),
    Column("share_permille", Integer, nullable=False),
    Column("times", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "rollout_id", "metric", "canary", "share_permille", name="pk_rollout_event_sum"),
)

#: Units that each replica has seen in each step, and how many of them had a bad event.
rollout_tally: Final = Table(
    "rollout_tally",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("rollout_id", Uuid, nullable=False),
    Column("replica", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("canary", Boolean, nullable=False),
    Column("step", Integer, nullable=False, server_default="0"),
    Column("units", BigInteger, nullable=False),
    Column("bad", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "rollout_id", "replica", "metric", "canary", "step", name="pk_rollout_tally"),
)

#: Answers of both sides, kept until nobody may say any more how good they were, or their rollout has ended.
tried_answer: Final = Table(
    "tried_answer",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    # Of the hold that paid for it.
    Column("hold_id", Uuid, nullable=False),
    Column("rollout_id", Uuid, nullable=False),
    Column("unit", LargeBinary, nullable=False),
    Column("step", Integer, nullable=False),
    Column("canary", Boolean, nullable=False),
    Column("share_permille", Integer, nullable=False),
    Column("project", Text, nullable=False),
    # True once somebody has said it.
    Column("scored", Boolean, nullable=False, server_default=false()),
    Column("answer_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "hold_id", name="pk_tried_answer"),
    Index("ix_tried_answer_answer_time", "answer_time"),
    Index("ix_tried_answer_rollout_id", "tenant_id", "rollout_id"),
)

#: How good somebody said that answers were: the first score of each unit in each step.
rollout_score: Final = Table(
    "rollout_score",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("rollout_id", Uuid, nullable=False),
    Column("unit", LargeBinary, nullable=False),
    Column("step", Integer, nullable=False),
    Column("canary", Boolean, nullable=False),
    Column("share_permille", Integer, nullable=False),
    Column("score_percent", Integer, nullable=False),
    # What the stable version's were on average before it; null: too few were known.
    Column("usual_permille", Integer),
    # The first of its unit in the whole rollout.
    Column("first", Boolean, nullable=False),
    Column("score_time", DateTime(timezone=True), nullable=False),
    # True once it is in a sum.
    Column("judged", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("tenant_id", "rollout_id", "unit", "step", name="pk_rollout_score"),
    Index("uq_rollout_score_first", "tenant_id", "rollout_id", "unit", unique=True, postgresql_where=text("first")),
    Index("ix_rollout_score_score_time", "tenant_id", "rollout_id", "score_time", postgresql_where=text("NOT canary")),
    Index("ix_rollout_score_fresh", "tenant_id", "rollout_id", postgresql_where=text("NOT judged")),
)

#: What became of bets on the scores of one side in one step (`domain/rollout/scores.py`), of those that were looked at.
rollout_score_sum: Final = Table(
    "rollout_score_sum",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("rollout_id", Uuid, nullable=False),
    Column("step", Integer, nullable=False),
    Column("canary", Boolean, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("total", Double, nullable=False),
    Column("lower_logs", ARRAY(Double), nullable=False),
    Column("kept_logs", ARRAY(Double), nullable=False),
    PrimaryKeyConstraint("tenant_id", "rollout_id", "step", "canary", name="pk_rollout_score_sum"),
)
