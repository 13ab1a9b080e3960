"""Since when a budget counts; the quota, and what the tenant set beside it; a warning for budgets that never had one.

While replicas of the release before still run, they follow quotas in `tenant_quota` and give back what they did before.
"""

from alembic.operations import Operations

revision = "0013"
down_revision = "0012"

_COLUMNS = (
    "counted_from timestamptz",
    "quota_nano_usd bigint NOT NULL DEFAULT 0",
    "own_limit_nano_usd bigint",
    "own_mode smallint",
    "own_period smallint",
    "own_zone text",
)


def upgrade(op: Operations) -> None:
    """Adds the columns. What is in a period that goes on is not known, so nothing comes back into it until it turns."""
    op.execute(f"ALTER TABLE budget {', '.join(f'ADD COLUMN {column}' for column in _COLUMNS)}")
    # Nobody could set 0: it meant 80.
    op.execute("ALTER TABLE budget ALTER COLUMN warn_at SET DEFAULT 80")
    op.execute("""
        UPDATE budget SET
            warn_at = CASE warn_at WHEN 0 THEN 80 ELSE warn_at END,
            counted_from = CASE period WHEN 0 THEN created_time END,
            own_limit_nano_usd = CASE scope WHEN 1 THEN limit_nano_usd END,
            revision = revision + 1""")
    # A limit that is the quota was set by it.
    op.execute("""
        UPDATE budget SET
            quota_nano_usd = max_cost_nano_usd,
            own_limit_nano_usd = CASE WHEN limit_nano_usd < max_cost_nano_usd THEN limit_nano_usd END
        FROM tenant_quota WHERE budget.id = tenant_quota.tenant_id AND max_cost_nano_usd > 0""")
    op.execute("CREATE INDEX ix_budget_quota ON budget (tenant_id) WHERE quota_nano_usd > 0")


def downgrade(op: Operations) -> None:
    """Drops them; limits stay as they are."""
    op.execute("DROP INDEX ix_budget_quota")
    op.execute("ALTER TABLE budget ALTER COLUMN warn_at SET DEFAULT 0")
    op.execute(f"ALTER TABLE budget {', '.join(f'DROP COLUMN {column.split()[0]}' for column in _COLUMNS)}")
