"""The tables of tools. `migrations/` makes them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from services.meshkit.sql.audit import audit_entry_tables
from services.meshkit.sql.data_keys import data_key_table
from services.meshkit.sql.request_ids import request_id_table

metadata: Final = MetaData()

PK_TOOL: Final = "pk_tool"
PK_INVOCATION: Final = "pk_invocation"

TOOL: Final = Table(
    "tool",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("tool_id", Uuid, nullable=False),
    # Ordered by bytes, like names in code, wherever the database stands.
    Column("name", Text(collation="C"), nullable=False),
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("patch", Integer, nullable=False),
    # Canonical JSON (RFC 8785) and its SHA-256.
    Column("definition", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "name", "major", "minor", "patch", name=PK_TOOL),
)

INVOCATION: Final = Table(
    "invocation",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("attempt_group", Integer, nullable=False),
    Column("call_index", Integer, nullable=False),
    # SHA-256 of tool and arguments: the same id never stands for others.
    Column("arguments_hash", LargeBinary, nullable=False),
    # `name@version`.
    Column("tool", Text, nullable=False),
    Column("state", Text, nullable=False),
    # Empty when the result came from cache.
    Column("hold_id", Text, nullable=False),
    # The result, or that the law keeps it back; sealed. Null while dispatched.
    Column("outcome", LargeBinary),
    Column("settle_state", Text),
    Column("charged_nano_usd", BigInteger),
    # Access token to settle with after a crash; sealed, null as soon as it is not needed.
    Column("token", LargeBinary),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("record_time", DateTime(timezone=True)),
    PrimaryKeyConstraint("tenant_id", "run_id", "path", "attempt_group", "call_index", name=PK_INVOCATION),
    Index("ix_invocation_pending", "record_time", postgresql_where=text("settle_state = 'pending'")),
    Index("ix_invocation_create_time", "create_time"),
)

data_key: Final = data_key_table(metadata)
audit_entry_tables(metadata)

request_id: Final = request_id_table(metadata)
