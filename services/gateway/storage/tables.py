"""The gateway's tables.

All of them are under forced row-level security, `tenant` included: a tenant's row belongs to itself. What must look
across tenants (whose key is this? which tenants are there?) asks as role `maintenance`, which may only read.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.gateway.storage.audit_tables import audit_tables
from services.gateway.storage.people_tables import PEOPLE
from services.meshkit.sql.request_ids import request_id_table

METADATA = MetaData()

UQ_TENANT_NAME = "uq_tenant_name"
PK_API_KEY = "api_key_pkey"
UQ_GRANT_RUN = "uq_run_grant_run"

TENANT = Table(
    "tenant",
    METADATA,
    Column("tenant_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("residency_region", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    UniqueConstraint("name", name=UQ_TENANT_NAME),
)
API_KEY = Table(
    "api_key",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False, index=True),
    Column("display_name", Text, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("project", Text),
    Column("salt", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True)),
    Column("revoke_time", DateTime(timezone=True)),
)
#: `grant` is a word of SQL.
GRANT = Table(
    "run_grant",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    # The key behind it, as older releases read it; `subject` names keys, service accounts and users.
    Column("api_key_id", Uuid),
    Column("subject", Text),
    Column("roles", ARRAY(Text), nullable=False),
    Column("project", Text),
    Column("scopes", ARRAY(Text)),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("revoke_time", DateTime(timezone=True)),
    UniqueConstraint("tenant_id", "run_id", name=UQ_GRANT_RUN),
)
AUDIT = Table(
    "audit",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False, index=True),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("record_time", DateTime(timezone=True), nullable=False),
)
#: The authorization model of a tenant; no row, or no model in it, means the one that ships.
ACCESS_MODEL = Table(
    "access_model",
    METADATA,
    Column("tenant_id", Uuid, primary_key=True),
    Column("model", Text),
    Column("revision", BigInteger, nullable=False),
    # Types about whose objects something was ever written.
    Column("governed", ARRAY(Text), nullable=False),
    Column("write_time", DateTime(timezone=True), nullable=False),
)
#: Who has which relation to what. `user_id` is `*` for everyone; `user_relation` is empty for a user by itself.
RELATION_TUPLE = Table(
    "relation_tuple",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("object_type", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("relation", Text, nullable=False),
    Column("user_type", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("user_relation", Text, nullable=False),
    Column("write_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint(
        *("tenant_id", "object_type", "object_id", "relation", "user_type", "user_id", "user_relation"),
        name="relation_tuple_pkey",
    ),
)
Index(
    "ix_relation_tuple_userset",
    *(RELATION_TUPLE.c.tenant_id, RELATION_TUPLE.c.object_type, RELATION_TUPLE.c.object_id, RELATION_TUPLE.c.relation),
    postgresql_where=text("user_relation <> ''"),
)
Index("ix_relation_tuple_user", RELATION_TUPLE.c.tenant_id, RELATION_TUPLE.c.user_type, RELATION_TUPLE.c.user_id)
REQUEST_ID = request_id_table(METADATA)
for table in PEOPLE.sorted_tables:
    table.to_metadata(METADATA)
audit_tables(METADATA)
