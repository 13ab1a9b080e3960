"""The tables of memory, as the migrations make them."""

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)

from services.meshkit.sql.audit import audit_entry_tables
from services.meshkit.sql.data_keys import data_key_table
from services.meshkit.sql.request_ids import request_id_table

METADATA: Final = MetaData()

MEMORY: Final = Table(
    "memory",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("memory_id", Uuid, nullable=False),
    # Empty for a memory of no project.
    Column("project", Text, nullable=False, server_default=""),
    Column("session_id", Uuid),
    # Empty for a memory of no agent.
    Column("agent_name", Text, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    # Parts with their labels and the call's context, sealed; null once forgotten.
    Column("payload", LargeBinary),
    # SHA-256 of the call id: a call makes one memory, whatever is retried.
    Column("call_key", LargeBinary, nullable=False),
    Column("request_digest", LargeBinary, nullable=False),
    Column("verdict_id", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True)),
    Column("forget_time", DateTime(timezone=True)),
    # `domain.memory.Placement`.
    Column("placement", SmallInteger, nullable=False),
    # Until then one worker embeds it.
    Column("lease_until", DateTime(timezone=True)),
    Column("embed_model", Text),
    Column("embed_dimensions", Integer),
    # The vector, sealed. Recorded, so that the vector store can be filled again without embedding anew.
    Column("vector", LargeBinary),
    PrimaryKeyConstraint("tenant_id", "memory_id", name="pk_memory"),
    UniqueConstraint("tenant_id", "call_key", name="uq_memory_call"),
)
Index("ix_memory_page", MEMORY.c.tenant_id, MEMORY.c.create_time, MEMORY.c.memory_id)
Index(
    "ix_memory_ring",
    MEMORY.c.tenant_id,
    MEMORY.c.session_id,
    MEMORY.c.create_time,
    MEMORY.c.memory_id,
    postgresql_where=MEMORY.c.session_id.isnot(None) & MEMORY.c.forget_time.is_(None),
)
Index("ix_memory_agent", MEMORY.c.tenant_id, MEMORY.c.agent_name, MEMORY.c.create_time, MEMORY.c.memory_id)
Index("ix_memory_pending", MEMORY.c.tenant_id, MEMORY.c.memory_id, postgresql_where=MEMORY.c.placement == 1)
Index("ix_memory_unplaced", MEMORY.c.placement, MEMORY.c.memory_id, postgresql_where=MEMORY.c.placement.in_((2, 4)))
Index("ix_memory_placed", MEMORY.c.embed_model, MEMORY.c.embed_dimensions, postgresql_where=MEMORY.c.placement == 3)

#: Bytes of the sealed payloads that each tenant has stored.
STORAGE_USED: Final = Table(
    "storage_used",
    METADATA,
    Column("tenant_id", Uuid, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)

DATA_KEY: Final = data_key_table(METADATA)
audit_entry_tables(METADATA)

REQUEST_ID: Final = request_id_table(METADATA)
