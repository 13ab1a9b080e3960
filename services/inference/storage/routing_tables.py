"""The table of what bandits have learnt. `migrations/` makes it."""

from typing import Final

from sqlalchemy import BigInteger, Column, DateTime, Double, PrimaryKeyConstraint, Table, Text, Uuid
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
)
