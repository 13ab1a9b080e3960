"""Watching, forecasting and recommending over gRPC on real Postgres: what is unusual is told once, with its cause."""

from collections.abc import Iterable
from datetime import timedelta
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from comitia.cost.v1 import budget_service_pb2 as budgets_pb
from comitia.cost.v1 import cost_pb2, forecast_pb2
from comitia.cost.v1 import forecast_service_pb2 as pb
from services.cost.domain.hourly_spend import HOUR, hour_of
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from tests.integration.cost.conftest import CostCaller, CostMesh
from tests.support.money import a_run_id
from tests.support.planted_charges import a_charge, plant

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOLLAR = 10**9
WEEKS = 4 * 7 * 24
OPEN, CLOSED = forecast_pb2.SPEND_ALERT_STATE_OPEN, forecast_pb2.SPEND_ALERT_STATE_CLOSED


async def charged(mesh: CostMesh, charges: Iterable[dict[str, Any]]) -> None:
    """Writes charges into the ledger, as if they had been made then."""
    await plant(mesh.urls.app, mesh.tenant, charges)


async def a_steady_past(mesh: CostMesh, hours: int = WEEKS) -> None:
    """About a dollar in each hour up to the next one, which has just begun."""
    begin = hour_of(mesh.clock.now()) + HOUR
    mesh.clock.advance(seconds=(begin - mesh.clock.now()).total_seconds() + 60)
    dice, hour = Random(1), hour_of(mesh.clock.now())
    await charged(
        mesh,
        (a_charge(hour - at * HOUR + HOUR / 2, round(DOLLAR * dice.uniform(0.8, 1.2))) for at in range(1, hours + 1)),
    )


def a_reader(mesh: CostMesh) -> CostCaller:
    return mesh.caller()


async def alerts(mesh: CostMesh) -> list[forecast_pb2.SpendAlert]:
    return list((await a_reader(mesh).call("ListSpendAlerts", pb.ListSpendAlertsRequest())).alerts)


async def until_told(mesh: CostMesh) -> None:
    """Lets the watch look again, until it has told of something."""

    async def told() -> bool:
        return bool(await alerts(mesh))

    mesh.clock.advance(seconds=61)
    await mesh.until(told, seconds=30)


async def forecast(mesh: CostMesh, **changes: Any) -> forecast_pb2.SpendForecast:
    return (await a_reader(mesh).call("GetSpendForecast", pb.GetSpendForecastRequest(**changes))).forecast


async def test_a_cold_start_says_that_it_knows_nothing(mesh: CostMesh) -> None:
    await mesh.caller().spend()
    pace = await a_reader(mesh).call("GetSpendVelocity", pb.GetSpendVelocityRequest())
    assert (pace.now_nano_usd_per_minute, pace.this_hour_nano_usd) == (900, 4_500)
    assert not pace.HasField("baseline")
    assert not pace.HasField("alert")
    month = await forecast(mesh)
    assert (month.ground, month.spent_nano_usd) == (forecast_pb2.FORECAST_GROUND_TOO_LITTLE, 4_500)
    assert not month.HasField("expected_nano_usd")
    assert (
        list((await a_reader(mesh).call("ListRecommendations", pb.ListRecommendationsRequest())).recommendations) == []
    )


