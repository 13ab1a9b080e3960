"""Leases on shards in place of leases on runs: a replica owns shards, and one commit writes many runs."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, untenanted_table

revision = "0006"
down_revision = "0005"

_REPLICAS = """
    CREATE TABLE engine_replica (owner text NOT NULL, alive_until timestamptz NOT NULL,
        CONSTRAINT pk_engine_replica PRIMARY KEY (owner))"""


def upgrade(op: Operations) -> None:
    """Makes them. The columns of the old leases go: no release had them, and both kinds would drive the same runs."""
    run_together(
        op,
        [
            "ALTER TABLE shard ADD COLUMN owner text, ADD COLUMN lease_until timestamptz",
            "ALTER TABLE shard ADD COLUMN epoch bigint NOT NULL DEFAULT 0",
            _REPLICAS,
            "DROP INDEX ix_run_lease, ix_run_in_progress",
            "ALTER TABLE run DROP COLUMN owner, DROP COLUMN lease_epoch, DROP COLUMN lease_until",
            "ALTER TABLE run ADD COLUMN wake_time timestamptz",
            "ALTER TABLE run_command ADD COLUMN payload bytea",
            "CREATE INDEX ix_run_wake ON run (wake_time) WHERE wake_time IS NOT NULL AND state NOT IN (5, 6, 7)",
            "CREATE INDEX ix_run_open ON run (shard, run_id) WHERE state NOT IN (5, 6, 7)",
            "CREATE INDEX ix_run_in_progress ON run (tenant_id) WHERE state NOT IN (5, 6, 7)",
        ],
    )
    untenanted_table(op, "engine_replica", reason="says which replicas are alive, the same for all tenants", app=())


def downgrade(op: Operations) -> None:
    """Goes back to leases on runs; nobody holds one then."""
    run_together(
        op,
        [
            "DROP INDEX ix_run_open, ix_run_wake, ix_run_in_progress",
            "ALTER TABLE run DROP COLUMN wake_time",
            "ALTER TABLE run_command DROP COLUMN payload",
            "ALTER TABLE run ADD COLUMN owner text, ADD COLUMN lease_until timestamptz DEFAULT now()",
            "ALTER TABLE run ADD COLUMN lease_epoch bigint NOT NULL DEFAULT 1",
            "ALTER TABLE run ALTER COLUMN lease_epoch DROP DEFAULT, ALTER COLUMN lease_until DROP DEFAULT",
            "CREATE INDEX ix_run_lease ON run (lease_until) WHERE state < 5",
            "CREATE INDEX ix_run_in_progress ON run (tenant_id) WHERE state < 5",
            "DROP TABLE engine_replica",
            "ALTER TABLE shard DROP COLUMN owner, DROP COLUMN epoch, DROP COLUMN lease_until",
        ],
    )
