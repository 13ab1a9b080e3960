"""Tables of the orchestrator's database."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.meshkit.sql.audit import audit_entry_tables
from services.meshkit.sql.data_keys import data_key_table
from services.meshkit.sql.request_ids import request_id_table

METADATA: Final = MetaData()

AGENT: Final = Table(
    "agent",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    # The version's numbers, so that 1.10.0 comes after 1.9.0.
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("patch", Integer, nullable=False),
    # Canonical JSON of the definition.
    Column("definition", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "name", "version", name="pk_agent"),
    Index("ix_agent_version", "tenant_id", "name", "major", "minor", "patch"),
)

WORKFLOW: Final = Table(
    "workflow",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    # The version's numbers, as of an agent.
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("patch", Integer, nullable=False),
    # Canonical JSON of the definition, every reference pinned.
    Column("definition", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    # Digest of the definition as it was written: the same file again is the same version, whatever agents came since.
    Column("written_digest", LargeBinary, nullable=False),
    # What lists and other workflows ask for, so that they need not read the definition.
    Column("description", Text, nullable=False),
    Column("deadline", Interval),
    Column("input_schema", LargeBinary),
    Column("node_count", Integer, nullable=False),
    Column("depth", SmallInteger, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "name", "version", name="pk_workflow"),
    Index("ix_workflow_version", "tenant_id", "name", "major", "minor", "patch"),
)

SHARD: Final = Table(
    "shard",
    METADATA,
    Column("shard", SmallInteger, nullable=False),
    # Names the database that holds the shard's runs, so that shards can spread over several.
    Column("database_name", Text, nullable=False),
    # `replica/incarnation` that drives the shard's runs; null when nobody does.
    Column("owner", Text),
    # Fencing number: grows with every change of hands.
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    # Until when the owner may write, in database time.
    Column("lease_until", DateTime(timezone=True)),
    PrimaryKeyConstraint("shard", name="pk_shard"),
)

ENGINE_REPLICA: Final = Table(
    "engine_replica",
    METADATA,
    # `replica/incarnation`.
    Column("owner", Text, nullable=False),
    # Until when it counts as alive, in database time.
    Column("alive_until", DateTime(timezone=True), nullable=False),
    # `host:port` at which the others reach it; null when they do not.
    Column("address", Text),
    PrimaryKeyConstraint("owner", name="pk_engine_replica"),
)

PK_RUN: Final = "pk_run"

RUN: Final = Table(
    "run",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("shard", SmallInteger, ForeignKey("shard.shard", name="fk_run_shard"), nullable=False),
    # What callers see of it: 0 a session, 1 a run.
    Column("kind", SmallInteger, nullable=False, server_default=text("0")),
    # Number of the run's state; terminal states never change.
    Column("state", SmallInteger, nullable=False),
    # What callers see of the run, sealed.
    Column("view", LargeBinary, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("grant_id", Text, nullable=False),
    # When the run has to be looked at next, though nothing arrives; null for never.
    Column("wake_time", DateTime(timezone=True)),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Of its file in the archive; null while its facts are in the journal.
    Column("archive_parts", Integer),
    PrimaryKeyConstraint("run_id", name=PK_RUN),
    Index("ix_run_tenant", "tenant_id", "run_id"),
    Index("ix_run_wake", "wake_time", postgresql_where=text("wake_time IS NOT NULL AND state NOT IN (5, 6, 7)")),
    Index("ix_run_open", "shard", "run_id", postgresql_where=text("state NOT IN (5, 6, 7)")),
    Index(
        "ix_run_archivable",
        "tenant_id",
        "run_id",
        postgresql_where=text("state IN (5, 6, 7) AND archive_parts IS NULL"),
    ),
    Index("ix_run_in_progress", "tenant_id", postgresql_where=text("state NOT IN (5, 6, 7)")),
)

JOURNAL: Final = Table(
    "journal",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    # Sequence of the row's first fact; the others follow without gap.
    Column("first_sequence", BigInteger, nullable=False),
    Column("entry_count", Integer, nullable=False),
    # The facts of one commit, sealed with the tenant's data key.
    Column("payload", LargeBinary, nullable=False),
    # SHA-256 commitment of each fact, 32 bytes each, in order.
    Column("commitments", LargeBinary, nullable=False),
    Column("record_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("run_id", "first_sequence", name="pk_journal"),
    # A run id begins with its time of creation, so ranges of ids are ranges of time: one partition a month.
    postgresql_partition_by="RANGE (run_id)",
)

#: What of the journal lies in the object store. An object that has no row here is deleted.
JOURNAL_BLOB: Final = Table(
    "journal_blob",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    # Names the object.
    Column("digest", LargeBinary, nullable=False),
    # Sequence of the fact.
    Column("sequence", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("run_id", "digest", name="pk_journal_blob"),
)

#: Bytes of a tenant's journal and objects. Its rows are added up: whoever holds a slot adds to it alone.
STORAGE_USED: Final = Table(
    "storage_used",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    # Of ticks: a shard that the replica holds. Of starts: 64 more than the run's shard. Of the archive: -1.
    Column("slot", SmallInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "slot", name="pk_storage_used"),
)

TURN_PLACE: Final = Table(
    "turn_place",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    # Number of the turn in the order of its record, from 1.
    Column("turn", Integer, nullable=False),
    # Sequence of the fact that holds it.
    Column("sequence", BigInteger, nullable=False),
    PrimaryKeyConstraint("run_id", "turn", name="pk_turn_place"),
)

RUN_COMMAND: Final = Table(
    "run_command",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("command_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    # What a signal carries, sealed; null for other kinds.
    Column("payload", LargeBinary),
    PrimaryKeyConstraint("run_id", "command_id", name="pk_run_command"),
)

#: What a run that has succeeded was estimated at before it was learnt from, and what it took.
RUN_ESTIMATE: Final = Table(
    "run_estimate",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    # `workflow:<name>` or `session:<mode>/<strategy>`.
    Column("name", Text, nullable=False),
    # `name@version`; of a session its mode.
    Column("reference", Text, nullable=False),
    Column("project", Text, nullable=False),
    # Low bound, median and high bound of input tokens, output tokens, nano-USD and milliseconds.
    Column("estimated", ARRAY(BigInteger), nullable=False),
    Column("actual", ARRAY(BigInteger), nullable=False),
    # Runs that the estimate rested on.
    Column("calibrated_on", Integer, nullable=False),
    Column("end_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("run_id", name="pk_run_estimate"),
    Index("ix_run_estimate_tenant", "tenant_id", "run_id"),
    Index("ix_run_estimate_name", "tenant_id", "name", "run_id"),
)

#: Runs that are to be learnt from once they have ended.
ESTIMATE_PENDING: Final = Table(
    "estimate_pending",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    PrimaryKeyConstraint("tenant_id", "run_id", name="pk_estimate_pending"),
)

#: Up to which run those of a tenant were gathered.
ESTIMATE_PLACE: Final = Table(
    "estimate_place",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    PrimaryKeyConstraint("tenant_id", name="pk_estimate_place"),
)

#: What is learnt: of agents with their models, of other work, of the runs of a name; and what models cost.
RUN_HABITS: Final = Table(
    "run_habits",
    METADATA,
    Column("tenant_id", Uuid, nullable=False),
    # `turn`, `work`, `run` or `price`.
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("habits", JSONB, nullable=False),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "kind", "name", name="pk_run_habits"),
    Index("ix_run_habits_age", "tenant_id", "update_time"),
)

REQUEST_ID: Final = request_id_table(METADATA)
DATA_KEY: Final = data_key_table(METADATA)
audit_entry_tables(METADATA)
