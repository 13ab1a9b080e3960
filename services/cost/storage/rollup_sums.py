"""The statements that add the ledger up by hour and by day, each entry to all its sums at once."""

from typing import Final

from services.cost.storage.statements import WITHOUT_PRICE
from services.cost.storage.tables import UNPRICED
from services.cost.storage.whole import whole
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.sql.one_trip import OneTrip

_TOKENS: Final = tuple(f"{name}_tokens" for name in USAGE_CLASSES)
_SUMS: Final = ("event_count", *_TOKENS, "cost_nano_usd", "assumed_nano_usd", *UNPRICED)
_NAMES: Final = "project, agent_name, provider, model, kind"
_LISTED: Final = ", ".join(_SUMS)
#: Sums stop where a number of 64 bits does, at 9.2 billion dollars an hour: one tenant's never stop those of others.
_ADDED: Final = ", ".join(f"{whole(f'sum({name})')} AS {name}" for name in _SUMS)

#: A row as text quotes what it holds, so no two groups have the same.
_KEY: Final = f"sha256(convert_to(ROW({_NAMES})::text, 'UTF8'))"


def _grown(table: str) -> str:
    return ", ".join(f"{name} = {whole(f'{table}.{name}::numeric + EXCLUDED.{name}')}" for name in _SUMS)


def _add(which: str) -> str:
    """Writes the statement that adds entries to all sums; it gives how many it added."""
    return f"""
        WITH fresh AS MATERIALIZED (
            SELECT tenant_id, date_trunc('hour', created_time, 'UTC') AS hour, run_id, {_NAMES}, count(*) AS entries,
                   sum(CASE WHEN reversal THEN -1 ELSE 1 END) AS event_count,
                   {", ".join(f"sum({name}) AS {name}" for name in (*_TOKENS, "cost_nano_usd"))},
                   coalesce(sum(cost_nano_usd) FILTER (WHERE assumed), 0) AS assumed_nano_usd,
                   coalesce(sum(CASE WHEN reversal THEN -1 ELSE 1 END) FILTER (WHERE {WITHOUT_PRICE}), 0)
                       AS unpriced_event_count,
                   coalesce(sum(cost_nano_usd) FILTER (WHERE {WITHOUT_PRICE}), 0) AS unpriced_nano_usd
            FROM cost_event WHERE {which}
            GROUP BY tenant_id, hour, run_id, {_NAMES}
        ), hours AS (
            INSERT INTO cost_hour (tenant_id, hour, group_key, {_NAMES}, {_LISTED})
            SELECT tenant_id, hour, {_KEY}, {_NAMES}, {_ADDED} FROM fresh GROUP BY tenant_id, hour, {_NAMES}
            ON CONFLICT (tenant_id, hour, group_key) DO UPDATE SET {_grown("cost_hour")}
        ), days AS (
            INSERT INTO cost_day (tenant_id, day, group_key, {_NAMES}, {_LISTED})
            SELECT tenant_id, date_trunc('day', hour, 'UTC') AS day, {_KEY}, {_NAMES}, {_ADDED}
            FROM fresh GROUP BY tenant_id, day, {_NAMES}
            ON CONFLICT (tenant_id, day, group_key) DO UPDATE SET {_grown("cost_day")}
        ), runs AS (
            INSERT INTO cost_run_hour (tenant_id, hour, run_id, {_LISTED})
            SELECT tenant_id, hour, run_id, {_ADDED} FROM fresh GROUP BY tenant_id, hour, run_id
            ON CONFLICT (tenant_id, hour, run_id) DO UPDATE SET {_grown("cost_run_hour")}
        )
        SELECT coalesce(sum(entries), 0)::bigint FROM fresh"""  # noqa: S608 - names are constants


#: Adds up what was written since the last time, at most about so many entries; gives how many. Planned once, for a
#: replica looks every other second, and the plan of so large a statement costs more than its work.
ADD_UP: Final = OneTrip(
    name="add_up",
    planned_once=True,
    arguments=("bigint",),
    returns="TABLE (added bigint)",
    body=f"""
        DECLARE
            mark bigint;
            upto bigint;
            last bigint;
        BEGIN
        -- Nothing is locked while another replica adds up.
        SELECT ledger_xid INTO mark FROM rollup_mark FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN RETURN; END IF;
        -- The oldest transaction that has not ended. Read before the entries: each statement sees at least as much.
        upto := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
        -- One transaction is added as a whole, however much it wrote.
        SELECT ledger_xid INTO last FROM cost_event WHERE ledger_xid >= mark AND ledger_xid < upto
        ORDER BY ledger_xid OFFSET $1 - 1 LIMIT 1;
        IF FOUND THEN upto := last + 1; END IF;
        IF NOT EXISTS (SELECT FROM cost_event WHERE ledger_xid >= mark AND ledger_xid < upto) THEN RETURN; END IF;
        UPDATE rollup_mark SET ledger_xid = upto;
        RETURN QUERY {_add("ledger_xid >= mark AND ledger_xid < upto")};
        END;""",  # noqa: S608 - names are constants
)
#: Entries that may be gone stay in their sums, so only those are added that were not in them.
ADD_ALL: Final = _add(
    "ledger_xid < $2 AND (ledger_xid >= $1 OR created_time >= coalesce($3, '-infinity'::timestamptz))"
)
