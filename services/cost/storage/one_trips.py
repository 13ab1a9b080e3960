"""Writes what a book of spending changed, if all that it was decided on is still so. The migrator installs it."""

from typing import Final

from services.meshkit.sql.one_trip import OneTrip

#: Names and types of the columns of a group of rows.
Group = tuple[tuple[str, str], ...]

_BUDGET: Final[Group] = (
    ("id", "uuid"),
    ("limit_nano_usd", "bigint"),
    ("spent_nano_usd", "bigint"),
    ("held_nano_usd", "bigint"),
    ("overrun_nano_usd", "bigint"),
    ("exhausted", "boolean"),
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
# Each group travels as one array per column. Arrays of arrays would be flattened, so inner ones travel as literals.
SEEN_BUDGETS: Final = _BUDGET
BUDGETS: Final = _BUDGET
SEEN_HOLDS: Final[Group] = (("id", "uuid"), ("state", "smallint"))
NEW_HOLDS: Final[Group] = (
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
)
HOLDS: Final[Group] = (("id", "uuid"), ("state", "smallint"), ("charged_nano_usd", "bigint"), ("usage", "text"))
ENTRIES: Final[Group] = (
    ("id", "uuid"),
    ("hold_id", "uuid"),
    ("tokens", "text"),
    ("cost_nano_usd", "bigint"),
    ("assumed", "boolean"),
    ("reversal", "boolean"),
    ("created_time", "timestamptz"),
)
MESSAGES: Final[Group] = (("id", "uuid"), ("tenant_id", "uuid"), ("subject", "text"), ("body", "bytea"))
#: In the order of the function's arguments.
GROUPS: Final = (SEEN_BUDGETS, SEEN_HOLDS, NEW_HOLDS, BUDGETS, HOLDS, ENTRIES, MESSAGES)
_INNER_ARRAYS: Final = {"budget_ids": "uuid[]", "bound": "bigint[]", "usage": "bigint[]"}


def _rows(place: int) -> str:
    """Writes the rows of a group as a table named `item`."""
    columns = ", ".join(name for name, _ in GROUPS[place])
    first = 1 + sum(map(len, GROUPS[:place]))
    arrays = ", ".join(f"${first + offset}" for offset in range(len(GROUPS[place])))
    return f"unnest({arrays}) AS item ({columns})"


def _count(place: int) -> str:
    """Writes how many rows a group has."""
    return f"cardinality(${1 + sum(map(len, GROUPS[:place]))})"


def _still(table: str, place: int) -> str:
    """Counts rows that are as they were seen, locking them in id order."""
    same = " AND ".join(f"{table}.{name} = item.{name}" for name, _ in GROUPS[place])
    return (
        f"(SELECT count(*) FROM (SELECT FROM {_rows(place)} JOIN {table} ON {same}"  # noqa: S608 - names are constants
        f" ORDER BY item.id FOR UPDATE OF {table}) AS still)"
    )


_HOLD_COLUMNS: Final = ", ".join(name for name, _ in NEW_HOLDS)
_HOLD_VALUES: Final = ", ".join(
    f"CAST({name} AS {_INNER_ARRAYS[name]})" if name in _INNER_ARRAYS else name for name, _ in NEW_HOLDS
)
_TOKENS: Final = (
    "input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,"
    " audio_in_tokens, audio_out_tokens, image_tokens"
)
_PURPOSES: Final = ", ".join(name for name, _ in _PURPOSE)
_HOLD_PURPOSES: Final = ", ".join(f"hold.{name}" for name, _ in _PURPOSE)

#: Gives false, with nothing written, when a row is not as it was seen or a new hold's request has a hold already.
#: Budgets are locked first, then holds, each in id order, as everywhere. The plans are made once per connection: they
#: only ever look rows up by their key, so they are also told not to scan or hash tables that happen to be small.
WRITE_SPENDING: Final = OneTrip(
    name="write_spending",
    arguments=tuple(f"{kind}[]" for group in GROUPS for _, kind in group),
    returns="boolean",
    body=f"""
        PERFORM set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
                set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true);
        IF {_count(0)} > 0 AND {_still("budget", 0)} <> {_count(0)} THEN RETURN false; END IF;
        IF {_count(1)} > 0 AND {_still("hold", 1)} <> {_count(1)} THEN RETURN false; END IF;
        IF {_count(2)} > 0 THEN
            IF EXISTS (SELECT FROM {_rows(2)} JOIN hold USING (tenant_id, request_id)) THEN RETURN false; END IF;
            INSERT INTO hold ({_HOLD_COLUMNS}) SELECT {_HOLD_VALUES} FROM {_rows(2)};
        END IF;
        IF {_count(3)} > 0 THEN
            UPDATE budget SET limit_nano_usd = item.limit_nano_usd, spent_nano_usd = item.spent_nano_usd,
                              held_nano_usd = item.held_nano_usd, overrun_nano_usd = item.overrun_nano_usd,
                              exhausted = item.exhausted
            FROM {_rows(3)} WHERE budget.id = item.id;
        END IF;
        IF {_count(4)} > 0 THEN
            UPDATE hold SET state = item.state, charged_nano_usd = item.charged_nano_usd,
                            usage = CAST(item.usage AS bigint[])
            FROM {_rows(4)} WHERE hold.id = item.id;
        END IF;
        IF {_count(5)} > 0 THEN
            INSERT INTO cost_event (id, tenant_id, hold_id, {_PURPOSES}, {_TOKENS}, cost_nano_usd, assumed, reversal,
                                    price_digest, created_time)
            SELECT item.id, hold.tenant_id, hold.id, {_HOLD_PURPOSES},
                   n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], item.cost_nano_usd, item.assumed,
                   item.reversal, hold.price_digest, item.created_time
            FROM {_rows(5)} JOIN hold ON hold.id = item.hold_id CROSS JOIN CAST(item.tokens AS bigint[]) AS n;
        END IF;
        IF {_count(6)} > 0 THEN
            INSERT INTO outbox (id, tenant_id, subject, body) SELECT id, tenant_id, subject, body FROM {_rows(6)};
        END IF;
        RETURN true;""",  # noqa: S608 - names are constants
)

ONE_TRIPS: Final = (WRITE_SPENDING,)
