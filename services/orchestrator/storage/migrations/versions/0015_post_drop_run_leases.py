"""The leases on runs go: shards have them since 0006."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together

revision = "0015"
down_revision = "0014"


def upgrade(op: Operations) -> None:
    """Nothing reads or writes them any more."""
    run_together(
        op,
        [
            "DROP INDEX ix_run_lease",
            "ALTER TABLE run DROP COLUMN owner, DROP COLUMN lease_epoch, DROP COLUMN lease_until",
        ],
    )


def downgrade(op: Operations) -> None:
    """Makes them anew; nobody holds one."""
    run_together(
        op,
        [
            "ALTER TABLE run ADD COLUMN owner text, ADD COLUMN lease_until timestamptz",
            "ALTER TABLE run ADD COLUMN lease_epoch bigint NOT NULL DEFAULT 1",
            "CREATE INDEX ix_run_lease ON run (lease_until) WHERE state < 5",
        ],
    )
