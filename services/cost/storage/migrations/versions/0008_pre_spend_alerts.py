"""Alerts on unusual spend, and which budgets they degrade; finds the charges of the last hour over all tenants."""

from alembic.operations import Operations

from services.meshkit.sql.rls import tenant_table

revision = "0008"
down_revision = "0007"

_CAUSES = ("run", "agent", "model", "project")


def upgrade(op: Operations) -> None:
    """Makes the tables and the index."""
    causes = ", ".join(
        f"{cause}_name text NOT NULL, {cause}_spent_nano_usd bigint NOT NULL, {cause}_usual_nano_usd bigint NOT NULL"
        for cause in _CAUSES
    )
    op.execute(f"""
        CREATE TABLE spend_alert (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            state smallint NOT NULL,
            opened_time timestamptz NOT NULL,
            closed_time timestamptz,
            hour_time timestamptz NOT NULL,
            spent_nano_usd bigint NOT NULL,
            expected_nano_usd bigint NOT NULL,
            high_nano_usd bigint NOT NULL,
            basis smallint NOT NULL,
            {causes},
            degraded_ids uuid[] NOT NULL,
            revision bigint NOT NULL
        )""")
    op.execute("CREATE UNIQUE INDEX ux_spend_alert_open ON spend_alert (tenant_id) WHERE state = 1")
    op.execute("CREATE INDEX ix_spend_alert_page ON spend_alert (tenant_id, opened_time, id)")
    op.execute("""
        CREATE TABLE spike_rule (
            budget_id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            degrade_seconds integer NOT NULL CONSTRAINT ck_spike_rule_positive CHECK (degrade_seconds > 0)
        )""")
    # The ledger is only added to, nearly in order of time: a few bytes for each range of its pages find the last hour.
    op.execute("CREATE INDEX ix_cost_event_time ON cost_event USING brin (created_time)")
    tenant_table(op, "spend_alert", app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT",))
    tenant_table(op, "spike_rule", app=("SELECT", "INSERT", "UPDATE", "DELETE"), maintenance=("SELECT",))


def downgrade(op: Operations) -> None:
    """Drops them."""
    op.execute("DROP INDEX ix_cost_event_time")
    op.execute("DROP TABLE spike_rule")
    op.execute("DROP TABLE spend_alert")
