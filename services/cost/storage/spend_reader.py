"""Adds up what was spent by hour, by span and by who spent: sums of hours, and the entries that are not in them yet.

Entries that price charges of the past anew are no calls of the hour that they were written in, so they are taken off
again. A sum is read in one statement, so from one snapshot (docs/decisions/0015-roll-ups.md).
"""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.hourly_spend import HOUR, hour_of
from services.cost.domain.use_history import Use
from services.cost.storage.tables import COST_EVENT, SPEND_ALERT
from services.cost.storage.use_store import uses_between
from services.cost.storage.whole import whole
from services.cost.usecases.forecast_ports import WHOLE, Shares, Spender, SpendPart
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import driver_scope, maintenance_scope

#: Those who spent less than so many others are not behind a spike.
_MOST_SPENDERS: Final = 100
_MOST_TENANTS: Final = 100_000
_COLUMNS: Final = {
    Spender.RUN: "run_id",
    Spender.AGENT: "agent_name",
    Spender.MODEL: "model",
    Spender.PROJECT: "project",
}
#: Charges that no sum has yet. The OFFSET fences it: their number finds them, among all of the tenant nobody looks.
_NEW: Final = f"""(
    SELECT * FROM cost_event
    WHERE ledger_xid >= (SELECT ledger_xid FROM rollup_mark) AND ledger_xid < {2**63 - 1} OFFSET 0)"""  # noqa: S608
_HOUR_OF_EVENT: Final = "date_trunc('hour', created_time, 'UTC')"


def _spent(table: str, which: str, name: str = "''") -> str:
    """Writes the rows that add up to what calls cost from $2 to before $3, full hours."""
    events = f"tenant_id = $1 AND created_time >= $2::timestamptz AND created_time < $3::timestamptz{which}"
    return f"""(
        SELECT hour, {name} AS name, cost_nano_usd AS cost FROM {table}
        WHERE tenant_id = $1 AND hour >= $2::timestamptz AND hour < $3::timestamptz{which}
        UNION ALL
        SELECT {_HOUR_OF_EVENT}, {name}, cost_nano_usd FROM {_NEW} AS new WHERE {events}
        UNION ALL
        SELECT {_HOUR_OF_EVENT}, {name}, -cost_nano_usd FROM cost_event WHERE note <> '' AND {events}
    ) AS spent"""  # noqa: S608 - names are constants


def _by_hour(rows: str) -> str:
    return f"SELECT hour, {whole('sum(cost)')} AS cost FROM {rows} GROUP BY hour"  # noqa: S608 - constants


_WHOLE: Final = _by_hour(_spent("cost_hour", ""))
_OF_RUN: Final = _by_hour(_spent("cost_run_hour", " AND run_id = $4"))
_OF_AGENT: Final = _by_hour(_spent("cost_hour", " AND agent_name = $4"))
_OF_PROJECT: Final = _by_hour(_spent("cost_hour", " AND project = $4"))
#: No sum knows steps; the charges of one run are few.
_OF_STEP: Final = f"""
    SELECT {_HOUR_OF_EVENT} AS hour, {whole("sum(cost_nano_usd)")} AS cost FROM cost_event
    WHERE tenant_id = $1 AND created_time >= $2 AND created_time < $3 AND note = '' AND run_id = $4
        AND (path = $5 OR starts_with(path, $5 || '/'))
    GROUP BY hour"""  # noqa: S608 - a constant
#: By moments $2 and the full hours after them $3: what lies before the first full hour is read from the entries.
_SINCE: Final = f"""
    SELECT {whole("coalesce(sums.cost, 0) + coalesce(begun.cost, 0) + coalesce(new.cost, 0) - coalesce(noted.cost, 0)")}
        AS cost
    FROM unnest($2::timestamptz[], $3::timestamptz[]) WITH ORDINALITY AS since (moment, hour, place)
    CROSS JOIN LATERAL (
        SELECT sum(cost_nano_usd) AS cost FROM cost_hour WHERE tenant_id = $1 AND cost_hour.hour >= since.hour
    ) AS sums
    CROSS JOIN LATERAL (
        SELECT sum(cost_nano_usd) AS cost FROM cost_event
        WHERE tenant_id = $1 AND created_time >= since.moment AND created_time < since.hour
            AND ledger_xid < (SELECT ledger_xid FROM rollup_mark)
    ) AS begun
    CROSS JOIN LATERAL (
        SELECT sum(cost_nano_usd) AS cost FROM {_NEW} AS fresh
        WHERE tenant_id = $1 AND created_time >= since.moment
    ) AS new
    CROSS JOIN LATERAL (
        SELECT sum(cost_nano_usd) AS cost FROM cost_event
        WHERE tenant_id = $1 AND created_time >= since.moment AND note <> ''
    ) AS noted
    ORDER BY place"""  # noqa: S608 - a constant


