"""Token buckets of the rate limits."""

from alembic.operations import Operations

from services.meshkit.sql.rls import run_together, untenanted_table

revision = "0008"
down_revision = "0007"

# Not logged: a crash of Postgres empties it, which costs one burst a bucket, and no lease waits for the disk.
# Room is left in each page, so that an update stays on it and touches no index.
_TABLES = """
CREATE UNLOGGED TABLE rate_bucket (
    bucket text COLLATE "C" NOT NULL CHECK (length(bucket) BETWEEN 1 AND 300),
    per_second double precision NOT NULL CHECK (per_second > 0),
    burst double precision NOT NULL CHECK (burst >= 1),
    tokens double precision NOT NULL,
    refill_time timestamptz NOT NULL,
    asked integer NOT NULL,
    spent integer NOT NULL,
    unused integer NOT NULL,
    granted integer NOT NULL,
    CONSTRAINT pk_rate_bucket PRIMARY KEY (bucket)
) WITH (fillfactor = 60)
"""


def upgrade(op: Operations) -> None:
    """Makes the table."""
    run_together(op, [_TABLES])
    untenanted_table(
        op, "rate_bucket", reason="counts calls of tenants, callers and addresses alike; holds no content", app=()
    )


def downgrade(op: Operations) -> None:
    """Drops it."""
    op.execute("DROP TABLE rate_bucket")
