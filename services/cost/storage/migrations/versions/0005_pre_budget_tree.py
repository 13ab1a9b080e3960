"""Budgets of projects, agents and steps; limits on tokens, calls and time; periods; what a hold needs for them.

While replicas of the release before still run, they count money only.
"""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of
from services.meshkit.sql.roles import roles_of

revision = "0005"
down_revision = "0004"

_GAUGES = ("tokens", "calls", "wall_ms")
_LIMIT = "spent_nano_usd + held_nano_usd <= limit_nano_usd + overrun_nano_usd"
_COLUMNS = """
    name text NOT NULL DEFAULT '',
    mode smallint NOT NULL DEFAULT 1,
    warn_at smallint NOT NULL DEFAULT 0,
    period smallint NOT NULL DEFAULT 0,
    zone text NOT NULL DEFAULT 'UTC',
    turn_time timestamptz,
    warned smallint NOT NULL DEFAULT 0,
    degraded_until timestamptz,
    removed boolean NOT NULL DEFAULT false,
    tree bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0"""


def upgrade(op: Operations) -> None:
    """Adds the columns; budgets that are there go on as they were."""
    columns = [column.strip() for column in _COLUMNS.split(",\n")]
    for gauge in _GAUGES:
        columns.append(f"limit_{gauge} bigint")
        columns += [f"{part}_{gauge} bigint NOT NULL DEFAULT 0" for part in ("spent", "held", "overrun")]
    op.execute(f"ALTER TABLE budget {', '.join(f'ADD COLUMN {column}' for column in columns)}")
    op.execute("ALTER TABLE budget DROP CONSTRAINT ck_budget_limit")
    op.execute(f"ALTER TABLE budget ADD CONSTRAINT ck_budget_limit CHECK (mode = 2 OR {_LIMIT})")
    for gauge in _GAUGES:
        kept = f"limit_{gauge} IS NULL OR mode = 2 OR spent_{gauge} + held_{gauge} <= limit_{gauge} + overrun_{gauge}"
        op.execute(f"ALTER TABLE budget ADD CONSTRAINT ck_budget_limit_{gauge} CHECK ({kept})")
        positive = " AND ".join(f"{part}_{gauge} >= 0" for part in ("spent", "held", "overrun"))
        op.execute(f"ALTER TABLE budget ADD CONSTRAINT ck_budget_{gauge}_not_negative CHECK ({positive})")
    op.execute("CREATE UNIQUE INDEX ux_budget_node ON budget (tenant_id, scope, name) WHERE name <> '' AND NOT removed")
    op.execute("""
        ALTER TABLE hold
            ADD COLUMN dispatched_time timestamptz,
            ADD COLUMN charged_time timestamptz,
            ADD COLUMN fence bigint NOT NULL DEFAULT 0,
            ADD COLUMN counts boolean NOT NULL DEFAULT false""")
    # What expires into a charge may make a budget warn.
    op.execute(f"GRANT INSERT ON outbox TO {_maintenance(op)}")


def downgrade(op: Operations) -> None:
    """Drops them, and the budgets that only they describe; their holds stay in the budgets that are left."""
    op.execute(f"REVOKE INSERT ON outbox FROM {_maintenance(op)}")
    op.execute("""
        UPDATE hold SET budget_ids = ARRAY(
            SELECT id FROM unnest(budget_ids) AS named (id) JOIN budget USING (id)
            WHERE budget.scope IN (1, 2) ORDER BY id)
        WHERE EXISTS (SELECT FROM budget WHERE id = ANY(hold.budget_ids) AND scope NOT IN (1, 2))""")
    op.execute("DELETE FROM budget WHERE scope NOT IN (1, 2)")
    op.execute("""
        UPDATE budget SET overrun_nano_usd =
            greatest(overrun_nano_usd, spent_nano_usd + held_nano_usd - limit_nano_usd)""")
    op.execute("""
        ALTER TABLE hold
            DROP COLUMN dispatched_time, DROP COLUMN charged_time, DROP COLUMN fence, DROP COLUMN counts""")
    op.execute("DROP INDEX ux_budget_node")
    names = [column.split()[0] for column in _COLUMNS.strip().split(",\n")]
    names += [f"{part}_{gauge}" for gauge in _GAUGES for part in ("limit", "spent", "held", "overrun")]
    op.execute("ALTER TABLE budget DROP CONSTRAINT ck_budget_limit")
    op.execute(f"ALTER TABLE budget {', '.join(f'DROP COLUMN {name}' for name in names)}")
    op.execute(f"ALTER TABLE budget ADD CONSTRAINT ck_budget_limit CHECK ({_LIMIT})")


def _maintenance(op: Operations) -> str:
    return quoted(roles_of(database_of(op)).maintenance)