def _shares(by: Spender) -> str:
    """Writes who spent most from $4 on, and what they spent before it."""
    rows = _spent("cost_run_hour" if by is Spender.RUN else "cost_hour", "", _COLUMNS[by])
    now = whole("coalesce(sum(cost) FILTER (WHERE hour >= $4::timestamptz), 0)")
    before = whole("coalesce(sum(cost) FILTER (WHERE hour < $4::timestamptz), 0)")
    return f"""
        SELECT name, {now} AS now, {before} AS before FROM {rows}
        GROUP BY name HAVING {now} > 0 ORDER BY now DESC, name LIMIT {_MOST_SPENDERS}"""  # noqa: S608 - constants


_SHARES: Final = {by: _shares(by) for by in Spender}
#: After all that is charged.
_NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)


class LedgerSpendReader:
    """A `SpendReader` of the ledger and its sums. A tenant sees its own charges only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def hourly(
        self, tenant: TenantId, *, start: datetime, end: datetime, part: SpendPart = WHOLE
    ) -> dict[datetime, int]:
        """See `SpendReader.hourly`."""
        query, names = _hourly(part)
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            rows = await scope.driver.fetch(query, tenant, start, end, *names)
        return {row["hour"].astimezone(UTC): row["cost"] for row in rows}

    async def since(self, tenant: TenantId, *starts: datetime) -> tuple[int, ...]:
        """See `SpendReader.since`."""
        hours = [hour if hour == start else hour + HOUR for start in starts for hour in (hour_of(start),)]
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            rows = await scope.driver.fetch(_SINCE, tenant, starts, hours)
        return tuple(row["cost"] for row in rows)

    async def shares(self, tenant: TenantId, by: Spender, *, hour: datetime, start: datetime) -> Shares:
        """See `SpendReader.shares`."""
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            rows = await scope.driver.fetch(_SHARES[by], tenant, start, _NEVER, hour)
        return Shares(
            since={row["name"]: row["now"] for row in rows}, before={row["name"]: row["before"] for row in rows}
        )

    async def uses(self, tenant: TenantId, *, start: datetime, end: datetime) -> list[Use]:
        """See `SpendReader.uses`."""
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            return await uses_between(scope, tenant, start=start, end=end)


class SpendingTenants:
    """A `WatchedTenants`, of the role that sees all tenants."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def spending(self, *, since: datetime) -> list[TenantId]:
        """See `WatchedTenants.spending`."""
        charged = select(COST_EVENT.c.tenant_id).where(COST_EVENT.c.created_time >= since)
        alarmed = select(SPEND_ALERT.c.tenant_id).where(SPEND_ALERT.c.state == literal(1))
        query = charged.union(alarmed).order_by("tenant_id").limit(_MOST_TENANTS)
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return [TenantId(tenant) for tenant in (await scope.execute(query)).scalars()]


def _hourly(part: SpendPart) -> tuple[str, tuple[str, ...]]:
    """Gives the statement that adds a part of the spend up, and what it names."""
    match part:
        case SpendPart(run_id=str(run_id), path=str(path)):
            return _OF_STEP, (run_id, path)
        case SpendPart(run_id=str(run_id)):
            return _OF_RUN, (run_id,)
        case SpendPart(agent=str(agent)):
            return _OF_AGENT, (agent,)
        case SpendPart(project=str(project)):
            return _OF_PROJECT, (project,)
        case _:
            return _WHOLE, ()
