"""Writes alerts, forecasts and advice, and reads what is asked about them; pure."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final, cast

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.cost.v1 import forecast_pb2
from comitia.cost.v1 import forecast_service_pb2 as pb
from services.cost.domain.baseline import Baseline
from services.cost.domain.recommendation import Recommendation
from services.cost.domain.spend_alert import AlertState, Cause, SpendAlert
from services.cost.transport import fields
from services.cost.usecases.forecast_ports import SpikeRule
from services.cost.usecases.forecast_spend import PeriodForecast
from services.cost.usecases.show_velocity import Pace
from services.meshkit.core.errors import Invalid
from services.meshkit.core.ids import from_uuid

_LEAST_SECONDS: Final = 60
_MOST_SECONDS: Final = 7 * 24 * 3600
_EVENTS: Final = {AlertState.OPEN: "anomaly", AlertState.CLOSED: "calmed"}


def to_degrade_seconds(seconds: int) -> int:
    """Reads for how long a spike degrades. Raises: Invalid."""
    if seconds and not _LEAST_SECONDS <= seconds <= _MOST_SECONDS:
        raise Invalid("degrade_seconds", f"must be {_LEAST_SECONDS} to {_MOST_SECONDS}, or 0 to take the rule away")
    return seconds


def pace_to_proto(pace: Pace) -> pb.GetSpendVelocityResponse:
    """Writes how fast money goes."""
    return pb.GetSpendVelocityResponse(
        now_nano_usd_per_minute=pace.velocity.now,
        hour_nano_usd_per_minute=pace.velocity.hour,
        day_nano_usd_per_minute=pace.velocity.day,
        this_hour_nano_usd=pace.this_hour,
        baseline=None if pace.baseline is None else _baseline(pace.baseline),
        alert=None if pace.alert is None else alert_to_proto(pace.alert),
    )


def forecast_to_proto(found: PeriodForecast) -> forecast_pb2.SpendForecast:
    """Writes a forecast."""
    forecast = found.forecast
    return forecast_pb2.SpendForecast(
        start_time=fields.timestamp_of(found.start),
        end_time=fields.timestamp_of(found.end),
        spent_nano_usd=forecast.spent,
        ground=cast(forecast_pb2.ForecastGround.ValueType, int(forecast.ground)),
        day_count=forecast.days,
        expected_nano_usd=forecast.expected,
        low_nano_usd=forecast.low,
        high_nano_usd=forecast.high,
        limit_nano_usd=found.limit,
    )


def alert_to_proto(alert: SpendAlert) -> forecast_pb2.SpendAlert:
    """Writes an alert."""
    return forecast_pb2.SpendAlert(
        alert_id=from_uuid("alert", alert.id),
        state=cast(forecast_pb2.SpendAlertState.ValueType, int(alert.state)),
        open_time=fields.timestamp_of(alert.opened),
        close_time=None if alert.closed is None else fields.timestamp_of(alert.closed),
        hour_time=fields.timestamp_of(alert.hour),
        spent_nano_usd=alert.spent,
        expected_nano_usd=alert.expected,
        high_nano_usd=alert.high,
        basis=cast(forecast_pb2.BaselineBasis.ValueType, int(alert.basis)),
        run=_cause(alert.causes.run),
        agent=_cause(alert.causes.agent),
        model=_cause(alert.causes.model),
        project=_cause(alert.causes.project),
        degraded_budget_ids=[from_uuid("budget", budget) for budget in alert.degraded],
    )


def spend_alert_to_message(alert: SpendAlert) -> tuple[str, bytes]:
    """Writes an alert as the subject and body of a message."""
    body = forecast_pb2.SpendAlertEvent(tenant_id=from_uuid("tenant", alert.tenant), alert=alert_to_proto(alert))
    return f"comitia.cost.spend.{_EVENTS[alert.state]}.v1.{alert.tenant}", body.SerializeToString()


def recommendation_to_proto(one: Recommendation) -> forecast_pb2.Recommendation:
    """Writes a way to spend less."""
    return forecast_pb2.Recommendation(
        kind=cast(forecast_pb2.RecommendationKind.ValueType, int(one.advice)),
        provider=one.provider,
        model=one.model,
        agent_name=one.agent,
        other_provider=one.other_provider,
        other_model=one.other_model,
        saving_nano_usd_per_month=one.saving.expected,
        low_nano_usd_per_month=one.saving.low,
        high_nano_usd_per_month=one.saving.high,
        event_count=one.calls,
        start_time=_begin(one.first_day),
        end_time=_begin(one.last_day + timedelta(days=1)),
        assumption=one.assumption,
    )


def rule_to_proto(rule: SpikeRule) -> forecast_pb2.SpikeRule:
    """Writes a rule."""
    return forecast_pb2.SpikeRule(budget_id=from_uuid("budget", rule.budget), degrade_seconds=rule.degrade_seconds)


def _baseline(baseline: Baseline) -> forecast_pb2.SpendBaseline:
    return forecast_pb2.SpendBaseline(
        basis=cast(forecast_pb2.BaselineBasis.ValueType, int(baseline.basis)),
        hour_count=baseline.hours,
        expected_nano_usd=baseline.expected,
        high_nano_usd=baseline.high,
        calm_nano_usd=baseline.calm,
    )


def _cause(cause: Cause) -> forecast_pb2.SpendAlert.Cause:
    return forecast_pb2.SpendAlert.Cause(name=cause.name, spent_nano_usd=cause.spent, usual_nano_usd=cause.usual)


def _begin(day: date) -> Timestamp:
    return fields.timestamp_of(datetime.combine(day, time(), tzinfo=UTC))
