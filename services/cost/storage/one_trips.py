"""Writes what a book of spending changed, if all that it was decided on is still so. The migrator installs it."""

from typing import Final

from services.cost.storage.rollup_sums import ADD_UP
from services.cost.storage.tables import GAUGES
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.sql.audit_store import AUDIT_PAGE
from services.meshkit.sql.one_trip import RECORD, OneTrip

#: Names and types of the columns of a group of rows.
Group = tuple[tuple[str, str], ...]

#: A budget as it was seen. Its revision grows with each change; replicas of the release before change its money only.
_SEEN_BUDGET: Final[Group] = (
    ("id", "uuid"),
    ("revision", "bigint"),
    ("limit_nano_usd", "bigint"),
    ("spent_nano_usd", "bigint"),
    ("held_nano_usd", "bigint"),
    ("overrun_nano_usd", "bigint"),
    ("exhausted", "boolean"),
)
#: What spending changes of a budget.
_BUDGET: Final[Group] = (
    *_SEEN_BUDGET,
    *((f"{part}_{gauge}", "bigint") for gauge in GAUGES for part in ("spent", "held", "overrun")),
    ("turn_time", "timestamptz"),
    ("counted_from", "timestamptz"),
    ("warned", "smallint"),
    ("tree", "bigint"),
    ("own_limit_nano_usd", "bigint"),
)
#: What the ledger takes over from its hold.
_PURPOSE: Final[Group] = (
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
# A group travels as one array per column. Arrays of arrays would be flattened, so inner ones travel as literals.
#: Rows as they were seen and rows to write, in the order of the function's arguments.
GROUPS: Final[dict[str, Group]] = {
    "seen_budgets": _SEEN_BUDGET,
    "seen_holds": (
        ("id", "uuid"),
        ("state", "smallint"),
        ("expire_time", "timestamptz"),
        ("fence", "bigint"),
        # All that changes when a repeat of its request takes it over.
        ("dispatched_time", "timestamptz"),
    ),
    "new_holds": (
        ("id", "uuid"),
        ("tenant_id", "uuid"),
        ("request_id", "uuid"),
        ("request_digest", "bytea"),
        ("state", "smallint"),
        ("budget_ids", "text"),
        *_PURPOSE,
        ("bound", "text"),
        ("usage", "text"),
        ("amount_nano_usd", "bigint"),
        ("charged_nano_usd", "bigint"),
        ("price_digest", "bytea"),
        ("expire_time", "timestamptz"),
        ("created_time", "timestamptz"),
        ("dispatched_time", "timestamptz"),
        ("charged_time", "timestamptz"),
        ("fence", "bigint"),
        ("counts", "boolean"),
        ("ceiling_nano_usd_per_million", "bigint"),
    ),
    "budgets": _BUDGET,
    "holds": (
        ("id", "uuid"),
        ("state", "smallint"),
        ("charged_nano_usd", "bigint"),
        ("usage", "text"),
        ("expire_time", "timestamptz"),
        ("dispatched_time", "timestamptz"),
        ("charged_time", "timestamptz"),
        ("fence", "bigint"),
    ),
    "entries": (
        ("id", "uuid"),
        ("hold_id", "uuid"),
        ("tokens", "text"),
        ("cost_nano_usd", "bigint"),
        ("assumed", "boolean"),
        ("reversal", "boolean"),
        ("created_time", "timestamptz"),
    ),
    "alerts": (
        ("id", "uuid"),
        ("tenant_id", "uuid"),
        ("budget_id", "uuid"),
        ("created_time", "timestamptz"),
        ("subject", "text"),
        ("body", "bytea"),
    ),
}
_PLACES: Final = {
    column: f"${place}"
    for place, column in enumerate(((group, name) for group, columns in GROUPS.items() for name, _ in columns), start=1)
}
_INNER_ARRAYS: Final = {"budget_ids": "uuid[]", "bound": "bigint[]", "usage": "bigint[]"}
#: Of the columns that are compared, those that may be null.
_NULLABLE: Final = frozenset(("dispatched_time",))
_TOKENS: Final = ", ".join(f"{name}_tokens" for name in USAGE_CLASSES)
_COUNTS: Final = ", ".join(f"used[{place}]" for place in range(1, len(USAGE_CLASSES) + 1))
_PURPOSES: Final = ", ".join(name for name, _ in _PURPOSE)


def _names(group: str) -> str:
    return ", ".join(name for name, _ in GROUPS[group])


def _values(group: str) -> str:
    return ", ".join(
        f"CAST({name} AS {_INNER_ARRAYS[name]})" if name in _INNER_ARRAYS else name for name, _ in GROUPS[group]
    )


def _count(group: str) -> str:
    return f"cardinality({_PLACES[group, 'id']})"


def _items(group: str) -> str:
    """Writes the rows of a group as a table `item`, in order."""
    arrays = ", ".join(_PLACES[group, name] for name, _ in GROUPS[group])
    return f"unnest({arrays}) AS item ({_names(group)})"


def _still(table: str, group: str) -> str:
    """Writes how many rows are as they were seen, and locks them in order."""
    same = " AND ".join(
        f"{name} {'IS NOT DISTINCT FROM' if name in _NULLABLE else '='} item.{name}" for name, _ in GROUPS[group]
    )
    locked = f"SELECT FROM {table} WHERE {same} FOR UPDATE"
    return f"(SELECT count(*) FROM {_items(group)} CROSS JOIN LATERAL ({locked}) AS still)"  # noqa: S608 - names are constants


def _update(table: str, group: str) -> str:
    """Writes an update of a table to the rows of a group."""
    ids, columns = _PLACES[group, "id"], [name for name, _ in GROUPS[group] if name != "id"]
    casts = {
        name: f"CAST({_PLACES[group, name]}[place] AS {kind})"
        for name, kind in _INNER_ARRAYS.items()
        if name in columns
    }
    values = ", ".join(casts.get(name, f"{_PLACES[group, name]}[place]") for name in columns)
    return (
        f"UPDATE {table} SET ({', '.join(columns)}) = (SELECT {values}"  # noqa: S608 - names are constants
        f" FROM (SELECT array_position({ids}, {table}.id) OFFSET 0) AS item (place)) WHERE id = ANY({ids})"
    )


#: Gives false, with nothing written, when a row is not as it was seen or a new hold's request has a hold already.
#: Budgets are locked first, then holds, each in id order, as everywhere. It is planned once, so it joins no tables: a
#: join that was planned while a table was small would read all of it for ever after. LATERAL and OFFSET 0 make each
#: item look up its row by key; a loop would do so too, but check the tenants at every turn.
WRITE_SPENDING: Final = OneTrip(
    name="write_spending",
    planned_once=True,
    arguments=tuple(f"{kind}[]" for columns in GROUPS.values() for _, kind in columns),
    returns="boolean",
    body=f"""
        IF {_count("seen_budgets")} > 0 AND {_still("budget", "seen_budgets")} < {_count("seen_budgets")} THEN
            RETURN false;
        END IF;
        IF {_count("seen_holds")} > 0 AND {_still("hold", "seen_holds")} < {_count("seen_holds")} THEN
            RETURN false;
        END IF;
        IF {_count("new_holds")} > 0 THEN
            IF EXISTS (
                SELECT FROM {_items("new_holds")} CROSS JOIN LATERAL (
                    SELECT FROM hold WHERE tenant_id = item.tenant_id AND request_id = item.request_id OFFSET 0
                ) AS made
            ) THEN
                RETURN false;
            END IF;
            INSERT INTO hold ({_names("new_holds")}) SELECT {_values("new_holds")} FROM {_items("new_holds")};
        END IF;
        IF {_count("budgets")} > 0 THEN {_update("budget", "budgets")}; END IF;
        IF {_count("holds")} > 0 THEN {_update("hold", "holds")}; END IF;
        IF {_count("entries")} > 0 THEN
            INSERT INTO cost_event (id, tenant_id, hold_id, {_PURPOSES}, {_TOKENS}, cost_nano_usd, assumed, reversal,
                                    price_digest, created_time)
            SELECT item.id, tenant_id, hold_id, {_PURPOSES}, {_COUNTS}, cost_nano_usd, assumed, reversal,
                   price_digest, item.created_time
            FROM {_items("entries")} CROSS JOIN LATERAL (
                SELECT tenant_id, {_PURPOSES}, price_digest FROM hold WHERE hold.id = item.hold_id OFFSET 0
            ) AS paid CROSS JOIN CAST(item.tokens AS bigint[]) AS used;
        END IF;
        IF {_count("alerts")} > 0 THEN
            INSERT INTO outbox (id, tenant_id, subject, body)
            SELECT id, tenant_id, subject, body FROM {_items("alerts")};
            INSERT INTO budget_alert (id, tenant_id, budget_id, created_time, body)
            SELECT id, tenant_id, budget_id, created_time, body FROM {_items("alerts")};
        END IF;
        RETURN true;""",  # noqa: S608 - names are constants
)

#: The columns of a budget that a limit moves.
_LIMITED: Final = ("revision", "limit_nano_usd", "overrun_nano_usd", "exhausted", "warned", "own_limit_nano_usd")
_SEEN: Final = " AND ".join(f"{name} = ${at}" for at, (name, _) in enumerate(_SEEN_BUDGET, start=1))
_MOVED: Final = ", ".join(f"{name} = ${at}" for at, name in enumerate(_LIMITED, start=len(_SEEN_BUDGET) + 1))
#: Gives false, with nothing written, when the budget is not as it was seen. Takes the columns of a budget as they were
#: seen, then the new values of those that a limit moves.
LIMIT_BUDGET: Final = OneTrip(
    name="limit_budget",
    planned_once=True,
    arguments=(*(kind for _, kind in _SEEN_BUDGET), *(dict(_BUDGET)[name] for name in _LIMITED)),
    returns="boolean",
    body=f"""
        PERFORM FROM budget WHERE {_SEEN} FOR UPDATE;
        IF NOT FOUND THEN RETURN false; END IF;
        {RECORD}
        UPDATE budget SET {_MOVED} WHERE id = $1;
        RETURN true;""",  # noqa: S608 - names are constants
)

#: Gives false, with nothing written, when the run has a budget.
ADD_RUN_BUDGET: Final = OneTrip(
    name="add_run_budget",
    planned_once=True,
    arguments=(
        "uuid",  # 1 budget
        "uuid",  # 2 tenant
        "text",  # 3 run
        "bigint",  # 4 limit
        "timestamptz",  # 5 time
        "text",  # 6 project
    ),
    returns="boolean",
    body=f"""
        -- Two who make the budget of one run take turns, and the second one finds it.
        PERFORM pg_advisory_xact_lock(hashtextextended($3, 0));
        IF EXISTS (SELECT FROM budget WHERE tenant_id = $2 AND run_id = $3) THEN RETURN false; END IF;
        {RECORD}
        INSERT INTO budget (id, tenant_id, scope, run_id, limit_nano_usd, spent_nano_usd, held_nano_usd,
                            overrun_nano_usd, exhausted, created_time, counted_from, project)
        VALUES ($1, $2, 2, $3, $4, 0, 0, 0, false, $5, $5, $6);
        RETURN true;""",  # noqa: S608 - a constant
)

ONE_TRIPS: Final = (WRITE_SPENDING, LIMIT_BUDGET, ADD_RUN_BUDGET, ADD_UP, AUDIT_PAGE)
