"""One price at a time for each name, however it is written, and an index of the prices that charges were made with."""

from alembic.operations import Operations

revision = "0011"
down_revision = "0010"


def upgrade(op: Operations) -> None:
    """Ends what a list in other letters should have ended: shipped prices by imported ones, and older by newer."""
    op.execute("""
        UPDATE price AS old SET end_time = greatest(old.start_time, newer.since)
        FROM (SELECT lower(provider) AS provider, lower(model) AS model, min(start_time) AS since FROM price
              WHERE imported AND (end_time IS NULL OR end_time > start_time) GROUP BY 1, 2) AS newer
        WHERE NOT old.imported AND lower(old.provider) = newer.provider AND lower(old.model) = newer.model
            AND (old.end_time IS NULL OR old.end_time > greatest(old.start_time, newer.since))""")
    op.execute("""
        UPDATE price AS old SET end_time = newer.since
        FROM (SELECT digest, lead(start_time) OVER (
                  PARTITION BY lower(provider), lower(model) ORDER BY start_time, digest) AS since
              FROM price WHERE end_time IS NULL OR end_time > start_time) AS newer
        WHERE old.digest = newer.digest AND newer.since IS NOT NULL
            AND (old.end_time IS NULL OR old.end_time > newer.since)""")
    op.execute("""
        CREATE INDEX ix_hold_priced ON hold (tenant_id, price_digest, model, created_time)
        WHERE state IN (3, 5) AND price_digest IS NOT NULL""")


def downgrade(op: Operations) -> None:
    """Drops the index; prices stay as they hold."""
    op.execute("DROP INDEX ix_hold_priced")