async def test_a_spike_is_told_once_with_who_caused_it_and_is_over_when_it_is_calm(mesh: CostMesh) -> None:
    await a_steady_past(mesh)
    pace = await a_reader(mesh).call("GetSpendVelocity", pb.GetSpendVelocityRequest())
    assert pace.baseline.basis == forecast_pb2.BASELINE_BASIS_HOUR_OF_WEEK
    assert 0.8 * DOLLAR <= pace.baseline.expected_nano_usd <= 1.2 * DOLLAR
    now = mesh.clock.now()
    spike = {"run_id": "run_wild", "agent_name": "Loki", "model": "gpt-4o", "project": "chaos"}
    await charged(mesh, [a_charge(now, 40 * DOLLAR, **spike), a_charge(now, DOLLAR)])

    await until_told(mesh)
    (alert,) = await alerts(mesh)
    assert (alert.state, alert.spent_nano_usd) == (OPEN, 41 * DOLLAR)
    assert [alert.run.name, alert.agent.name, alert.model.name, alert.project.name] == [
        "run_wild",
        "Loki",
        "gpt-4o",
        "chaos",
    ]
    assert (alert.run.spent_nano_usd, alert.run.usual_nano_usd) == (40 * DOLLAR, 0)
    pace = await a_reader(mesh).call("GetSpendVelocity", pb.GetSpendVelocityRequest())
    assert pace.alert.alert_id == alert.alert_id
    mesh.clock.advance(seconds=180)
    message = (await mesh.messages())[-1]
    assert message.subject == f"comitia.cost.spend.anomaly.v1.{mesh.tenant}"
    event = forecast_pb2.SpendAlertEvent.FromString(message.body)
    assert (event.tenant_id, event.alert) == (from_uuid("tenant", mesh.tenant), alert)

    mesh.clock.advance(seconds=2 * 3600)

    async def over() -> bool:
        return [one.state for one in await alerts(mesh)] == [CLOSED]

    await mesh.until(over, seconds=30)
    subjects = [message.subject for message in await mesh.messages() if ".spend." in message.subject]
    assert [subject.split(".")[3] for subject in subjects] == ["anomaly", "calmed"]
    other = mesh.caller(tenant=TenantId(uuid4()))
    assert list((await other.call("ListSpendAlerts", pb.ListSpendAlertsRequest())).alerts) == []


async def test_a_spike_degrades_the_budgets_whose_rules_say_so(mesh: CostMesh) -> None:
    await a_steady_past(mesh)
    anna = a_reader(mesh)
    for name in ("Loki", "Athena"):
        limit = budgets_pb.SetBudgetRequest(scope=cost_pb2.BUDGET_SCOPE_AGENT, name=name, limit_nano_usd=1000 * DOLLAR)
        await anna.call("SetBudget", limit)
        rule = pb.SetSpikeRuleRequest(budget_id=f"agent:{name}", degrade_seconds=3600)
        assert (await anna.call("SetSpikeRule", rule)).rule.degrade_seconds == 3600
    await mesh.caller().spend(agent_name="Loki")
    await charged(mesh, [a_charge(mesh.clock.now(), 40 * DOLLAR, run_id="run_wild", agent_name="Loki")])

    await until_told(mesh)
    (alert,) = await alerts(mesh)
    loki = (await a_reader(mesh).call("GetBudget", budgets_pb.GetBudgetRequest(budget_id="agent:Loki"))).budget
    assert list(alert.degraded_budget_ids) == [loki.budget_id]
    assert loki.degraded_until_time.ToDatetime() > mesh.clock.now().replace(tzinfo=None)
    listed = budgets_pb.ListBudgetAlertsRequest()
    (told,) = (await a_reader(mesh).call("ListBudgetAlerts", listed)).alerts
    assert (told.cause, told.budget, told.run_id) == (cost_pb2.BUDGET_ALERT_CAUSE_DEGRADED, loki, "run_wild")
    assert f"comitia.cost.budget.degraded.v1.{mesh.tenant}" in {row.subject for row in await mesh.messages()}
    caller = mesh.caller()
    with pytest.raises(Exception, match="cheapest"):
        await caller.reserve(agent_name="Loki")
    await caller.reserve(agent_name="Loki", cheapest=True)
    await caller.reserve(agent_name="Athena")
    mesh.clock.advance(seconds=3 * 3600)
    await mesh.caller().reserve(agent_name="Loki")


