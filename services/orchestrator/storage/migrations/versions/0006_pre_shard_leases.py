"""Leases on shards in place of leases on runs: a replica owns shards, and one commit writes many runs."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, untenanted_table

revision = "0006"
down_revision = "0005"

_REPLICAS = """
    CREATE TABLE engine_replica (owner text NOT NULL, alive_until timestamptz NOT NULL,
        CONSTRAINT pk_engine_replica PRIMARY KEY (owner))"""


def upgrade(op: Operations) -> None:
    """Makes them. The old leases stay until 0015, with what an insert that does not know them needs.

    Code before this one takes no run up that this one began: its lease never ran out. The other way round it is fenced
    by the journal, in which a fact is recorded once.
    """
    run_together(
        op,
        [
            "ALTER TABLE shard ADD COLUMN owner text, ADD COLUMN lease_until timestamptz",
            "ALTER TABLE shard ADD COLUMN epoch bigint NOT NULL DEFAULT 0",
            _REPLICAS,
            "ALTER TABLE run ALTER COLUMN lease_epoch SET DEFAULT 1",
            "ALTER TABLE run ADD COLUMN wake_time timestamptz",
            "ALTER TABLE run_command ADD COLUMN payload bytea",
            "CREATE INDEX ix_run_wake ON run (wake_time) WHERE wake_time IS NOT NULL AND state NOT IN (5, 6, 7)",
            "CREATE INDEX ix_run_open ON run (shard, run_id) WHERE state NOT IN (5, 6, 7)",
            "DROP INDEX ix_run_in_progress",
            "CREATE INDEX ix_run_in_progress ON run (tenant_id) WHERE state NOT IN (5, 6, 7)",
        ],
    )
    untenanted_table(op, "engine_replica", reason="says which replicas are alive, the same for all tenants", app=())


def downgrade(op: Operations) -> None:
    """Goes back to leases on runs; those that nobody held have run out then."""
    run_together(
        op,
        [
            "DROP INDEX ix_run_open, ix_run_wake, ix_run_in_progress",
            "ALTER TABLE run DROP COLUMN wake_time",
            "ALTER TABLE run_command DROP COLUMN payload",
            "ALTER TABLE run ALTER COLUMN lease_epoch DROP DEFAULT",
            # Written anew as a whole: an UPDATE would see the rows of no tenant.
            "ALTER TABLE run ALTER COLUMN lease_until TYPE timestamptz USING coalesce(lease_until, now())",
            "CREATE INDEX ix_run_in_progress ON run (tenant_id) WHERE state < 5",
            "DROP TABLE engine_replica",
            "ALTER TABLE shard DROP COLUMN owner, DROP COLUMN epoch, DROP COLUMN lease_until",
        ],
    )
