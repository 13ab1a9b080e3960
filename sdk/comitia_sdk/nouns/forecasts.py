"""Where spend is heading."""

from collections.abc import AsyncGenerator

from comitia.cost.v1 import forecast_pb2, forecast_service_pb2, forecast_service_pb2_grpc
from comitia_sdk.connection import Connection


class AsyncForecasts:
    """Where spend is heading, what was unusual, and how it could be less."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._forecasts = forecast_service_pb2_grpc.ForecastServiceStub(connection.channel)

    async def velocity(self) -> forecast_service_pb2.GetSpendVelocityResponse:
        """Tells how fast money goes now, and whether that is usual at this hour."""
        request = forecast_service_pb2.GetSpendVelocityRequest()
        return await self._connection.call(self._forecasts.GetSpendVelocity, request)

    async def forecast(self, *, budget_id: str = "", zone: str = "") -> forecast_pb2.SpendForecast:
        """Forecasts the end of this month, or of a budget's period.

        Args:
            budget_id: an id or a name, such as `project:atlas`; empty means all that the tenant spends this month.
            zone: time zone of the month; empty means UTC.
        Raises: NotFound; FailedPrecondition: the budget has no period.
        """
        request = forecast_service_pb2.GetSpendForecastRequest(budget_id=budget_id, zone=zone)
        return (await self._connection.call(self._forecasts.GetSpendForecast, request)).forecast

    async def alerts(self, *, page_size: int = 0) -> AsyncGenerator[forecast_pb2.SpendAlert]:
        """Gives alerts on unusual spend, newest first."""
        request = forecast_service_pb2.ListSpendAlertsRequest(page_size=page_size)
        async for page in self._connection.pages(self._forecasts.ListSpendAlerts, request):
            for alert in page.alerts:
                yield alert

    async def recommendations(self, *, page_size: int = 0) -> AsyncGenerator[forecast_pb2.Recommendation]:
        """Gives ways to spend less, the largest saving first."""
        request = forecast_service_pb2.ListRecommendationsRequest(page_size=page_size)
        async for page in self._connection.pages(self._forecasts.ListRecommendations, request):
            for one in page.recommendations:
                yield one

    async def set_spike_rule(self, budget_id: str, degrade_seconds: int) -> forecast_pb2.SpikeRule:
        """Has unusual spend degrade a budget for so long; 0 takes the rule away. Raises: NotFound, InvalidRequest."""
        request = forecast_service_pb2.SetSpikeRuleRequest(budget_id=budget_id, degrade_seconds=degrade_seconds)
        return (await self._connection.call(self._forecasts.SetSpikeRule, request)).rule

    async def spike_rules(self, *, page_size: int = 0) -> AsyncGenerator[forecast_pb2.SpikeRule]:
        """Gives the rules by which unusual spend degrades budgets."""
        request = forecast_service_pb2.ListSpikeRulesRequest(page_size=page_size)
        async for page in self._connection.pages(self._forecasts.ListSpikeRules, request):
            for rule in page.rules:
                yield rule