async def test_rules_are_listed_page_by_page_and_taken_away(mesh: CostMesh) -> None:
    anna = a_reader(mesh)
    await mesh.caller().spend()
    run_budget = await _run_budget(mesh)
    for budget in ("tenant", run_budget):
        await anna.call("SetSpikeRule", pb.SetSpikeRuleRequest(budget_id=budget, degrade_seconds=60))
    first = await anna.call("ListSpikeRules", pb.ListSpikeRulesRequest(page_size=1))
    rest = await anna.call("ListSpikeRules", pb.ListSpikeRulesRequest(page_size=1, page_token=first.next_page_token))
    listed = [rule.budget_id for rule in (*first.rules, *rest.rules)]
    assert sorted(listed) == sorted([from_uuid("budget", mesh.tenant), run_budget])
    assert rest.next_page_token == ""
    request = pb.SetSpikeRuleRequest(budget_id="tenant", request_id=str(uuid4()))
    for _ in range(2):
        assert (await anna.call("SetSpikeRule", request)).rule.degrade_seconds == 0
    assert len((await anna.call("ListSpikeRules", pb.ListSpikeRulesRequest())).rules) == 1


async def _run_budget(mesh: CostMesh) -> str:
    orchestrator = mesh.caller(peer="orchestrator")
    request = budgets_pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=DOLLAR)
    return (await orchestrator.call("CreateBudget", request)).budget.budget_id


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("SetSpikeRule", pb.SetSpikeRuleRequest(budget_id="tenant", degrade_seconds=59), "invalid/INVALID_FIELD"),
        ("SetSpikeRule", pb.SetSpikeRuleRequest(budget_id="tenant", degrade_seconds=-1), "invalid/INVALID_FIELD"),
        ("SetSpikeRule", pb.SetSpikeRuleRequest(budget_id="tenant", degrade_seconds=604_801), "invalid/INVALID_FIELD"),
        ("SetSpikeRule", pb.SetSpikeRuleRequest(degrade_seconds=60), "invalid/INVALID_FIELD"),
        (
            "SetSpikeRule",
            pb.SetSpikeRuleRequest(budget_id=from_uuid("budget", uuid4()), degrade_seconds=60),
            "not_found/BUDGET_NOT_FOUND",
        ),
        ("GetSpendForecast", pb.GetSpendForecastRequest(zone="Mars/Olympus"), "invalid/INVALID_FIELD"),
        ("GetSpendForecast", pb.GetSpendForecastRequest(zone="UTC", budget_id="tenant"), "invalid/INVALID_FIELD"),
        ("GetSpendForecast", pb.GetSpendForecastRequest(budget_id="tenant"), "precondition/BUDGET_WITHOUT_PERIOD"),
        ("GetSpendForecast", pb.GetSpendForecastRequest(budget_id="agent:No"), "not_found/BUDGET_NODE_NOT_FOUND"),
        ("ListSpendAlerts", pb.ListSpendAlertsRequest(page_token="x"), "invalid/INVALID_FIELD"),
        ("ListSpendAlerts", pb.ListSpendAlertsRequest(page_size=-1), "invalid/INVALID_FIELD"),
        ("ListRecommendations", pb.ListRecommendationsRequest(page_token="WzFd"), "invalid/INVALID_FIELD"),
        ("ListSpikeRules", pb.ListSpikeRulesRequest(page_token="x"), "invalid/INVALID_FIELD"),
    ],
)
async def test_what_is_wrong_is_refused_with_its_reason(
    mesh: CostMesh, method: str, request_: Any, reason: str
) -> None:
    assert await a_reader(mesh).refused(method, request_) == reason


async def test_the_budget_of_another_tenant_is_not_found(mesh: CostMesh) -> None:
    await mesh.caller().spend()
    other = mesh.caller(tenant=TenantId(uuid4()))
    theirs = pb.SetSpikeRuleRequest(budget_id=await _run_budget(mesh), degrade_seconds=60)
    assert await other.refused("SetSpikeRule", theirs) == "not_found/BUDGET_NOT_FOUND"
    assert await other.refused("GetSpendForecast", pb.GetSpendForecastRequest(budget_id=theirs.budget_id)) == (
        "not_found/BUDGET_NOT_FOUND"
    )


