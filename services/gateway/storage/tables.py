"""The gateway's tables.

All of them are under forced row-level security, `tenant` included: a tenant's row belongs to itself. What must look
across tenants (whose key is this? which tenants are there?) asks as role `maintenance`, which may only read.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
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
from sqlalchemy.dialects.postgresql import JSONB

from services.gateway.storage.audit_tables import audit_tables
from services.gateway.storage.people_tables import PEOPLE
from services.gateway.storage.rate_tables import rate_tables
from services.meshkit.sql.audit import audit_entry_tables
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
    # Value of `TenantState`.
    Column("state", Text, nullable=False, server_default="active"),
    Column("create_time", DateTime(timezone=True), nullable=False),
    # As `tenant_rows` writes them; what is absent was never set.
    Column("quotas", JSONB, nullable=False, server_default="{}"),
    Column("security_policy", JSONB, nullable=False, server_default="{}"),
    Column("revision", BigInteger, nullable=False, server_default="1"),
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
    Column("scopes", ARRAY(Text)),
    Column("service_account_id", Uuid),
    Column("last_use_time", DateTime(timezone=True)),
    Column("rotate_time", DateTime(timezone=True)),
    # The secret before the last rotation, while it goes on working.
    Column("previous_salt", LargeBinary),
    Column("previous_digest", LargeBinary),
    Column("previous_expire_time", DateTime(timezone=True)),
    Index("ix_api_key_service_account_id", "tenant_id", "service_account_id"),
    Index("ix_api_key_not_revoked", "tenant_id", postgresql_where=text("revoke_time IS NULL")),
)
SERVICE_ACCOUNT = Table(
    "service_account",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("project", Text),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("disable_time", DateTime(timezone=True)),
    Index("ix_service_account_tenant_id", "tenant_id", "id"),
)
#: Keys of the installation that sign access tokens.
SIGNING_KEY = Table(
    "signing_key",
    METADATA,
    Column("kid", Text, primary_key=True),
    Column("public", LargeBinary, nullable=False),
    # The private half, wrapped with the key-encryption key.
    Column("sealed", LargeBinary, nullable=False),
    Column("sign_time", DateTime(timezone=True), nullable=False),
)
#: One row. Its lock puts the changes of all transactions in the order of their commits.
GUARD_VERSION = Table(
    "guard_version",
    METADATA,
    Column("single", Boolean, primary_key=True, server_default=text("true")),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("single", name="ck_guard_version_single"),
)
#: What other services have to be told of, in order. Written by triggers, within the transaction of the change.
GUARD_CHANGE = Table(
    "guard_change",
    METADATA,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    # `key`, `tenant`, `revoked` or `signing_key`; `about` is the id, or the subject that was revoked.
    Column("noun", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("changed_tenant", Uuid),
    Column("change_time", DateTime(timezone=True), nullable=False),
    Index("ix_guard_change_change_time", "change_time"),
)
#: Tenants that are being erased, and those that were.
ERASURE = Table(
    "erasure",
    METADATA,
    Column("tenant_id", Uuid, primary_key=True),
    Column("start_time", DateTime(timezone=True), nullable=False),
    Column("end_time", DateTime(timezone=True)),
    Column("progress", JSONB, nullable=False),
    # Until then one gateway works on it.
    Column("lease_until", DateTime(timezone=True), nullable=False),
    Index("ix_erasure_open", "lease_until", postgresql_where=text("end_time IS NULL")),
)
#: `grant` is a word of SQL.
GRANT = Table(
    "run_grant",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    # The key that the caller held, none for a user. `subject` names the key, its service account or the user; rows of
    # older releases have one of the two.
    Column("api_key_id", Uuid),
    Column("subject", Text),
    Column("roles", ARRAY(Text), nullable=False),
    Column("project", Text),
    Column("scopes", ARRAY(Text)),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("revoke_time", DateTime(timezone=True)),
    UniqueConstraint("tenant_id", "run_id", name=UQ_GRANT_RUN),
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
    # How many relation tuples there are, here or at an OpenFGA server.
    Column("tuples", BigInteger, nullable=False, server_default="0"),
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
#: Changes of relations that are kept elsewhere, until they are made there.
RELATION_CHANGE = Table(
    "relation_change",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant_id", "number", name="relation_change_pkey"),
)
REQUEST_ID = request_id_table(METADATA)
for table in PEOPLE.sorted_tables:
    table.to_metadata(METADATA)
audit_tables(METADATA)
audit_entry_tables(METADATA)
rate_tables(METADATA)
