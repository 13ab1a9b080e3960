"""Adds the ledger up by hour and by day, and removes entries that are old and added up.

Which entries are in the sums is told by the number of the transaction that wrote them. Postgres says which is the
oldest transaction that has not ended: all before are over, and none of them will ever write again. Up to there, and no
further, entries are added, so one whose commit comes late cannot be passed by (docs/decisions/0015-roll-ups.md).
"""

from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.storage.statements import WITHOUT_PRICE
from services.cost.storage.tables import UNPRICED
from services.cost.storage.whole import whole
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.sql.scope import DriverScope, driver_scope

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


#: Nothing is locked while another replica adds up.
_LOCK: Final = "SELECT ledger_xid, kept_from FROM rollup_mark FOR UPDATE SKIP LOCKED"
_WAIT: Final = "SELECT ledger_xid, kept_from FROM rollup_mark FOR UPDATE"
#: The oldest transaction that has not ended. It is read before the entries: each statement sees at least as much.
_HORIZON: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_LAST_OF_BATCH: Final = """
    SELECT ledger_xid FROM cost_event WHERE ledger_xid >= $1 AND ledger_xid < $2
    ORDER BY ledger_xid OFFSET $3 LIMIT 1"""
_MOVE: Final = "UPDATE rollup_mark SET ledger_xid = $1"


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


_ADD: Final = _add("ledger_xid >= $1 AND ledger_xid < $2")
#: Entries that may be gone stay in their sums, so only those are added that were not in them.
_ADD_ALL: Final = _add(
    "ledger_xid < $2 AND (ledger_xid >= $1 OR created_time >= coalesce($3, '-infinity'::timestamptz))"
)
_CLEAR: Final = tuple(
    f"DELETE FROM {table} WHERE {step} >= coalesce($1, '-infinity'::timestamptz)"  # noqa: S608 - names are constants
    for table, step in (("cost_hour", "hour"), ("cost_day", "day"), ("cost_run_hour", "hour"))
)
#: Numbers that another cluster gave come before ours.
_RENUMBER: Final = "UPDATE cost_event SET ledger_xid = 0 WHERE ledger_xid >= $1"

_KEPT_FROM: Final = "UPDATE rollup_mark SET kept_from = $1 WHERE kept_from IS NULL OR kept_from < $1"
_OLD_TENANTS: Final = "SELECT DISTINCT tenant_id FROM cost_day WHERE day < $1"
_FORGET: Final = """
    DELETE FROM cost_event WHERE tenant_id = $1 AND ctid = ANY(ARRAY(
        SELECT ctid FROM cost_event
        WHERE tenant_id = $1 AND created_time < $2 AND ledger_xid < (SELECT ledger_xid FROM rollup_mark)
        ORDER BY created_time LIMIT $3))"""


class RollupStore:
    """The sums of all tenants. Only the maintenance role writes them."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def add_up(self, *, most: int) -> int:
        """See `Rollups.add_up`."""
        async with driver_scope(self._engine, None) as scope:
            place = await scope.driver.fetchrow(_LOCK)
            if place is None:
                return 0
            mark, upto = place["ledger_xid"], await scope.driver.fetchval(_HORIZON)
            # One transaction is added as a whole, however much it wrote.
            last = await scope.driver.fetchval(_LAST_OF_BATCH, mark, upto, most - 1)
            if last is not None:
                upto = last + 1
            added = await scope.driver.fetchval(_ADD, mark, upto)
            if added:
                await scope.driver.execute(_MOVE, upto)
                await scope.commit()
        return int(added)

    async def follow_cluster(self) -> bool:
        """See `Rollups.follow_cluster`."""
        async with driver_scope(self._engine, None) as scope:
            place = await scope.driver.fetchrow(_WAIT)
            upto = await scope.driver.fetchval(_HORIZON)
            if place is None or place["ledger_xid"] <= upto:
                return False
            await scope.driver.execute(_RENUMBER, upto)
            await _rebuild(scope, place["ledger_xid"], place["kept_from"])
            await scope.commit()
        return True

    async def rebuild(self) -> int:
        """See `Rollups.rebuild`."""
        async with driver_scope(self._engine, None) as scope:
            place = await scope.driver.fetchrow(_WAIT)
            if place is None:
                raise LookupError("the row of rollup_mark is missing")
            added = await _rebuild(scope, place["ledger_xid"], place["kept_from"])
            await scope.commit()
        return added

    async def keep_from(self, moment: datetime) -> None:
        """See `Rollups.keep_from`."""
        async with driver_scope(self._engine, None) as scope:
            await scope.driver.execute(_KEPT_FROM, moment)
            await scope.commit()

    async def forget(self, before: datetime, *, most: int) -> int:
        """See `Rollups.forget`."""
        removed = 0
        async with driver_scope(self._engine, None, read_only=True) as scope:
            tenants = [row["tenant_id"] for row in await scope.driver.fetch(_OLD_TENANTS, before)]
        for tenant in tenants:
            async with driver_scope(self._engine, None) as scope:
                done = await scope.driver.execute(_FORGET, tenant, before, most - removed)
                await scope.commit()
            removed += int(done.rpartition(" ")[2])
            if removed >= most:
                break
        return removed


async def _rebuild(scope: DriverScope, mark: int, kept_from: datetime | None) -> int:
    upto = await scope.driver.fetchval(_HORIZON)
    for statement in _CLEAR:
        await scope.driver.execute(statement, kept_from)
    added = await scope.driver.fetchval(_ADD_ALL, mark, upto, kept_from)
    await scope.driver.execute(_MOVE, upto)
    return int(added)
