"""Where the spend of the fake mesh is heading."""

from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.cost.v1 import forecast_pb2, forecast_service_pb2
from tests.support.fake_mesh_rooms import one_page

_BEGIN = Timestamp(seconds=1_767_225_600)
_END = Timestamp(seconds=1_769_904_000)


@dataclass(slots=True)
class Forecasts:
    """A spike that is over, a forecast and one way to spend less."""

    rules: list[forecast_pb2.SpikeRule] = field(default_factory=list[forecast_pb2.SpikeRule])
    #: True while the spike goes on.
    alarmed: bool = False

    def GetSpendVelocity(self, _request: Any, _context: Any) -> forecast_service_pb2.GetSpendVelocityResponse:
        return forecast_service_pb2.GetSpendVelocityResponse(
            now_nano_usd_per_minute=1_200_000_000,
            this_hour_nano_usd=41_000_000_000,
            baseline=forecast_pb2.SpendBaseline(expected_nano_usd=1_000_000_000, high_nano_usd=2_500_000_000),
            alert=self._alert() if self.alarmed else None,
        )

    def GetSpendForecast(self, request: Any, _context: Any) -> forecast_service_pb2.GetSpendForecastResponse:
        found = forecast_pb2.SpendForecast(start_time=_BEGIN, end_time=_END, spent_nano_usd=3_000_000, day_count=28)
        if request.budget_id:
            found.limit_nano_usd = 900_000_000_000
        if request.zone != "UTC":
            found.expected_nano_usd, found.low_nano_usd, found.high_nano_usd = 744_000_000_000, 7 * 10**11, 8 * 10**11
        return forecast_service_pb2.GetSpendForecastResponse(forecast=found)

    def ListSpendAlerts(self, request: Any, _context: Any) -> forecast_service_pb2.ListSpendAlertsResponse:
        page, token = one_page([self._alert()], request)
        return forecast_service_pb2.ListSpendAlertsResponse(alerts=page, next_page_token=token)

    def ListRecommendations(self, request: Any, _context: Any) -> forecast_service_pb2.ListRecommendationsResponse:
        one = forecast_pb2.Recommendation(
            kind=forecast_pb2.RECOMMENDATION_KIND_CHEAPER_MODEL,
            model="gpt-4o",
            other_model="gpt-4o-mini",
            saving_nano_usd_per_month=12_340_000_000,
            assumption="quality unknown: nobody has measured it",
        )
        page, token = one_page([one], request)
        return forecast_service_pb2.ListRecommendationsResponse(recommendations=page, next_page_token=token)

    def SetSpikeRule(self, request: Any, _context: Any) -> forecast_service_pb2.SetSpikeRuleResponse:
        rule = forecast_pb2.SpikeRule(budget_id=request.budget_id, degrade_seconds=request.degrade_seconds)
        self.rules = [one for one in self.rules if one.budget_id != rule.budget_id]
        if rule.degrade_seconds:
            self.rules.append(rule)
        return forecast_service_pb2.SetSpikeRuleResponse(rule=rule)

    def ListSpikeRules(self, request: Any, _context: Any) -> forecast_service_pb2.ListSpikeRulesResponse:
        page, token = one_page(self.rules, request)
        return forecast_service_pb2.ListSpikeRulesResponse(rules=page, next_page_token=token)

    def _alert(self) -> forecast_pb2.SpendAlert:
        return forecast_pb2.SpendAlert(
            alert_id="alert_1",
            open_time=_BEGIN,
            spent_nano_usd=41_000_000_000,
            expected_nano_usd=1_000_000_000,
            run=forecast_pb2.SpendAlert.Cause(name="run_wild"),
            agent=forecast_pb2.SpendAlert.Cause(name="Loki"),
        )
