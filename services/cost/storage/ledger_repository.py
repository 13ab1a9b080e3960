"""Reads the ledger."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, case, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.cost_event import CostEvent
from services.cost.domain.hold import CostKind
from services.cost.storage.rows import cost_event_of
from services.cost.storage.tables import COST_EVENT
from services.cost.usecases.ports import Dimension, Summary, SummaryLine, SummaryQuery
from services.meshkit.content import Usage
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.scope import tenant_scope

_COLUMNS: Final = {
    Dimension.MODEL: COST_EVENT.c.model,
    Dimension.PROVIDER: COST_EVENT.c.provider,
    Dimension.AGENT: COST_EVENT.c.agent_name,
    Dimension.RUN: COST_EVENT.c.run_id,
    Dimension.PROJECT: COST_EVENT.c.project,
    Dimension.KIND: COST_EVENT.c.kind,
}


class LedgerRepository:
    """Entries of one tenant at a time. They are written by the unit of work only, and never changed."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(
        self, tenant: TenantId, *, run_id: str | None, size: int, after: tuple[datetime, UUID] | None
    ) -> list[CostEvent]:
        """See `LedgerReader.page`."""
        place = (COST_EVENT.c.created_time, COST_EVENT.c.id)
        query = select(COST_EVENT).where(COST_EVENT.c.tenant_id == tenant)
        if run_id is not None:
            query = query.where(COST_EVENT.c.run_id == run_id)
        if after is not None:
            query = query.where(tuple_(*place) < tuple_(*after))
        query = query.order_by(*(column.desc() for column in place)).limit(size)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [cost_event_of(row) for row in (await scope.execute(query)).mappings()]

    async def summary(self, tenant: TenantId, query: SummaryQuery, *, most_lines: int) -> Summary:
        """See `LedgerReader.summary`."""
        key = _COLUMNS[query.by]
        money: Any = func.sum(COST_EVENT.c.cost_nano_usd)
        columns = [
            key.label("key"),
            func.sum(case((COST_EVENT.c.reversal, -1), else_=1)).label("events"),
            *(func.sum(COST_EVENT.c[f"{name}_tokens"]).label(name) for name in USAGE_CLASSES),
            money.label("cost"),
            func.coalesce(money.filter(COST_EVENT.c.assumed), 0).label("assumed"),
        ]
        # Windows are computed before LIMIT, so the totals take in the lines beyond it.
        totals = [
            func.sum(money).over().label("total"),
            func.sum(func.coalesce(money.filter(COST_EVENT.c.assumed), 0)).over().label("total_assumed"),
            func.sum(func.sum(case((COST_EVENT.c.reversal, -1), else_=1))).over().label("total_events"),
        ]
        grouped = (
            select(*columns, *totals)
            .where(COST_EVENT.c.tenant_id == tenant, *_within(query))
            .group_by(key)
            .order_by(money.desc(), key)
            .limit(most_lines)
        )
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = (await scope.execute(grouped)).mappings().all()
        return Summary(
            lines=tuple(_line(row, query.by) for row in rows),
            events=int(rows[0]["total_events"]) if rows else 0,
            cost=NanoUsd(int(rows[0]["total"])) if rows else NanoUsd(0),
            assumed=NanoUsd(int(rows[0]["total_assumed"])) if rows else NanoUsd(0),
        )


def _within(query: SummaryQuery) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if query.start is not None:
        conditions.append(COST_EVENT.c.created_time >= query.start)
    if query.end is not None:
        conditions.append(COST_EVENT.c.created_time < query.end)
    if query.run_id is not None:
        conditions.append(COST_EVENT.c.run_id == query.run_id)
    return conditions


def _line(row: RowMapping, by: Dimension) -> SummaryLine:
    return SummaryLine(
        key=CostKind(row["key"]).name.lower() if by is Dimension.KIND else row["key"],
        events=int(row["events"]),
        usage=Usage(**{name: int(row[name]) for name in USAGE_CLASSES}),
        cost=NanoUsd(int(row["cost"])),
        assumed=NanoUsd(int(row["assumed"])),
    )
