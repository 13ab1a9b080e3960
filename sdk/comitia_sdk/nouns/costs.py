"""Money."""

from collections.abc import AsyncGenerator
from typing import cast

from comitia.cost.v1 import cost_pb2, cost_service_pb2, cost_service_pb2_grpc
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of


class AsyncCosts:
    """Money: what was spent, and how much may be."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ledger = cost_service_pb2_grpc.LedgerServiceStub(connection.channel)
        self._budgets = cost_service_pb2_grpc.BudgetServiceStub(connection.channel)
        self._prices = cost_service_pb2_grpc.PricingServiceStub(connection.channel)

    async def summary(self, *, by: str = "model", run_id: str = "") -> cost_service_pb2.GetCostSummaryResponse:
        """Adds up charges by model, provider, agent, run, project or kind."""
        dimension = number_of(cost_service_pb2.CostDimension, by, field="by")
        request = cost_service_pb2.GetCostSummaryRequest(
            by=cast(cost_service_pb2.CostDimension.ValueType, dimension), run_id=run_id
        )
        return await self._connection.call(self._ledger.GetCostSummary, request)

    async def events(self, *, run_id: str = "", page_size: int = 0) -> AsyncGenerator[cost_pb2.CostEvent]:
        """Gives charges, newest first."""
        request = cost_service_pb2.ListCostEventsRequest(run_id=run_id, page_size=page_size)
        async for page in self._connection.pages(self._ledger.ListCostEvents, request):
            for event in page.cost_events:
                yield event

    async def budget(self, budget_id: str = "tenant") -> cost_pb2.Budget:
        """Fetches a budget; `tenant` names the tenant's own. Raises: NotFound."""
        request = cost_service_pb2.GetBudgetRequest(budget_id=budget_id)
        return (await self._connection.call(self._budgets.GetBudget, request)).budget

    async def budgets(self, *, page_size: int = 0) -> AsyncGenerator[cost_pb2.Budget]:
        """Gives all budgets, newest first."""
        request = cost_service_pb2.ListBudgetsRequest(page_size=page_size)
        async for page in self._connection.pages(self._budgets.ListBudgets, request):
            for budget in page.budgets:
                yield budget

    async def set_limit(self, limit_nano_usd: int, *, budget_id: str = "tenant") -> cost_pb2.Budget:
        """Changes a budget's limit. Raises: NotFound, InvalidRequest."""
        request = cost_service_pb2.SetBudgetLimitRequest(budget_id=budget_id, limit_nano_usd=limit_nano_usd)
        return (await self._connection.call(self._budgets.SetBudgetLimit, request)).budget

    async def prices(self, *, provider: str = "", page_size: int = 0) -> AsyncGenerator[cost_pb2.Price]:
        """Gives the prices that hold now."""
        request = cost_service_pb2.ListPricesRequest(provider=provider, page_size=page_size)
        async for page in self._connection.pages(self._prices.ListPrices, request):
            for price in page.prices:
                yield price
