"""Which replica makes a call and until when, how often it was begun, and whether its answer is durable elsewhere."""

from alembic.operations import Operations

revision = "0007"
down_revision = "0006"


def upgrade(op: Operations) -> None:
    """Adds the columns."""
    op.execute("""
        ALTER TABLE call
            ADD COLUMN replica text,
            ADD COLUMN claim_until timestamptz,
            ADD COLUMN attempts integer NOT NULL DEFAULT 1 CONSTRAINT ck_call_attempts CHECK (attempts > 0),
            ADD COLUMN acknowledged_time timestamptz""")
    op.execute("CREATE INDEX ix_call_acknowledged_time ON call (acknowledged_time) WHERE acknowledged_time IS NOT NULL")


def downgrade(op: Operations) -> None:
    """Drops them; a call that was lost is made again without a word."""
    op.execute("DROP INDEX ix_call_acknowledged_time")
    op.execute("""
        ALTER TABLE call
            DROP COLUMN acknowledged_time, DROP COLUMN attempts, DROP COLUMN claim_until, DROP COLUMN replica""")
