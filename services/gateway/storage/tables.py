"""The gateway's tables.

All of them are under forced row-level security, `tenant` included: a tenant's row belongs to itself. What must look
across tenants (whose key is this? which tenants are there?) asks as role `maintenance`, which may only read.
"""

from sqlalchemy import ARRAY, Column, DateTime, LargeBinary, MetaData, Table, Text, UniqueConstraint, Uuid

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
    Column("api_key_id", Uuid, nullable=False),
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
REQUEST_ID = request_id_table(METADATA)
