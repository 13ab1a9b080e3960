"""Agents, runs, journal, leases and the durable inbox of commands."""

from datetime import UTC, datetime
from uuid import UUID

from alembic.operations import Operations

from services.meshkit.sql.data_keys import create_data_keys
from services.meshkit.sql.request_ids import create_request_ids
from services.meshkit.sql.rls import partition, run_together, tenant_table, untenanted_table

revision = "0001"
down_revision = None

#: Journal partitions are made a quarter each, ahead of time.
_FIRST_YEAR, _LAST_YEAR = 2026, 2028

_TABLES = """
CREATE TABLE agent (
    tenant_id uuid NOT NULL, name text NOT NULL, version text NOT NULL,
    major integer NOT NULL, minor integer NOT NULL, patch integer NOT NULL,
    definition bytea NOT NULL, digest bytea NOT NULL, create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_agent PRIMARY KEY (tenant_id, name, version));
CREATE INDEX ix_agent_version ON agent (tenant_id, name, major, minor, patch);
CREATE TABLE shard (
    shard smallint NOT NULL, database_name text NOT NULL,
    CONSTRAINT pk_shard PRIMARY KEY (shard));
INSERT INTO shard SELECT number, 'default' FROM generate_series(0, 63) AS number;
CREATE TABLE run (
    tenant_id uuid NOT NULL, run_id uuid NOT NULL, shard smallint NOT NULL, state smallint NOT NULL,
    view bytea NOT NULL, last_sequence bigint NOT NULL, grant_id text NOT NULL,
    owner text, lease_epoch bigint NOT NULL, lease_until timestamptz,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_run PRIMARY KEY (run_id),
    CONSTRAINT fk_run_shard FOREIGN KEY (shard) REFERENCES shard (shard));
CREATE INDEX ix_run_tenant ON run (tenant_id, run_id);
CREATE INDEX ix_run_lease ON run (lease_until) WHERE state < 5;
CREATE TABLE journal (
    tenant_id uuid NOT NULL, run_id uuid NOT NULL, first_sequence bigint NOT NULL, entry_count smallint NOT NULL,
    payload bytea NOT NULL, commitments bytea NOT NULL, record_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_journal PRIMARY KEY (run_id, first_sequence)) PARTITION BY RANGE (run_id);
CREATE TABLE turn_place (
    tenant_id uuid NOT NULL, run_id uuid NOT NULL, turn integer NOT NULL, sequence bigint NOT NULL,
    CONSTRAINT pk_turn_place PRIMARY KEY (run_id, turn));
CREATE TABLE run_command (
    tenant_id uuid NOT NULL, run_id uuid NOT NULL, command_id uuid NOT NULL, kind text NOT NULL, subject text NOT NULL,
    CONSTRAINT pk_run_command PRIMARY KEY (run_id, command_id))"""


def upgrade(op: Operations) -> None:
    """Makes the tables, their policies and the journal's first partitions."""
    run_together(op, _TABLES.split(";"))
    create_request_ids(op)
    create_data_keys(op)
    tenant_table(op, "agent", app=("SELECT", "INSERT"), maintenance=("SELECT",))
    tenant_table(op, "run", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "UPDATE"))
    # Facts are added, never changed; whole partitions are dropped by retention.
    tenant_table(op, "journal", app=("SELECT", "INSERT"), maintenance=("SELECT",))
    tenant_table(op, "turn_place", app=("SELECT", "INSERT"), maintenance=("SELECT",))
    tenant_table(op, "run_command", app=("SELECT", "INSERT", "DELETE"), maintenance=("SELECT",))
    untenanted_table(op, "shard", reason="names the database of each shard, the same for all tenants")
    partition(op, "journal_default", of="journal", bounds="DEFAULT")
    for year in range(_FIRST_YEAR, _LAST_YEAR + 1):
        for quarter in range(4):
            start = _first_id(year, quarter)
            end = _first_id(year + (quarter == 3), (quarter + 1) % 4)
            bounds = f"FOR VALUES FROM ('{start}') TO ('{end}')"
            partition(op, f"journal_{year}q{quarter + 1}", of="journal", bounds=bounds)


def downgrade(op: Operations) -> None:
    """Drops everything."""
    for table in ("run_command", "turn_place", "journal", "run", "shard", "agent", "request_id", "data_key"):
        op.execute(f"DROP TABLE {table}")


def _first_id(year: int, quarter: int) -> UUID:
    """Gives the lowest UUIDv7 of a quarter of a year (UTC)."""
    milliseconds = int(datetime(year, 1 + 3 * quarter, 1, tzinfo=UTC).timestamp() * 1000)
    return UUID(int=milliseconds << 80)
