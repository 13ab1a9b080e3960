"""Forecasts what will have been spent at the end of a month or of a budget's period."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.cost.domain.baseline import MOST_HOURS
from services.cost.domain.budget import Budget, BudgetId, BudgetScope
from services.cost.domain.errors import BudgetWithoutPeriod
from services.cost.domain.forecast import Forecast, forecast
from services.cost.domain.hourly_spend import HOUR, HourlySpend, hour_of
from services.cost.domain.node import NodeKey
from services.cost.domain.period import Period, end_of, start_of
from services.cost.domain.rollup import Span
from services.cost.usecases.forecast_ports import SpendPart, SpendReader
from services.cost.usecases.get_budget import GetBudget
from services.cost.usecases.ledger_ports import Dimension, LedgerReader, SummaryQuery
from services.cost.usecases.spend_history import SpendHistory
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd

_INSTANT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodForecast:
    """A forecast, the period that it is about, and the limit of that period if there is one."""

    start: datetime
    end: datetime
    forecast: Forecast
    limit: NanoUsd | None = None


class ForecastSpend:
    """Forecasts from the hours of the last eight weeks."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        reader: SpendReader,
        history: SpendHistory,
        get_budget: GetBudget,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._history = history
        self._get_budget = get_budget
        self._clock = clock

    async def of_month(self, tenant: TenantId, zone: str) -> PeriodForecast:
        """Forecasts all that the tenant spends in this calendar month of a time zone."""
        now = self._clock.now()
        start, end = start_of(Period.MONTH, zone, now), end_of(Period.MONTH, zone, now)
        month = SummaryQuery(by=Dimension.KIND, span=Span(start=start))
        spent = max(0, (await self._ledger.summary(tenant, month, most_lines=1)).cost)
        history = await self._history(tenant, now=now)
        return PeriodForecast(start=start, end=end, forecast=forecast(history, spent=spent, now=now, end=end))

    async def of_budget(self, tenant: TenantId, wanted: BudgetId | NodeKey) -> PeriodForecast:
        """Forecasts what is spent from a budget in its period.

        Raises: BudgetNotFound, NodeNotFound, BudgetWithoutPeriod.
        """
        budget = await self._get_budget(tenant, wanted)
        if budget.turn is None:
            raise BudgetWithoutPeriod(budget.id, name=budget.full_name)
        now = min(self._clock.now(), budget.turn - _INSTANT)
        history = await self._history_of(tenant, budget, now)
        return PeriodForecast(
            start=budget.began,
            end=budget.turn,
            forecast=forecast(history, spent=budget.spent, now=now, end=budget.turn),
            limit=budget.limit,
        )

    async def _history_of(self, tenant: TenantId, budget: Budget, now: datetime) -> HourlySpend:
        if budget.scope is BudgetScope.TENANT:
            return await self._history(tenant, now=now)
        hour = hour_of(now)
        sums = await self._reader.hourly(tenant, start=hour - MOST_HOURS * HOUR, end=hour, part=_part_of(budget))
        return HourlySpend.until(hour, sums, most=MOST_HOURS)


def _part_of(budget: Budget) -> SpendPart:
    match budget.scope:
        case BudgetScope.PROJECT:
            return SpendPart(project=budget.name)
        case BudgetScope.AGENT:
            return SpendPart(agent=budget.name)
        case BudgetScope.STEP:
            run_id, _, path = budget.name.partition("/")
            return SpendPart(run_id=run_id, path=path)
        case _:
            return SpendPart(run_id=budget.run_id)
