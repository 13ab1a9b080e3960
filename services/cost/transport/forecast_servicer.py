"""gRPC face of watching, forecasting and recommending."""

from typing import Any

from grpc.aio import ServicerContext

from comitia.cost.v1 import forecast_service_pb2 as pb
from comitia.cost.v1.forecast_service_pb2_grpc import ForecastServiceServicer
from services.cost.domain.period import checked_zone
from services.cost.domain.recommendation import place_of
from services.cost.transport import budget_fields, forecast_fields
from services.cost.usecases.forecast_ports import SpendAlerts, SpikeRule, SpikeRules
from services.cost.usecases.forecast_spend import ForecastSpend
from services.cost.usecases.recommend_savings import RecommendSavings
from services.cost.usecases.set_spike_rule import SetSpikeRule
from services.cost.usecases.show_velocity import ShowVelocity
from services.meshkit.core.errors import Invalid
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.paging import (
    clamp_page_size,
    decode_id_place,
    decode_page_token,
    decode_time_place,
    one_page,
    time_place,
)
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class ForecastServicer(ForecastServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(
        self,
        *,
        velocity: ShowVelocity,
        forecast: ForecastSpend,
        recommend: RecommendSavings,
        set_spike_rule: SetSpikeRule,
        alerts: SpendAlerts,
        rules: SpikeRules,
    ) -> None:
        self._velocity = velocity
        self._forecast = forecast
        self._recommend = recommend
        self._set_spike_rule = set_spike_rule
        self._alerts = alerts
        self._rules = rules

    async def GetSpendVelocity(
        self, request: pb.GetSpendVelocityRequest, context: Context
    ) -> pb.GetSpendVelocityResponse:
        return forecast_fields.pace_to_proto(await self._velocity(caller_of(context).principal.tenant))

    async def GetSpendForecast(
        self, request: pb.GetSpendForecastRequest, context: Context
    ) -> pb.GetSpendForecastResponse:
        tenant = caller_of(context).principal.tenant
        if not request.budget_id:
            found = await self._forecast.of_month(tenant, checked_zone(request.zone, field="zone"))
        elif request.zone:
            raise Invalid("zone", "must be empty with a budget, whose period has a time zone of its own")
        else:
            found = await self._forecast.of_budget(tenant, budget_fields.to_budget(request.budget_id, tenant))
        return pb.GetSpendForecastResponse(forecast=forecast_fields.forecast_to_proto(found))

    async def ListSpendAlerts(self, request: pb.ListSpendAlertsRequest, context: Context) -> pb.ListSpendAlertsResponse:
        size = clamp_page_size(request.page_size)
        after = decode_time_place(request.page_token)
        found = await self._alerts.page(caller_of(context).principal.tenant, size=size + 1, after=after)
        page, more = one_page(found, size, lambda alert: time_place(alert.opened, alert.id))
        return pb.ListSpendAlertsResponse(
            alerts=[forecast_fields.alert_to_proto(alert) for alert in page], next_page_token=more
        )

    async def ListRecommendations(
        self, request: pb.ListRecommendationsRequest, context: Context
    ) -> pb.ListRecommendationsResponse:
        size = clamp_page_size(request.page_size)
        after = decode_page_token(request.page_token, int, int, str, str, str)
        found = await self._recommend(caller_of(context).principal.tenant)
        page, more = one_page([one for one in found if after is None or place_of(one) > after], size, place_of)
        return pb.ListRecommendationsResponse(
            recommendations=[forecast_fields.recommendation_to_proto(one) for one in page], next_page_token=more
        )

    async def SetSpikeRule(self, request: pb.SetSpikeRuleRequest, context: Context) -> pb.SetSpikeRuleResponse:
        tenant = caller_of(context).principal.tenant
        budget = budget_fields.to_budget(request.budget_id, tenant)
        seconds = forecast_fields.to_degrade_seconds(request.degrade_seconds)
        return await once(
            request, lambda: self._set_spike_rule(tenant, budget, seconds), _set, answers=pb.SetSpikeRuleResponse
        )

    async def ListSpikeRules(self, request: pb.ListSpikeRulesRequest, context: Context) -> pb.ListSpikeRulesResponse:
        size = clamp_page_size(request.page_size)
        after = decode_id_place(request.page_token, "budget")
        found = await self._rules.page(caller_of(context).principal.tenant, size=size + 1, after=after)
        page, more = one_page(found, size, lambda rule: (from_uuid("budget", rule.budget),))
        return pb.ListSpikeRulesResponse(
            rules=[forecast_fields.rule_to_proto(rule) for rule in page], next_page_token=more
        )


def _set(rule: SpikeRule) -> pb.SetSpikeRuleResponse:
    return pb.SetSpikeRuleResponse(rule=forecast_fields.rule_to_proto(rule))
