"""How models were used on each day, which advice rests on. Cost itself counts the days of the past month."""

from alembic.operations import Operations

from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.sql.rls import tenant_table

revision = "0010"
down_revision = "0009"

_SUMS = ", ".join(
    f"{name} bigint NOT NULL"
    for name in (*(f"{name}_tokens" for name in USAGE_CLASSES), "cost_nano_usd", "calls", "warm_calls")
)


def upgrade(op: Operations) -> None:
    """Makes the table, and an index of what was priced anew."""
    # Names are long and an index has a limit, so their digest stands in the key for them.
    op.execute(f"""
        CREATE TABLE cost_use_day (
            tenant_id uuid NOT NULL,
            day timestamptz NOT NULL,
            use_key bytea NOT NULL,
            kind smallint NOT NULL,
            provider text NOT NULL,
            model text NOT NULL,
            agent_name text NOT NULL,
            {_SUMS},
            shapes bigint[] NOT NULL,
            CONSTRAINT pk_cost_use_day PRIMARY KEY (tenant_id, day, use_key)
        )""")
    tenant_table(op, "cost_use_day", app=("SELECT",))
    # Empty as long as nothing is priced anew.
    op.execute("CREATE INDEX ix_cost_event_noted ON cost_event (tenant_id, created_time) WHERE note <> ''")


def downgrade(op: Operations) -> None:
    """Drops them."""
    op.execute("DROP INDEX ix_cost_event_noted")
    op.execute("DROP TABLE cost_use_day")