async def test_the_end_of_the_month_and_of_a_budgets_period_are_forecast(mesh: CostMesh) -> None:
    await a_steady_past(mesh)
    month = await forecast(mesh, zone="Europe/Berlin")
    assert month.ground == forecast_pb2.FORECAST_GROUND_WEEKS
    left = (month.end_time.ToDatetime() - mesh.clock.now().replace(tzinfo=None)) / HOUR
    assert abs(month.expected_nano_usd - month.spent_nano_usd - left * DOLLAR) <= left * DOLLAR * 0.1 + DOLLAR
    assert month.spent_nano_usd <= month.low_nano_usd <= month.expected_nano_usd <= month.high_nano_usd
    assert not month.HasField("limit_nano_usd")
    daily = budgets_pb.SetBudgetRequest(
        scope=cost_pb2.BUDGET_SCOPE_AGENT,
        name="Athena",
        limit_nano_usd=50 * DOLLAR,
        period=cost_pb2.BUDGET_PERIOD_DAY,
    )
    await a_reader(mesh).call("SetBudget", daily)
    day = await forecast(mesh, budget_id="agent:Athena")
    assert day.end_time.ToDatetime() - day.start_time.ToDatetime() == timedelta(days=1)
    assert (day.limit_nano_usd, day.spent_nano_usd) == (50 * DOLLAR, 0)
    assert 0 < day.low_nano_usd <= day.expected_nano_usd <= day.high_nano_usd <= 30 * DOLLAR
    nobody = budgets_pb.SetBudgetRequest(
        scope=cost_pb2.BUDGET_SCOPE_PROJECT, name="none", limit_nano_usd=1, period=cost_pb2.BUDGET_PERIOD_WEEK
    )
    await a_reader(mesh).call("SetBudget", nobody)
    assert (await forecast(mesh, budget_id="project:none")).ground == forecast_pb2.FORECAST_GROUND_TOO_LITTLE


async def test_ways_to_spend_less_come_from_the_tenants_own_calls(mesh: CostMesh) -> None:
    today = mesh.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    charges: list[dict[str, Any]] = []
    for day in range(1, 15):
        begin = today - timedelta(days=day) + timedelta(hours=9)
        for call in range(10):
            at = begin + timedelta(minutes=call)
            prompt = 200_000 if call == 5 else 20_000
            # 2.50 dollars a million tokens in, 10 dollars a million out.
            usage = {"input_tokens": prompt, "output_tokens": 500}
            charges.append(a_charge(at, prompt * 2_500 + 500 * 10_000, model="gpt-4o", agent_name="Athena", **usage))
            charges.append(
                a_charge(
                    at, 10**6 * 20, kind=2, model="text-embedding-3-small", input_tokens=10**6, agent_name="Hermes"
                )
            )
        usage = {"input_tokens": 1_000, "output_tokens": 500}
        charges.append(a_charge(begin, 450_000, agent_name="Hermes", **usage))
    # What was assumed and taken back tells nothing of how models are used.
    assumed = {"model": "gpt-4o", "assumed": True}
    charges += [a_charge(today - timedelta(days=2), sign * 10**12, reversal=sign < 0, **assumed) for sign in (1, -1)]
    await charged(mesh, charges)
    first = await a_reader(mesh).call("ListRecommendations", pb.ListRecommendationsRequest(page_size=1))
    rest = await a_reader(mesh).call(
        "ListRecommendations", pb.ListRecommendationsRequest(page_token=first.next_page_token)
    )
    listed = [*first.recommendations, *rest.recommendations]
    found = {forecast_pb2.RecommendationKind.Name(one.kind).removeprefix("RECOMMENDATION_KIND_"): one for one in listed}
    assert list(found) == ["CHEAPER_MODEL", "PROMPT_TRIMMING", "PROMPT_CACHING", "BATCH_CLASS"]
    cheaper = found["CHEAPER_MODEL"]
    assert (cheaper.agent_name, cheaper.model, cheaper.other_model) == ("Athena", "gpt-4o", "gpt-4o-mini")
    assert "quality unknown" in cheaper.assumption
    assert cheaper.event_count == 140
    assert (cheaper.end_time.ToDatetime() - cheaper.start_time.ToDatetime()).days == 14
    # One prompt a day of 200,000 tokens may be 40,000 long.
    assert found["PROMPT_TRIMMING"].saving_nano_usd_per_month == 30 * 160_000 * 2_500
    assert found["BATCH_CLASS"].saving_nano_usd_per_month == 30 * 10 * 10**7
