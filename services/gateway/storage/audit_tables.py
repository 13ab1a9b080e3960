"""Tables of the audit trail.

Chains belong to tenants under forced row-level security; what knows streams of services belongs to nobody. Requests may
only read. Background work may add to a chain and take the content of archived entries out, and can change no hash.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)


def audit_tables(metadata: MetaData) -> None:
    """Describes them."""
    _chains(metadata)
    _heads(metadata)
    _streams(metadata)


def _chains(metadata: MetaData) -> None:
    """Entries of tenants, and how far each chain has come."""
    content = text("canonical IS NOT NULL")
    Table(
        "audit_chain",
        metadata,
        Column("tenant_id", Uuid, nullable=False),
        Column("index", BigInteger, nullable=False),
        Column("record_time", DateTime(timezone=True), nullable=False),
        # The four of them are empty once the entry is archived.
        Column("actor", Text),
        Column("action", Text),
        Column("target", Text),
        Column("canonical", LargeBinary),
        Column("leaf_hash", LargeBinary, nullable=False),
        Column("chain_hash", LargeBinary, nullable=False),
        # Roots of the perfect trees of 2, 4, 8, … leaves that the entry ends: the tree needs no table of its own.
        Column("subtrees", LargeBinary, nullable=False),
        PrimaryKeyConstraint("tenant_id", "index", name="pk_audit_chain"),
        Index("ix_audit_chain_actor", "tenant_id", "actor", "index", postgresql_where=content),
        Index("ix_audit_chain_action", "tenant_id", "action", "index", postgresql_where=content),
        Index("ix_audit_chain_target", "tenant_id", "target", "index", postgresql_where=content),
        Index("ix_audit_chain_time", "tenant_id", "record_time", postgresql_where=content),
    )
    Table(
        "audit_tree",
        metadata,
        Column("tenant_id", Uuid, primary_key=True),
        Column("size", BigInteger, nullable=False),
        Column("chain_hash", LargeBinary, nullable=False),
        Column("peaks", LargeBinary, nullable=False),
        # Entries that the newest head covers, and that are archived.
        Column("signed_size", BigInteger, nullable=False),
        Column("archived_size", BigInteger, nullable=False),
        Index("ix_audit_tree_unsigned", "tenant_id", postgresql_where=text("size > signed_size")),
    )


def _heads(metadata: MetaData) -> None:
    """What of the chains is signed, and what lies in the archive."""
    Table(
        "audit_head",
        metadata,
        Column("tenant_id", Uuid, nullable=False),
        Column("size", BigInteger, nullable=False),
        # The head as it lies in the head store.
        Column("head", LargeBinary, nullable=False),
        PrimaryKeyConstraint("tenant_id", "size", name="pk_audit_head"),
    )
    Table(
        "audit_archive",
        metadata,
        Column("tenant_id", Uuid, nullable=False),
        Column("first_index", BigInteger, nullable=False),
        Column("end_index", BigInteger, nullable=False),
        PrimaryKeyConstraint("tenant_id", "first_index", name="pk_audit_archive"),
    )


def _streams(metadata: MetaData) -> None:
    """How far each stream of a service was collected, where it broke, and who has taken note of that."""
    Table(
        "audit_cursor",
        metadata,
        Column("service", Text, nullable=False),
        Column("stream", Integer, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("leaf_hash", LargeBinary, nullable=False),
        Column("again", Boolean, nullable=False),
        PrimaryKeyConstraint("service", "stream", name="pk_audit_cursor"),
    )
    Table(
        "audit_break",
        metadata,
        Column("service", Text, nullable=False),
        Column("stream", Integer, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("kind", Text, nullable=False),
        Column("notice_time", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("service", "stream", "position", "kind", name="pk_audit_break"),
    )
    # Only added to. One that is older than the break was last noticed counts for nothing.
    Table(
        "audit_acknowledgement",
        metadata,
        Column("service", Text, nullable=False),
        Column("stream", Integer, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("kind", Text, nullable=False),
        Column("acknowledge_time", DateTime(timezone=True), nullable=False),
        Column("actor", Text, nullable=False),
        Column("reason", Text, nullable=False),
        PrimaryKeyConstraint(
            "service", "stream", "position", "kind", "acknowledge_time", name="pk_audit_acknowledgement"
        ),
        ForeignKeyConstraint(
            ("service", "stream", "position", "kind"),
            ("audit_break.service", "audit_break.stream", "audit_break.position", "audit_break.kind"),
            name="fk_audit_acknowledgement",
        ),
    )
