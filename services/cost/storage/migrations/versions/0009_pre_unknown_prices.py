"""Calls whose price is unknown: what tenants have done with them, what they are held at, and sums of their charges.

Figures of these charges are exact once no replica of the release before adds the ledger up; `rebuild_rollups` rights
those that were added up meanwhile.
"""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table

revision = "0009"
down_revision = "0008"

_SUMS = ("cost_hour", "cost_day", "cost_run_hour")


def upgrade(op: Operations) -> None:
    """Makes the table and the columns."""
    op.execute("""
        CREATE TABLE unknown_price (
            tenant_id uuid PRIMARY KEY,
            rule smallint NOT NULL,
            ceiling_nano_usd_per_million bigint NOT NULL
                CONSTRAINT ck_unknown_price_not_negative CHECK (ceiling_nano_usd_per_million >= 0)
        )""")
    tenant_table(op, "unknown_price", app=("SELECT", "INSERT", "UPDATE"))
    op.execute("ALTER TABLE hold ADD COLUMN ceiling_nano_usd_per_million bigint")
    op.execute("CREATE INDEX ix_hold_unpriced ON hold (tenant_id) WHERE ceiling_nano_usd_per_million IS NOT NULL")
    for table in _SUMS:
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN unpriced_event_count bigint NOT NULL DEFAULT 0,"
            " ADD COLUMN unpriced_nano_usd bigint NOT NULL DEFAULT 0"
        )


def downgrade(op: Operations) -> None:
    """Drops them; what was charged without a price stays charged."""
    for table in _SUMS:
        op.execute(f"ALTER TABLE {table} DROP COLUMN unpriced_nano_usd, DROP COLUMN unpriced_event_count")
    op.execute("DROP INDEX ix_hold_unpriced")
    op.execute("ALTER TABLE hold DROP COLUMN ceiling_nano_usd_per_million")
    op.execute("DROP TABLE unknown_price")
