"""The tables of batches that providers work on for hours. `migrations/` makes them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)

from services.inference.storage.metadata import metadata

model_batch: Final = Table(
    "model_batch",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("batch_id", Uuid, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("version", Integer, nullable=False),
    # Which deployment of this name it is; empty for one of the settings.
    Column("deployment_id", Text, nullable=False),
    Column("payee", Text, nullable=False),
    Column("grant_id", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("item_count", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("provider_id", Text, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_time", DateTime(timezone=True), nullable=False),
    Column("submitted_time", DateTime(timezone=True)),
    Column("ended_time", DateTime(timezone=True)),
    # When somebody is to look at it next, by the database's clock.
    Column("look_time", DateTime(timezone=True), nullable=False),
    # Until when one replica alone carries it on; the epoch says which one it was last.
    Column("lease_until", DateTime(timezone=True)),
    Column("lease_epoch", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("tenant_id", "batch_id", name="pk_model_batch"),
    Index("ix_model_batch_look_time", "look_time", postgresql_where=text("ended_time IS NULL")),
    Index("ix_model_batch_ended_time", "ended_time", postgresql_where=text("ended_time IS NOT NULL")),
)

model_batch_item: Final = Table(
    "model_batch_item",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("batch_id", Uuid, nullable=False),
    Column("place", Integer, nullable=False),
    # As the caller named it.
    Column("item_id", Text, nullable=False),
    # The prompt as it was asked, sealed; null once the item has come to its end.
    Column("request", LargeBinary),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("hold_id", Text, nullable=False, server_default=""),
    Column("charged_nano_usd", BigInteger),
    # What the answer begins as, and then what it is; sealed.
    Column("outcome", LargeBinary),
    PrimaryKeyConstraint("tenant_id", "batch_id", "place", name="pk_model_batch_item"),
)
