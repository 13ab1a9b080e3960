"""Adds up the ledger by hour, by span and by who spent."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.hold import CostKind
from services.cost.domain.use_history import DailyUse, Use
from services.cost.storage.tables import COST_EVENT, SPEND_ALERT
from services.cost.storage.whole import clamped, whole
from services.cost.usecases.forecast_ports import WHOLE, Shares, Spender, SpendPart
from services.meshkit.content import Usage
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.scope import maintenance_scope, tenant_scope

#: Those who spent less than so many others are not behind a spike.
_MOST_SPENDERS: Final = 100
#: Uses of models that advice is looked for in, the dearest first.
_MOST_USES: Final = 200
_MOST_TENANTS: Final = 100_000
_WARM: Final = timedelta(minutes=5)
_COLUMNS: Final = {
    Spender.RUN: COST_EVENT.c.run_id,
    Spender.AGENT: COST_EVENT.c.agent_name,
    Spender.MODEL: COST_EVENT.c.model,
    Spender.PROJECT: COST_EVENT.c.project,
}
#: Entries that price charges of the past anew are no calls of the hour that they were written in.
_OF_CALLS: Final = COST_EVENT.c.note == ""
_PROMPT: Final = " + ".join(
    f"{name}_tokens" for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_in", "image")
)
_ANSWER: Final = " + ".join(f"{name}_tokens" for name in ("output", "reasoning", "audio_out"))
_SUMS: Final = ", ".join(f"{whole(f'sum({name}_tokens)')} AS {name}" for name in USAGE_CLASSES)
_TOKENS: Final = ", ".join(f"{name}_tokens" for name in USAGE_CLASSES)
#: A prompt is long when it is over three times the usual length, and that much longer for its answer, too.
_LONG: Final = "prompt > 3 * usual_prompt AND prompt::float8 / greatest(answer, 1) > 3 * usual_ratio"
# Corrections are left out with what they correct: a bound that was assumed says nothing about how models are used.
_USES: Final = text(
    f"""
    WITH dearest AS (
        SELECT kind, provider, model, agent_name,
            row_number() OVER (ORDER BY sum(cost_nano_usd) DESC, kind, provider, model, agent_name) AS use
        FROM cost_event
        WHERE tenant_id = :tenant AND created_time >= :start AND created_time < :end AND NOT assumed AND note = ''
            AND kind IN (1, 2)
        GROUP BY kind, provider, model, agent_name ORDER BY use LIMIT :most
    ), call AS (
        SELECT use, created_time, cost_nano_usd, {_TOKENS}, {_PROMPT} AS prompt, {_ANSWER} AS answer,
            created_time - lag(created_time) OVER (PARTITION BY use ORDER BY created_time) <= :warm AS warm
        FROM cost_event JOIN dearest USING (kind, provider, model, agent_name)
        WHERE tenant_id = :tenant AND created_time >= :start AND created_time < :end AND NOT assumed AND note = ''
    ), usual AS (
        SELECT use,
            percentile_disc(0.05) WITHIN GROUP (ORDER BY prompt) AS short_prompt,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY prompt) AS usual_prompt,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY prompt::float8 / greatest(answer, 1)) AS usual_ratio
        FROM call GROUP BY use
    ), by_day AS (
        SELECT use, short_prompt, date_trunc('day', created_time, 'UTC') AS day,
            count(*) AS calls, {whole("sum(cost_nano_usd)")} AS cost, {_SUMS},
            count(*) FILTER (WHERE warm) AS warm_calls,
            count(*) FILTER (WHERE {_LONG}) AS long_calls,
            {whole(f"coalesce(sum(prompt - 2 * usual_prompt) FILTER (WHERE {_LONG}), 0)")} AS long_tokens
        FROM call JOIN usual USING (use) GROUP BY use, short_prompt, day
    )
    SELECT kind, provider, model, agent_name, by_day.* FROM by_day JOIN dearest USING (use)
    ORDER BY use, day"""  # noqa: S608 - names are constants
)


class LedgerSpendReader:
    """A `SpendReader` of the ledger itself. A tenant sees its own charges only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def hourly(
        self, tenant: TenantId, *, start: datetime, end: datetime, part: SpendPart = WHOLE
    ) -> dict[datetime, int]:
        """See `SpendReader.hourly`."""
        hour = func.date_trunc("hour", COST_EVENT.c.created_time, "UTC").label("hour")
        query = select(hour, func.sum(COST_EVENT.c.cost_nano_usd)).where(
            COST_EVENT.c.tenant_id == tenant,
            COST_EVENT.c.created_time >= start,
            COST_EVENT.c.created_time < end,
            _OF_CALLS,
            *_of(part),
        )
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = await scope.execute(query.group_by(text("hour")))
            return {begin.astimezone(UTC): clamped(int(spent)) for begin, spent in rows}

    async def since(self, tenant: TenantId, *starts: datetime) -> tuple[int, ...]:
        """See `SpendReader.since`."""
        sums = [_sum(COST_EVENT.c.created_time >= start) for start in starts]
        spent = (COST_EVENT.c.tenant_id == tenant, COST_EVENT.c.created_time >= min(starts), _OF_CALLS)
        query = select(*sums).where(*spent)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return tuple(clamped(int(spent)) for spent in (await scope.execute(query)).one())

    async def shares(self, tenant: TenantId, by: Spender, *, hour: datetime, start: datetime) -> Shares:
        """See `SpendReader.shares`."""
        now = _sum(COST_EVENT.c.created_time >= hour)
        query = (
            select(_COLUMNS[by].label("name"), now.label("now"), _sum(COST_EVENT.c.created_time < hour).label("before"))
            .where(COST_EVENT.c.tenant_id == tenant, COST_EVENT.c.created_time >= start, _OF_CALLS)
            .group_by(text("name"))
            .having(now > 0)
            .order_by(now.desc(), text("name"))
            .limit(_MOST_SPENDERS)
        )
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = (await scope.execute(query)).all()
        return Shares(
            since={row.name: clamped(int(row.now)) for row in rows},
            before={row.name: clamped(int(row.before)) for row in rows},
        )

    async def uses(self, tenant: TenantId, *, start: datetime, end: datetime) -> list[Use]:
        """See `SpendReader.uses`."""
        values = {"tenant": tenant, "start": start, "end": end, "warm": _WARM, "most": _MOST_USES}
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = (await scope.execute(_USES, values)).mappings().all()
        grouped: dict[int, list[RowMapping]] = {}
        for row in rows:
            grouped.setdefault(row["use"], []).append(row)
        return [_use(some) for some in grouped.values()]


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


