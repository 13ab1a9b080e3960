"""Tables of the database of policy."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.meshkit.sql.audit import audit_entry_tables
from services.meshkit.sql.request_ids import request_id_table
from services.meshkit.sql.rls import UNTENANTED

METADATA: Final = MetaData()

BUNDLE: Final = Table(
    "bundle",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    # The version's numbers, so that 1.10.0 comes after 1.9.0.
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("patch", Integer, nullable=False),
    # SHA-256 of the canonical rules, hex.
    Column("digest", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("rule_count", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_time", DateTime(timezone=True), nullable=False),
    UniqueConstraint("tenant_id", "name", "version", name="uq_bundle_version"),
    Index("ix_bundle_page", "tenant_id", "name", "major", "minor", "patch"),
)

# What each tenant made its law; no row: the shipped bundle. No foreign key, for a shipped bundle has no row either.
LAW: Final = Table(
    "law",
    METADATA,
    Column("tenant_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    # Number of the activation over all tenants.
    Column("change", BigInteger, nullable=False),
    Column("activated_by", Text, nullable=False),
    Column("activated_time", DateTime(timezone=True), nullable=False),
    Index("ix_law_change", "change"),
)

# Counts activations. Its one row is locked until the activation commits, so their numbers become visible in order.
LAW_CHANGE: Final = Table(
    "law_change",
    METADATA,
    Column("single", Boolean, primary_key=True, server_default=text("true")),
    Column("change", BigInteger, nullable=False),
    comment=f"{UNTENANTED}counts activations over all tenants",
)

VIOLATION: Final = Table(
    "violation",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("verdict_id", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("severity", SmallInteger, nullable=False),
    Column("action", SmallInteger, nullable=False),
    Column("stage", SmallInteger, nullable=False),
    Column("operation", SmallInteger, nullable=False),
    # Why the rule matched. Never holds content.
    Column("rationale", Text, nullable=False),
    # Empty for a direct call.
    Column("run_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("agent_name", Text, nullable=False),
    # `name@version`
    Column("bundle", Text, nullable=False),
    Column("created_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "sequence", name="pk_violation"),
    Index("ix_violation_run", "tenant_id", "run_id", "sequence", postgresql_where=text("run_id <> ''")),
)

# Last sequence of each tenant. Locked until the violations commit, so sequences become visible in order, without gap.
VIOLATION_HEAD: Final = Table(
    "violation_head",
    METADATA,
    Column("tenant_id", Uuid, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)
audit_entry_tables(METADATA)

REQUEST_ID: Final = request_id_table(METADATA)
