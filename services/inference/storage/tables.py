"""The table of calls. `migrations/` makes it."""

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
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from services.inference.storage.metadata import metadata

PK_CALL: Final = "pk_call"

call: Final = Table(
    "call",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("attempt_group", Integer, nullable=False),
    Column("call_index", Integer, nullable=False),
    # SHA-256 of the intent: the same id never stands for another one.
    Column("arguments_hash", LargeBinary, nullable=False),
    # Null, like all that follows, until the call has an outcome.
    Column("hold_id", Text),
    # The answer, that the law stopped it, or what it has still to judge; sealed.
    Column("outcome", LargeBinary),
    # Token counts in the order of `USAGE_CLASSES`.
    Column("usage_tokens", ARRAY(BigInteger)),
    Column("settle_state", Text),
    Column("charged_nano_usd", BigInteger),
    # Access token to settle with after a crash; sealed, null as soon as it is not needed.
    Column("token", LargeBinary),
    Column("created_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("recorded_time", DateTime(timezone=True)),
    # True while the outcome is an answer that the law has not judged.
    Column("unjudged", Boolean, nullable=False, server_default=text("false")),
    # Who makes the call, and until when nobody else does; null for calls that were claimed before this was written.
    Column("replica", Text),
    Column("claim_until", DateTime(timezone=True)),
    # Times that it was begun: one more than it was lost.
    Column("attempts", Integer, nullable=False, server_default=text("1")),
    # When the engine said that its fact is durable.
    Column("acknowledged_time", DateTime(timezone=True)),
    PrimaryKeyConstraint("tenant_id", "run_id", "path", "attempt_group", "call_index", name=PK_CALL),
    Index("ix_call_pending", "recorded_time", postgresql_where=text("settle_state = 'pending'")),
    Index("ix_call_created_time", "created_time"),
    Index("ix_call_acknowledged_time", "acknowledged_time", postgresql_where=text("acknowledged_time IS NOT NULL")),
)