def _sum(*conditions: ColumnElement[bool]) -> ColumnElement[Any]:
    spent: Any = func.sum(COST_EVENT.c.cost_nano_usd)
    return func.coalesce(spent.filter(*conditions) if conditions else spent, 0)


def _of(part: SpendPart) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if part.run_id is not None:
        conditions.append(COST_EVENT.c.run_id == part.run_id)
    if part.agent is not None:
        conditions.append(COST_EVENT.c.agent_name == part.agent)
    if part.project is not None:
        conditions.append(COST_EVENT.c.project == part.project)
    if part.path is not None:
        below = func.starts_with(COST_EVENT.c.path, f"{part.path}/")
        conditions.append((COST_EVENT.c.path == part.path) | below)
    return conditions


def _use(rows: Sequence[RowMapping]) -> Use:
    first = rows[0]
    return Use(
        kind=CostKind(first["kind"]),
        provider=first["provider"],
        model=first["model"],
        agent=first["agent_name"],
        short_prompt_tokens=int(first["short_prompt"]),
        days=tuple(
            DailyUse(
                day=row["day"].astimezone(UTC).date(),
                calls=int(row["calls"]),
                usage=Usage(**{name: int(row[name]) for name in USAGE_CLASSES}),
                cost=NanoUsd(int(row["cost"])),
                warm_calls=int(row["warm_calls"]),
                long_calls=int(row["long_calls"]),
                long_tokens=int(row["long_tokens"]),
            )
            for row in rows
        ),
    )
