"""The tables of what routes have learnt. `migrations/` makes them."""

from typing import Final

from sqlalchemy import BigInteger, Column, DateTime, Double, Index, PrimaryKeyConstraint, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY

from services.inference.storage.metadata import metadata

bandit_arm: Final = Table(
    "bandit_arm",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("route", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("pulls", BigInteger, nullable=False),
    # Additive: replicas add what they have learnt to them.
    Column("sums", ARRAY(Double), nullable=False),
    Column("updated_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "route", "kind", "arm", name="pk_bandit_arm"),
    Index("ix_bandit_arm_updated_time", "updated_time"),
)

#: Answers that bandits have learnt from, kept until nobody may say any more how good they were.
learnt_answer: Final = Table(
    "learnt_answer",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    # Of the hold that paid for it.
    Column("hold_id", Uuid, nullable=False),
    Column("route", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("project", Text, nullable=False),
    # What the call is told apart by; no content.
    Column("features", ARRAY(Double), nullable=False),
    # What it earned before somebody said how good it was, and the weights of what is known and of the quality.
    Column("points", Double, nullable=False),
    Column("weight", Double, nullable=False),
    Column("quality_weight", Double, nullable=False),
    # Null until somebody says it.
    Column("quality", Double),
    Column("answer_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "hold_id", name="pk_learnt_answer"),
    Index("ix_learnt_answer_answer_time", "answer_time"),
)

#: How the answers of routes compare with those of their shadows; sums, and no content.
model_comparison: Final = Table(
    "model_comparison",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("route", Text, nullable=False),
    # Full name of the version.
    Column("shadow", Text, nullable=False),
    Column("pairs", BigInteger, nullable=False),
    Column("same_form", BigInteger, nullable=False),
    Column("similarity", Double, nullable=False),
    Column("main_failed", BigInteger, nullable=False),
    Column("shadow_failed", BigInteger, nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("main_us", BigInteger, nullable=False),
    Column("shadow_us", BigInteger, nullable=False),
    Column("main_nano_usd", BigInteger, nullable=False),
    Column("shadow_nano_usd", BigInteger, nullable=False),
    Column("main_characters", BigInteger, nullable=False),
    Column("shadow_characters", BigInteger, nullable=False),
    Column("updated_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "route", "shadow", name="pk_model_comparison"),
)
