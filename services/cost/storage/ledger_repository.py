"""Reads the ledger, and its sums together with the entries that are not in them yet.

A sum is read in one statement, so from one snapshot: what has reached the roll-ups there is told from what has not by
the mark that stood beside them. Figures are the same before, during and after a roll-up.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Select,
    and_,
    case,
    false,
    func,
    literal,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.cost_event import CostEvent
from services.cost.domain.hold import CostKind
from services.cost.domain.rollup import Span, Step, cover, exact
from services.cost.storage.rows import Row, cost_event_of
from services.cost.storage.tables import COST_DAY, COST_EVENT, COST_HOUR, COST_RUN_HOUR, ROLLUP_MARK, UNPRICED
from services.cost.storage.whole import clamped
from services.cost.usecases.ledger_ports import (
    CostFilter,
    Dimension,
    ExportLine,
    SeriesLine,
    SeriesQuery,
    Summary,
    SummaryLine,
    SummaryQuery,
    Sums,
)
from services.meshkit.content import Usage
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.scope import Scope, tenant_scope

_KEYS: Final = {
    Dimension.MODEL: "model",
    Dimension.PROVIDER: "provider",
    Dimension.AGENT: "agent_name",
    Dimension.RUN: "run_id",
    Dimension.PROJECT: "project",
    Dimension.KIND: "kind",
    Dimension.TOOL: "model",
}
_TOKENS: Final = tuple(f"{name}_tokens" for name in USAGE_CLASSES)
_ADDED: Final = ("event_count", *_TOKENS, "cost_nano_usd", "assumed_nano_usd", *UNPRICED)
_NAMES: Final = ("project", "agent_name", "provider", "model", "kind")
_USES: Final = tuple(int(kind) for kind in CostKind if kind.flat)
#: Beyond every transaction. A range with two ends is planned as what it is: small.
_NO_END: Final = 2**63 - 1


class LedgerRepository:
    """Entries and sums of one tenant at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(
        self, tenant: TenantId, only: CostFilter, *, size: int, after: tuple[datetime, UUID] | None
    ) -> list[CostEvent]:
        """See `LedgerReader.page`."""
        place = (COST_EVENT.c.created_time, COST_EVENT.c.id)
        query = select(COST_EVENT).where(COST_EVENT.c.tenant_id == tenant, *_entries(only))
        if after is not None:
            query = query.where(tuple_(*place) < tuple_(*after))
        query = query.order_by(*(column.desc() for column in place)).limit(size)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [cost_event_of(row) for row in (await scope.execute(query)).mappings()]

    async def ascending(
        self,
        tenant: TenantId,
        span: Span,
        only: CostFilter,
        *,
        size: int,
        after: tuple[datetime, UUID] | None,
    ) -> list[CostEvent]:
        """See `LedgerReader.ascending`."""
        place = (COST_EVENT.c.created_time, COST_EVENT.c.id)
        query = select(COST_EVENT).where(
            COST_EVENT.c.tenant_id == tenant, _within(COST_EVENT.c.created_time, (span,)), *_entries(only)
        )
        if after is not None:
            query = query.where(tuple_(*place) > tuple_(*after))
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            await _refuse_forgotten(scope, tenant, span, only)
            return [cost_event_of(row) for row in (await scope.execute(query.order_by(*place).limit(size))).mappings()]

    async def summary(self, tenant: TenantId, query: SummaryQuery, *, most_lines: int) -> Summary:
        """See `LedgerReader.summary`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            parts = await _parts(scope, tenant, query.span, query.only, by=query.by)
            rows = (await scope.execute(_summed(parts, most_lines))).mappings().all()
        return Summary(
            lines=tuple(SummaryLine(key=_key(row["key"], query.by) or "", sums=_sums(row)) for row in rows),
            events=int(rows[0]["total_events"]) if rows else 0,
            cost=NanoUsd(clamped(int(rows[0]["total"]))) if rows else NanoUsd(0),
            assumed=NanoUsd(clamped(int(rows[0]["total_assumed"]))) if rows else NanoUsd(0),
            unpriced_events=int(rows[0]["total_unpriced_events"]) if rows else 0,
            unpriced=NanoUsd(clamped(int(rows[0]["total_unpriced"]))) if rows else NanoUsd(0),
        )

    async def series(self, tenant: TenantId, query: SeriesQuery, *, most_lines: int) -> list[SeriesLine]:
        """See `LedgerReader.series`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            parts = await _parts(scope, tenant, query.span, query.only, by=query.by, step=query.step)
            rows = (await scope.execute(_by_step(parts, most_lines))).mappings().all()
        points: dict[str | None, dict[datetime, Sums]] = {}
        for row in rows:
            points.setdefault(_key(row["key"], query.by), {})[row["start"]] = _sums(row)
        return [SeriesLine(key=key, points=found) for key, found in sorted(points.items(), key=_dearest_first)]

    async def lines(
        self, tenant: TenantId, step: Step, span: Span, only: CostFilter, *, size: int
    ) -> AsyncGenerator[Sequence[ExportLine]]:
        """See `LedgerReader.lines`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            parts = await _parts(scope, tenant, span, only, by=None, step=step, names=_NAMES)
            keys = [parts.c.start, *(parts.c[name] for name in _NAMES)]
            query = select(*keys, *_added(parts)).group_by(*keys).having(_something(parts)).order_by(*keys)
            async with scope.stream(query) as result:
                async for rows in result.mappings().partitions(size):
                    yield [_export_line(row) for row in rows]


async def _parts(
    scope: Scope,
    tenant: TenantId,
    span: Span,
    only: CostFilter,
    *,
    by: Dimension | None,
    step: Step | None = None,
    names: Sequence[str] = (),
) -> CTE:
    """Gives rows that add up to what was asked for: sums of days and hours, and entries that no sum takes in.

    Raises: Invalid: parts of it are not kept.
    """
    of_runs = by is Dimension.RUN
    read = partial(_read, tenant=tenant, only=only, by=by, step=step, names=names)
    # Only the entries know both a run and anything else.
    if (only.run_id is not None and not of_runs) or (of_runs and (only.project or only.agent_name)):
        await _refuse_forgotten(scope, tenant, span, only)
        return read(COST_EVENT, COST_EVENT.c.created_time, (span,)).cte()
    exact(span, kept_from=await _kept_from(scope), step=Step.HOUR)
    whole = cover(span, days=not of_runs and step is not Step.HOUR)
    hours = COST_RUN_HOUR if of_runs else COST_HOUR
    mark = select(ROLLUP_MARK.c.ledger_xid).scalar_subquery()
    number = COST_EVENT.c.ledger_xid
    # The OFFSET fences it: no plan looks for the few new entries among all of the tenant, their number finds them.
    new = select(COST_EVENT).where(number >= mark, number < _NO_END).offset(0).subquery("new")
    return union_all(
        read(COST_DAY, COST_DAY.c.day, whole.days),
        read(hours, hours.c.hour, whole.hours),
        read(COST_EVENT, COST_EVENT.c.created_time, whole.moments, number < mark),
        _taken_off(read(COST_EVENT, COST_EVENT.c.created_time, whole.gaps, number < mark)),
        read(new, new.c.created_time, (span,)),
    ).cte()


async def _kept_from(scope: Scope) -> datetime | None:
    return (await scope.execute(select(ROLLUP_MARK.c.kept_from))).scalar_one()


async def _refuse_forgotten(scope: Scope, tenant: TenantId, span: Span, only: CostFilter) -> None:
    """Refuses to list single charges where sums tell of charges that are gone.

    Within a project its own sums tell, and those of a run only where entries show that the run is the project's: what
    other projects spent makes no difference.
    Raises: Invalid.
    """
    kept_from = await _kept_from(scope)
    if kept_from is None or (span.start is not None and span.start >= kept_from):
        return
    of_run = only.run_id is not None and (only.project is None or await _has_entries(scope, tenant, only))
    sums, step = (COST_RUN_HOUR, "hour") if of_run else (COST_DAY, "day")
    time = sums.c[step]
    named = true()
    if of_run:
        named = sums.c.run_id == only.run_id
    elif only.project is not None:
        named = sums.c.project == only.project
    since = None if span.start is None else Step[step.upper()].floor(span.start)
    gone = select(true()).where(
        sums.c.tenant_id == tenant, named, time < kept_from, _within(time, (Span(since, span.end),))
    )
    if (await scope.execute(gone.limit(1))).first() is not None:
        raise Invalid("start_time", f"must not be before {kept_from:%Y-%m-%d}: single charges are kept from then on")


async def _has_entries(scope: Scope, tenant: TenantId, only: CostFilter) -> bool:
    """True when the run that is asked for has entries of the project that is asked for."""
    mine = CostFilter(run_id=only.run_id, project=only.project)
    query = select(true()).where(COST_EVENT.c.tenant_id == tenant, *_entries(mine))
    return (await scope.execute(query.limit(1))).first() is not None


def _entries(only: CostFilter) -> list[ColumnElement[bool]]:
    named = (("run_id", only.run_id), ("project", only.project), ("agent_name", only.agent_name))
    return [COST_EVENT.c[name] == value for name, value in named if value is not None]


def _read(
    table: FromClause,
    time: ColumnElement[Any],  # a moment, with or without its sums
    spans: Sequence[Span],
    *conditions: ColumnElement[bool],
    tenant: TenantId,
    only: CostFilter,
    by: Dimension | None,
    step: Step | None,
    names: Sequence[str],
) -> Select[Any]:
    """Writes the rows of one table that lie in these spans: the time, the key and the numbers."""
    columns: list[ColumnElement[Any]] = [table.c[name] for name in names]
    if by is not None:
        # Sums by day know no run; none of them is asked for then.
        columns.append(table.c[_KEYS[by]].label("key") if _KEYS[by] in table.c else null().label("key"))
    else:
        columns.append(literal("").label("key"))
    if step is not None:
        columns.append(func.date_trunc(step.name.lower(), time, "UTC").label("start"))
    if "reversal" in table.c:
        unpriced = and_(table.c.price_digest.is_(None), table.c.kind.not_in(_USES))
        columns += [
            case((table.c.reversal, -1), else_=1).label("event_count"),
            *(table.c[name] for name in _TOKENS),
            table.c.cost_nano_usd,
            case((table.c.assumed, table.c.cost_nano_usd), else_=0).label("assumed_nano_usd"),
            case((unpriced, case((table.c.reversal, -1), else_=1)), else_=0).label("unpriced_event_count"),
            case((unpriced, table.c.cost_nano_usd), else_=0).label("unpriced_nano_usd"),
        ]
    else:
        columns += [table.c[name] for name in _ADDED]
    query = select(*columns).where(table.c.tenant_id == tenant, *conditions, _within(time, spans))
    for name, value in (("run_id", only.run_id), ("project", only.project), ("agent_name", only.agent_name)):
        if value is not None:
            query = query.where(table.c[name] == value if name in table.c else false())
    if by is Dimension.TOOL:
        query = query.where(table.c.kind.in_(_USES))
    return query


def _taken_off(rows: Select[Any]) -> Select[Any]:
    """Turns what rows add into what they take off."""
    had = rows.subquery()
    return select(*((-column).label(column.name) if column.name in _ADDED else column for column in had.c))


def _within(time: ColumnElement[Any], spans: Sequence[Span]) -> ColumnElement[bool]:
    return or_(
        false(),
        *(
            and_(
                true(),
                *(() if span.start is None else (time >= span.start,)),
                *(() if span.end is None else (time < span.end,)),
            )
            for span in spans
        ),
    )


def _summed(parts: CTE, most_lines: int) -> Select[Any]:
    money = func.sum(parts.c.cost_nano_usd)
    # Windows are computed before LIMIT, so the totals take in the lines beyond it.
    totals = [
        func.sum(money).over().label("total"),
        func.sum(func.sum(parts.c.assumed_nano_usd)).over().label("total_assumed"),
        func.sum(func.sum(parts.c.event_count)).over().label("total_events"),
        func.sum(func.sum(parts.c.unpriced_event_count)).over().label("total_unpriced_events"),
        func.sum(func.sum(parts.c.unpriced_nano_usd)).over().label("total_unpriced"),
    ]
    columns = select(parts.c.key, *_added(parts), *totals)
    lines = columns.group_by(parts.c.key).having(_something(parts))
    return lines.order_by(money.desc(), parts.c.key).limit(most_lines)


def _by_step(parts: CTE, most_lines: int) -> Select[Any]:
    dearest = select(parts.c.key).group_by(parts.c.key).having(_something(parts))
    dearest = dearest.order_by(func.sum(parts.c.cost_nano_usd).desc(), parts.c.key)
    key = case((parts.c.key.in_(dearest.limit(most_lines)), parts.c.key)).label("key")
    return select(parts.c.start, key, *_added(parts)).group_by(parts.c.start, key).having(_something(parts))


def _something(parts: CTE) -> ColumnElement[bool]:
    """Leaves out who has no entry in the span, only in an hour that reaches beyond it."""
    return or_(*(func.sum(parts.c[name]) != 0 for name in _ADDED))


def _added(parts: CTE) -> list[ColumnElement[Any]]:
    return [func.sum(parts.c[name]).label(name) for name in _ADDED]


def _key(value: Any, by: Dimension | None) -> str | None:
    """Writes the key of a line; None stands for all that have none."""
    return CostKind(value).name.lower() if by is Dimension.KIND and value is not None else value


def _dearest_first(line: tuple[str | None, dict[datetime, Sums]]) -> tuple[bool, int, str]:
    key, points = line
    return key is None, -sum(sums.cost for sums in points.values()), key or ""


def _export_line(row: Row) -> ExportLine:
    return ExportLine(
        start=row["start"],
        project=row["project"],
        agent_name=row["agent_name"],
        provider=row["provider"],
        model=row["model"],
        kind=CostKind(row["kind"]),
        sums=_sums(row),
    )


def _sums(row: Row) -> Sums:
    return Sums(
        events=int(row["event_count"]),
        usage=Usage(**{name: clamped(int(row[f"{name}_tokens"])) for name in USAGE_CLASSES}),
        cost=NanoUsd(clamped(int(row["cost_nano_usd"]))),
        assumed=NanoUsd(clamped(int(row["assumed_nano_usd"]))),
        unpriced_events=int(row["unpriced_event_count"]),
        unpriced=NanoUsd(clamped(int(row["unpriced_nano_usd"]))),
    )
