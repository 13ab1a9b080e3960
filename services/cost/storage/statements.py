"""The statements of the spending path: each carries a whole frame in arrays, since COPY is refused under RLS."""

from typing import Final

from sqlalchemy import text

from services.meshkit.content.usage import USAGE_CLASSES

#: Columns that holds and entries share, with their array types, in the order of `unit_of_work.py`.
_PURPOSE: Final = (
    ("kind", "smallint"),
    ("provider", "text"),
    ("model", "text"),
    ("run_id", "text"),
    ("path", "text"),
    ("attempt_group", "integer"),
    ("call_index", "integer"),
    ("agent_name", "text"),
    ("agent_version", "text"),
    ("project", "text"),
)
_HOLD: Final = (
    ("id", "uuid"),
    ("tenant_id", "uuid"),
    ("request_id", "uuid"),
    ("request_digest", "bytea"),
    ("state", "smallint"),
    # Arrays of arrays would be flattened, so these travel as literals.
    ("budget_ids", "text"),
    *_PURPOSE,
    ("bound", "text"),
    ("usage", "text"),
    ("amount_nano_usd", "bigint"),
    ("charged_nano_usd", "bigint"),
    ("price_digest", "bytea"),
    ("expire_time", "timestamptz"),
    ("created_time", "timestamptz"),
)
_ENTRY: Final = (
    ("id", "uuid"),
    ("tenant_id", "uuid"),
    ("hold_id", "uuid"),
    *_PURPOSE,
    *((f"{name}_tokens", "bigint") for name in USAGE_CLASSES),
    ("cost_nano_usd", "bigint"),
    ("assumed", "boolean"),
    ("reversal", "boolean"),
    ("price_digest", "bytea"),
    ("created_time", "timestamptz"),
)
_CASTS: Final = {"budget_ids": "uuid[]", "bound": "bigint[]", "usage": "bigint[]"}

HOLD_COLUMNS: Final = tuple(name for name, _ in _HOLD)
ENTRY_COLUMNS: Final = tuple(name for name, _ in _ENTRY)


def _insert(table: str, columns: tuple[tuple[str, str], ...]) -> str:
    """Writes an insert of many rows. Names and types are the constants above."""
    names = ", ".join(name for name, _ in columns)
    values = ", ".join(f"CAST({name} AS {_CASTS[name]})" if name in _CASTS else name for name, _ in columns)
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns)
    return f"INSERT INTO {table} ({names}) SELECT {values} FROM unnest({arrays}) AS row ({names})"  # noqa: S608


INSERT_HOLDS: Final = text(_insert("hold", _HOLD))
INSERT_ENTRIES: Final = text(_insert("cost_event", _ENTRY))

UPDATE_HOLDS: Final = text("""
    UPDATE hold SET state = row.state, charged_nano_usd = row.charged, usage = CAST(row.usage AS bigint[])
    FROM unnest(CAST(:id AS uuid[]), CAST(:state AS smallint[]), CAST(:charged AS bigint[]), CAST(:usage AS text[]))
         AS row (id, state, charged, usage)
    WHERE hold.id = row.id""")

UPDATE_BUDGETS: Final = text("""
    UPDATE budget SET limit_nano_usd = row.most, spent_nano_usd = row.spent, held_nano_usd = row.held,
                      overrun_nano_usd = row.overrun, exhausted = row.exhausted
    FROM unnest(CAST(:id AS uuid[]), CAST(:most AS bigint[]), CAST(:spent AS bigint[]), CAST(:held AS bigint[]),
                CAST(:overrun AS bigint[]), CAST(:exhausted AS boolean[]))
         AS row (id, most, spent, held, overrun, exhausted)
    WHERE budget.id = row.id""")

#: In tenant order, so that two processes that make the same budgets never wait in a circle.
ADD_TENANT_BUDGETS: Final = text("""
    INSERT INTO budget (id, tenant_id, scope, limit_nano_usd, spent_nano_usd, held_nano_usd, overrun_nano_usd,
                        exhausted, created_time)
    SELECT tenant, tenant, 1, :most, 0, 0, 0, false, :now
    FROM unnest(CAST(:tenants AS uuid[])) AS row (tenant) ORDER BY tenant
    ON CONFLICT (id) DO NOTHING""")

ADD_RUN_BUDGET: Final = text("""
    INSERT INTO budget (id, tenant_id, scope, run_id, limit_nano_usd, spent_nano_usd, held_nano_usd, overrun_nano_usd,
                        exhausted, created_time)
    VALUES (:id, :tenant, 2, :run_id, :most, 0, 0, 0, false, :now)
    ON CONFLICT (tenant_id, run_id) WHERE run_id IS NOT NULL DO NOTHING""")

RUN_BUDGET: Final = text("SELECT * FROM budget WHERE tenant_id = :tenant AND run_id = :run_id")

LOCK_BUDGETS: Final = text("SELECT * FROM budget WHERE id = ANY(CAST(:budgets AS uuid[])) ORDER BY id FOR UPDATE")

#: The budgets of a hold never change, so they can be read before its lock is taken.
LOCK_BUDGETS_OF_HOLDS: Final = text("""
    SELECT * FROM budget
    WHERE id = ANY(CAST(:budgets AS uuid[])
                   || ARRAY(SELECT DISTINCT unnest(budget_ids) FROM hold WHERE id = ANY(CAST(:holds AS uuid[]))))
    ORDER BY id FOR UPDATE""")

LOCK_HOLDS: Final = text("SELECT * FROM hold WHERE id = ANY(CAST(:holds AS uuid[])) ORDER BY id FOR UPDATE")

#: No lock: whoever makes or changes a hold of a tenant has locked the tenant's budget, as the asker has.
HOLDS_OF_REQUESTS: Final = text("""
    SELECT hold.* FROM unnest(CAST(:tenants AS uuid[]), CAST(:requests AS uuid[])) AS row (tenant, request)
    JOIN hold ON hold.tenant_id = row.tenant AND hold.request_id = row.request""")

DUE_HOLDS: Final = text("""
    SELECT id FROM hold WHERE state IN (1, 2) AND expire_time <= :now ORDER BY expire_time LIMIT :most""")

LOCK_DUE_HOLDS: Final = text("""
    SELECT * FROM hold WHERE id = ANY(CAST(:holds AS uuid[])) AND state IN (1, 2) AND expire_time <= :now
    ORDER BY id FOR UPDATE SKIP LOCKED""")
