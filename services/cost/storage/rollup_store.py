"""Adds the ledger up by hour and by day, and removes entries that are old and added up.

Which entries are in the sums is told by the number of the transaction that wrote them. Postgres says which is the
oldest transaction that has not ended: all before are over, and none of them will ever write again. Up to there, and no
further, entries are added, so one whose commit comes late cannot be passed by (docs/decisions/0015-roll-ups.md).
"""

from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.storage.rollup_sums import ADD_ALL, ADD_UP
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import DriverScope, driver_scope

_WAIT: Final = "SELECT ledger_xid, kept_from FROM rollup_mark FOR UPDATE"
#: The oldest transaction that has not ended. It is read before the entries: each statement sees at least as much.
_HORIZON: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_MOVE: Final = "UPDATE rollup_mark SET ledger_xid = $1"
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
        rows = await one_trip(self._engine, None, ADD_UP, most)
        return int(rows[0]["added"]) if rows else 0

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
    added = await scope.driver.fetchval(ADD_ALL, mark, upto, kept_from)
    await scope.driver.execute(_MOVE, upto)
    return int(added)
