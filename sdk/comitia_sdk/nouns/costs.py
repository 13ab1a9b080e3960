"""Money."""

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from datetime import datetime
from typing import BinaryIO, Final, cast

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.cost.v1 import (
    budget_service_pb2,
    budget_service_pb2_grpc,
    cost_pb2,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    price_list_pb2,
    pricing_service_pb2,
    pricing_service_pb2_grpc,
    rollup_pb2,
)
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of
from comitia_sdk.errors import InvalidRequest

#: What can be taken off a budget, by its field in the contract.
_TERMS: Final = {
    "tokens": "limit_tokens",
    "calls": "limit_calls",
    "wall_ms": "limit_wall_ms",
    "mode": "mode",
    "warn_at_percent": "warn_at_percent",
    "period": "period",
    "zone": "zone",
}


class AsyncCosts:
    """Money: what was spent, and how much may be."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ledger = ledger_service_pb2_grpc.LedgerServiceStub(connection.channel)
        self._budgets = budget_service_pb2_grpc.BudgetServiceStub(connection.channel)
        self._prices = pricing_service_pb2_grpc.PricingServiceStub(connection.channel)

    async def summary(
        self,
        *,
        by: str = "model",
        start: datetime | None = None,
        end: datetime | None = None,
        run_id: str = "",
        project: str = "",
        agent_name: str = "",
        max_lines: int = 0,
    ) -> ledger_service_pb2.GetCostSummaryResponse:
        """Adds up charges by model, provider, agent, run, project, kind or tool, dearest first.

        Args:
            start, end: aware; None is without bound.
            max_lines: the dearest so many; 0 gives up to 500.
        """
        request = ledger_service_pb2.GetCostSummaryRequest(
            by=_dimension(by),
            start_time=_time(start),
            end_time=_time(end),
            run_id=run_id,
            project=project,
            agent_name=agent_name,
            max_lines=max_lines,
        )
        return await self._connection.call(self._ledger.GetCostSummary, request)

    async def series(
        self,
        *,
        by: str | None = None,
        step: str = "day",
        start: datetime | None = None,
        end: datetime | None = None,
        run_id: str = "",
        project: str = "",
        agent_name: str = "",
        max_lines: int = 0,
    ) -> ledger_service_pb2.GetCostSeriesResponse:
        """Adds up charges hour by hour or day by day of UTC, the dearest values of `by` each for itself.

        Args:
            step: `hour` or `day`.
            start, end: aware; None is 24 hours or 30 days ago, and now.
            max_lines: at most so many beside the rest; 0 means 10.
        """
        request = ledger_service_pb2.GetCostSeriesRequest(
            by=_dimension(by) if by else ledger_service_pb2.COST_DIMENSION_UNSPECIFIED,
            step=cast(rollup_pb2.CostStep.ValueType, number_of(rollup_pb2.CostStep, step, field="step")),
            start_time=_time(start),
            end_time=_time(end),
            run_id=run_id,
            project=project,
            agent_name=agent_name,
            max_lines=max_lines,
        )
        return await self._connection.call(self._ledger.GetCostSeries, request)

    async def export(
        self,
        *,
        form: str = "csv",
        detail: str = "day",
        start: datetime | None = None,
        end: datetime | None = None,
        run_id: str = "",
        project: str = "",
        agent_name: str = "",
    ) -> AsyncGenerator[bytes]:
        """Gives the file of what is charged to whom in pieces.

        Args:
            form: `csv` or `json`.
            detail: what a line stands for: `day`, `hour` or `event`.
            start, end: aware; None is without bound.
        """
        forms, details = rollup_pb2.CostExportFormat, rollup_pb2.CostExportDetail
        request = ledger_service_pb2.ExportCostsRequest(
            format=cast(rollup_pb2.CostExportFormat.ValueType, number_of(forms, form, field="format")),
            detail=cast(rollup_pb2.CostExportDetail.ValueType, number_of(details, detail, field="detail")),
            start_time=_time(start),
            end_time=_time(end),
            run_id=run_id,
            project=project,
            agent_name=agent_name,
        )
        async with aclosing(self._connection.stream(self._ledger.ExportCosts, request)) as pieces:
            async for piece in pieces:
                yield piece.data

    async def save(
        self,
        file: BinaryIO,
        *,
        form: str = "csv",
        detail: str = "day",
        start: datetime | None = None,
        end: datetime | None = None,
        run_id: str = "",
        project: str = "",
        agent_name: str = "",
        told: Callable[[int], None] | None = None,
    ) -> int:
        """Writes what is charged to whom to a file; see `export`.

        Args:
            told: called now and then with the number of bytes so far.
        Returns: how many bytes were written.
        """
        pieces = self.export(
            form=form, detail=detail, start=start, end=end, run_id=run_id, project=project, agent_name=agent_name
        )
        written = 0
        async with aclosing(pieces):
            async for piece in pieces:
                written += file.write(piece)
                if told is not None:
                    told(written)
        return written

    async def events(self, *, run_id: str = "", page_size: int = 0) -> AsyncGenerator[cost_pb2.CostEvent]:
        """Gives charges, newest first."""
        request = ledger_service_pb2.ListCostEventsRequest(run_id=run_id, page_size=page_size)
        async for page in self._connection.pages(self._ledger.ListCostEvents, request):
            for event in page.cost_events:
                yield event

    async def budget(self, budget_id: str = "tenant") -> cost_pb2.Budget:
        """Fetches a budget, by id or as `tenant`, `project:…`, `agent:…`, `run:…` or `step:…/…`. Raises: NotFound."""
        request = budget_service_pb2.GetBudgetRequest(budget_id=budget_id)
        return (await self._connection.call(self._budgets.GetBudget, request)).budget

    async def budgets(self, *, scope: str = "", page_size: int = 0) -> AsyncGenerator[cost_pb2.Budget]:
        """Gives budgets, newest first; of one scope (`tenant`, `run`, `project`, `agent`, `step`) or all."""
        wanted = number_of(cost_pb2.BudgetScope, scope, field="scope") if scope else 0
        request = budget_service_pb2.ListBudgetsRequest(
            page_size=page_size, scope=cast(cost_pb2.BudgetScope.ValueType, wanted)
        )
        async for page in self._connection.pages(self._budgets.ListBudgets, request):
            for budget in page.budgets:
                yield budget

    async def budget_status(self, budget_id: str = "tenant") -> budget_service_pb2.GetBudgetStatusResponse:
        """Tells how full a budget is, and what it will have spent at the end of its period. Raises: NotFound."""
        request = budget_service_pb2.GetBudgetStatusRequest(budget_id=budget_id)
        return await self._connection.call(self._budgets.GetBudgetStatus, request)

    async def budget_tree(self, *, most_runs: int = 0) -> budget_service_pb2.GetBudgetTreeResponse:
        """Gives the tenant's budgets as a tree, with those of the newest runs."""
        request = budget_service_pb2.GetBudgetTreeRequest(most_runs=most_runs)
        return await self._connection.call(self._budgets.GetBudgetTree, request)

    async def budget_alerts(self, budget_id: str = "", *, page_size: int = 0) -> AsyncGenerator[cost_pb2.BudgetAlert]:
        """Gives what happened to budgets that people should know, newest first; of one budget or of all.

        Args:
            budget_id: its id, also of one that was removed, or its name as for `budget`.
        Raises: NotFound.
        """
        request = budget_service_pb2.ListBudgetAlertsRequest(budget_id=budget_id, page_size=page_size)
        async for page in self._connection.pages(self._budgets.ListBudgetAlerts, request):
            for alert in page.alerts:
                yield alert

    async def set_budget(
        self,
        limit_nano_usd: int | None = None,
        *,
        project: str = "",
        agent: str = "",
        step: str = "",
        tokens: int | None = None,
        calls: int | None = None,
        wall_ms: int | None = None,
        mode: str = "",
        warn_at_percent: int = 0,
        period: str = "",
        zone: str = "",
        reset: Collection[str] = (),
    ) -> cost_pb2.Budget:
        """Makes or changes the budget of a project, an agent or a step (`run_…/rounds/2`), or the tenant's own.

        What is not given stays as it is; a new budget has defaults for it. Calls spend from it by what they are; nobody
        has to name it.

        Args:
            limit_nano_usd: the limit on money; a new budget needs one.
            tokens, calls, wall_ms: limits besides money.
            mode: `hard` refuses, `soft` warns only, `degrade` lets only the cheapest models through from
                `warn_at_percent` (80 unless told otherwise) on.
            period: `hour`, `day`, `week` or `month` in the time zone `zone` (UTC unless told otherwise).
            reset: what gets its default again, by the names above: `{"tokens", "period"}` takes these off.
        Raises: InvalidRequest; LimitReached: there are too many, or it is beyond the tenant's quota.
        """
        scope, name = _node(project=project, agent=agent, step=step)
        unknown = sorted(set(reset) - _TERMS.keys())
        if unknown:
            sentence = f"{unknown[0]!r} cannot be reset; what can be is {', '.join(_TERMS)}"
            raise InvalidRequest(sentence, reason="INVALID_FIELD", field="reset")
        given = {
            "tokens": tokens is not None,
            "calls": calls is not None,
            "wall_ms": wall_ms is not None,
            "mode": mode,
            "warn_at_percent": warn_at_percent,
            "period": period,
            "zone": zone,
        }
        both = sorted(name for name in reset if given[name])
        if both:
            raise InvalidRequest(f"{both[0]!r} is given and reset at once", reason="INVALID_FIELD", field="reset")
        paths = [_TERMS[name] for name, one in given.items() if one or name in reset]
        request = budget_service_pb2.SetBudgetRequest(
            scope=cast(cost_pb2.BudgetScope.ValueType, scope),
            name=name,
            limit_nano_usd=limit_nano_usd,
            limit_tokens=tokens,
            limit_calls=calls,
            limit_wall_ms=wall_ms,
            mode=cast(cost_pb2.BudgetMode.ValueType, number_of(cost_pb2.BudgetMode, mode, field="mode") if mode else 0),
            warn_at_percent=warn_at_percent,
            period=cast(
                cost_pb2.BudgetPeriod.ValueType,
                number_of(cost_pb2.BudgetPeriod, period, field="period") if period else 0,
            ),
            zone=zone,
            update_mask=FieldMask(paths=[*([] if limit_nano_usd is None else ["limit_nano_usd"]), *paths]),
        )
        return (await self._connection.call(self._budgets.SetBudget, request)).budget

    async def remove_budget(self, budget_id: str) -> cost_pb2.Budget:
        """Removes the budget of a project, an agent or a step. Raises: NotFound, FailedPrecondition."""
        request = budget_service_pb2.RemoveBudgetRequest(budget_id=budget_id)
        return (await self._connection.call(self._budgets.RemoveBudget, request)).budget

    async def set_limit(self, limit_nano_usd: int, *, budget_id: str = "tenant") -> cost_pb2.Budget:
        """Changes a budget's limit. Raises: NotFound, InvalidRequest."""
        request = budget_service_pb2.SetBudgetLimitRequest(budget_id=budget_id, limit_nano_usd=limit_nano_usd)
        return (await self._connection.call(self._budgets.SetBudgetLimit, request)).budget

    async def reprice(
        self,
        start: datetime,
        end: datetime | None = None,
        *,
        apply: bool = False,
        unpriced: bool = False,
        note: str = "",
    ) -> ledger_service_pb2.RepriceEventsResponse:
        """Shows what the price table of now makes of charges of the past, per model, or writes that.

        Args:
            start, end: when the calls held their money, aware; None is now.
            apply: writes it; without, nothing is changed.
            unpriced: only charges of models whose price was unknown, however old they are.
            note: why; it stands with each entry.
        """
        request = ledger_service_pb2.RepriceEventsRequest(
            start_time=_time(start),
            end_time=_time(end),
            apply=apply,
            unpriced=unpriced,
            note=note,
        )
        return await self._connection.call(self._ledger.RepriceEvents, request, timeout=60.0)

    async def import_prices(
        self, content: str, *, form: str, source: str, apply: bool = False, confirm_unit: bool = False
    ) -> pricing_service_pb2.ImportPricesResponse:
        """Shows what a price list would change for all tenants, or imports it; for operators.

        Args:
            content: the list; `price_list.proto` says what it looks like.
            form: `csv` or `json`.
            source: where the prices come from.
            apply: imports it; without, nothing is changed.
            confirm_unit: takes prices that are far from what their models cost; without, they are refused.
        Raises: InvalidRequest: its message names every fault of the list by line and field.
        """
        number = number_of(price_list_pb2.PriceListFormat, form, field="format")
        request = pricing_service_pb2.ImportPricesRequest(
            content=content,
            format=cast(price_list_pb2.PriceListFormat.ValueType, number),
            source=source,
            apply=apply,
            confirm_unit=confirm_unit,
        )
        return await self._connection.call(self._prices.ImportPrices, request, timeout=60.0)

    async def unknown_price(self) -> price_list_pb2.UnknownPrice:
        """Tells what is done with calls of models whose price is unknown."""
        request = pricing_service_pb2.GetUnknownPriceRequest()
        return (await self._connection.call(self._prices.GetUnknownPrice, request)).unknown_price

    async def set_unknown_price(
        self, rule: str, *, ceiling_nano_usd_per_million: int = 0
    ) -> price_list_pb2.UnknownPrice:
        """Has calls of models whose price is unknown refused, or held and charged at a ceiling and marked.

        Args:
            rule: `refuse` or `flag`.
            ceiling_nano_usd_per_million: the most that a million tokens may cost, with `flag`; 0: the lowest that the
                operator allows.
        Raises: InvalidRequest: a ceiling lower than that.
        """
        number = number_of(price_list_pb2.UnknownPriceRule, rule, field="rule")
        request = pricing_service_pb2.SetUnknownPriceRequest(
            rule=cast(price_list_pb2.UnknownPriceRule.ValueType, number),
            ceiling_nano_usd_per_million=ceiling_nano_usd_per_million,
        )
        return (await self._connection.call(self._prices.SetUnknownPrice, request)).unknown_price

    async def prices(self, *, provider: str = "", page_size: int = 0) -> AsyncGenerator[cost_pb2.Price]:
        """Gives the prices that hold now."""
        request = pricing_service_pb2.ListPricesRequest(provider=provider, page_size=page_size)
        async for page in self._connection.pages(self._prices.ListPrices, request):
            for price in page.prices:
                yield price


def _dimension(by: str) -> ledger_service_pb2.CostDimension.ValueType:
    number = number_of(ledger_service_pb2.CostDimension, by, field="by")
    return cast(ledger_service_pb2.CostDimension.ValueType, number)


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _node(*, project: str, agent: str, step: str) -> tuple[int, str]:
    given = {
        cost_pb2.BUDGET_SCOPE_PROJECT: project,
        cost_pb2.BUDGET_SCOPE_AGENT: agent,
        cost_pb2.BUDGET_SCOPE_STEP: step,
    }
    named = [(int(scope), name) for scope, name in given.items() if name]
    if len(named) > 1:
        raise InvalidRequest("name one of project, agent and step", reason="INVALID_FIELD", field="name")
    return named[0] if named else (int(cost_pb2.BUDGET_SCOPE_TENANT), "")
