"""Sums of the ledger by hour and by day, and how far they reach."""

from alembic.operations import Operations

from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of, tenant_table, untenanted_table
from services.meshkit.sql.roles import roles_of

revision = "0006"
down_revision = "0005"

_SUMS = ", ".join(
    f"{name} bigint NOT NULL"
    for name in ("event_count", *(f"{name}_tokens" for name in USAGE_CLASSES), "cost_nano_usd", "assumed_nano_usd")
)


def upgrade(op: Operations) -> None:
    """Numbers the entries by their transaction, and makes the sums; cost itself adds up what is there."""
    # The default does not change within a transaction, so the rows that are there are not written anew.
    op.execute(
        "ALTER TABLE cost_event ADD COLUMN ledger_xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint"
    )
    op.execute("CREATE INDEX ix_cost_event_ledger ON cost_event (ledger_xid, tenant_id)")
    for table, step in (("cost_hour", "hour"), ("cost_day", "day")):
        # Names are long and an index has a limit, so their digest stands in the key for them.
        op.execute(f"""
            CREATE TABLE {table} (
                tenant_id uuid NOT NULL,
                {step} timestamptz NOT NULL,
                group_key bytea NOT NULL,
                project text NOT NULL,
                agent_name text NOT NULL,
                provider text NOT NULL,
                model text NOT NULL,
                kind smallint NOT NULL,
                {_SUMS},
                CONSTRAINT pk_{table} PRIMARY KEY (tenant_id, {step}, group_key)
            )""")
        tenant_table(op, table, app=("SELECT",))
    op.execute(f"""
        CREATE TABLE cost_run_hour (
            tenant_id uuid NOT NULL,
            hour timestamptz NOT NULL,
            run_id text NOT NULL,
            {_SUMS},
            CONSTRAINT pk_cost_run_hour PRIMARY KEY (tenant_id, hour, run_id)
        )""")
    tenant_table(op, "cost_run_hour", app=("SELECT",))
    op.execute("""
        CREATE TABLE rollup_mark (
            id smallint PRIMARY KEY CHECK (id = 1),
            ledger_xid bigint NOT NULL,
            kept_from timestamptz
        )""")
    op.execute("INSERT INTO rollup_mark (id, ledger_xid) VALUES (1, 0)")
    untenanted_table(
        op, "rollup_mark", reason="one place in the ledger for all tenants", maintenance=("SELECT", "UPDATE")
    )
    # Entries are removed once they are old and added up. Their numbers are given anew when the cluster is another.
    op.execute(f"GRANT DELETE, UPDATE (ledger_xid) ON cost_event TO {_maintenance(op)}")


def downgrade(op: Operations) -> None:
    """Drops the sums; entries that were removed do not come back."""
    op.execute("DROP TABLE rollup_mark, cost_run_hour, cost_day, cost_hour")
    op.execute("ALTER TABLE cost_event DROP COLUMN ledger_xid")
    op.execute(f"REVOKE DELETE ON cost_event FROM {_maintenance(op)}")


def _maintenance(op: Operations) -> str:
    return quoted(roles_of(database_of(op)).maintenance)
