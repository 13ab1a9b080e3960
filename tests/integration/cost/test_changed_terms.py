"""What people change of a budget leaves the rest as it is, and what is spent is what the ledger has for its period."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from comitia.cost.v1 import forecast_service_pb2 as forecast
from services.meshkit.core.identity import Role
from tests.integration.cost.conftest import CostCaller, CostMesh
from tests.support.money import a_run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: What `CostCaller.reserve` holds: 100 tokens in and 50 out.
BOUND = 45_000
ATHENA = "agent:Athena"
HOUR, DAY = cost_pb2.BUDGET_PERIOD_HOUR, cost_pb2.BUDGET_PERIOD_DAY
NONE = cost_pb2.BUDGET_PERIOD_UNSPECIFIED


@pytest.fixture
def anna(mesh: CostMesh) -> CostCaller:
    """An admin, at ten in the morning."""
    now = mesh.clock.now()
    ten = now.replace(hour=10, minute=0, second=0, microsecond=0) + timedelta(days=1)
    mesh.clock.advance(seconds=(ten - now).total_seconds())
    return mesh.caller(Role.ADMIN)


async def set_terms(caller: CostCaller, name: str = "Athena", reset: tuple[str, ...] = (), **terms: Any) -> Any:
    """Changes what is given, and takes off what is to be reset."""
    request = pb.SetBudgetRequest(scope=cost_pb2.BUDGET_SCOPE_AGENT, name=name, **terms)
    if reset:
        request.update_mask.CopyFrom(FieldMask(paths=[*terms, *reset]))
    return (await caller.call("SetBudget", request)).budget


async def assumed(mesh: CostMesh, caller: CostCaller) -> cost_pb2.Hold:
    """Has a call leave that nobody settles, so that it is charged at its bound."""
    spent = (await caller.budget(ATHENA)).spent_nano_usd
    hold = await caller.reserve(dispatched=True, ttl=Duration(seconds=5))

    async def charged() -> bool:
        return (await caller.budget(ATHENA)).spent_nano_usd == spent + BOUND

    mesh.clock.advance(seconds=6)
    await mesh.until(charged)
    return hold


async def test_a_longer_period_holds_what_the_ledger_has_of_it_and_late_usage_comes_off_it(
    anna: CostCaller, mesh: CostMesh
) -> None:
    await set_terms(anna, limit_nano_usd=10 * BOUND, limit_calls=9, period=HOUR)
    hold = await assumed(mesh, anna)
    mesh.clock.advance(seconds=3600)
    anna = mesh.caller(Role.ADMIN)
    await anna.spend()
    assert (await anna.budget(ATHENA)).spent_nano_usd == 4500
    daily = await set_terms(anna, period=DAY)
    assert (daily.spent_nano_usd, daily.calls.spent, daily.tokens.spent) == (BOUND + 4500, 2, 165)
    assert daily.wall_ms.spent >= 5000
    await anna.settle(hold, input_tokens=10)
    assert (await anna.budget(ATHENA)).spent_nano_usd == 1500 + 4500
    assert sum(event.cost_nano_usd for event in await anna.events()) == 1500 + 4500


async def test_a_shorter_period_counts_nothing_of_before_and_late_usage_of_before_is_not_taken_off(
    anna: CostCaller, mesh: CostMesh
) -> None:
    await set_terms(anna, limit_nano_usd=10 * BOUND)
    hold = await assumed(mesh, anna)
    mesh.clock.advance(seconds=3600)
    anna = mesh.caller(Role.ADMIN)
    await anna.spend()
    assert (await set_terms(anna, period=HOUR)).spent_nano_usd == 4500
    settled = await anna.settle(hold, input_tokens=10)
    assert settled.state == cost_pb2.HOLD_STATE_SETTLED
    assert (await anna.budget(ATHENA)).spent_nano_usd == 4500
    # Back to a period that has both: what was corrected counts as it is by now.
    assert (await set_terms(anna, period=DAY)).spent_nano_usd == 1500 + 4500


async def test_without_a_period_all_counts_that_it_ever_paid(anna: CostCaller, mesh: CostMesh) -> None:
    await set_terms(anna, limit_nano_usd=10 * BOUND)
    await anna.spend()
    await set_terms(anna, period=HOUR)
    old = await assumed(mesh, anna)
    mesh.clock.advance(seconds=3600)
    anna = mesh.caller(Role.ADMIN)
    new = await assumed(mesh, anna)
    assert (await anna.budget(ATHENA)).spent_nano_usd == BOUND
    endless = await set_terms(anna, reset=("period",))
    assert (endless.spent_nano_usd, endless.calls.spent, endless.period) == (2 * BOUND + 4500, 3, NONE)
    await anna.settle(old, input_tokens=10)
    await anna.settle(new, input_tokens=10)
    assert (await anna.budget(ATHENA)).spent_nano_usd == 1500 + 1500 + 4500


async def test_a_budget_that_is_removed_and_made_again_goes_on_with_what_it_paid(
    anna: CostCaller, mesh: CostMesh
) -> None:
    remove = pb.RemoveBudgetRequest(budget_id=ATHENA)
    made = await set_terms(anna, limit_nano_usd=10 * BOUND, period=HOUR, limit_calls=9)
    hold = await assumed(mesh, anna)
    await anna.call("RemoveBudget", remove)
    await anna.spend()
    again = await set_terms(anna, limit_nano_usd=5 * BOUND, period=HOUR)
    assert (again.budget_id, again.spent_nano_usd, again.calls.spent) == (made.budget_id, BOUND, 1)
    assert (again.limit_nano_usd, again.calls.HasField("limit")) == (5 * BOUND, False)
    assert made.budget_id in (await anna.spend()).budget_ids
    await anna.call("RemoveBudget", remove)
    await anna.settle(hold, input_tokens=10)
    assert (await set_terms(anna, limit_nano_usd=BOUND, period=DAY)).spent_nano_usd == 1500 + 4500
    await anna.call("RemoveBudget", remove)
    mesh.clock.advance(seconds=86_400)
    anna = mesh.caller(Role.ADMIN)
    assert (await set_terms(anna, limit_nano_usd=BOUND, period=DAY)).spent_nano_usd == 0
    await anna.call("RemoveBudget", remove)
    assert (await set_terms(anna, limit_nano_usd=BOUND)).spent_nano_usd == 1500 + 4500


async def test_another_zone_keeps_what_was_spent_until_its_period_turns(anna: CostCaller, mesh: CostMesh) -> None:
    await set_terms(anna, limit_nano_usd=10 * BOUND, period=DAY)
    await anna.spend()
    mesh.clock.advance(seconds=2 * 3600)
    anna = mesh.caller(Role.ADMIN)
    # Noon of UTC: there the day has just begun.
    for zone in ("Pacific/Auckland", "Etc/GMT-12", "Etc/GMT-13", "Pacific/Honolulu", "UTC"):
        assert (await set_terms(anna, zone=zone)).spent_nano_usd == 4500, zone
    turned = await set_terms(anna, zone="Etc/GMT-13")
    mesh.clock.advance(seconds=turned.period_end_time.ToSeconds() - mesh.clock.now().timestamp())
    anna = mesh.caller(Role.ADMIN)
    assert (await anna.budget(ATHENA)).spent_nano_usd == 0


async def test_a_charge_that_is_settled_late_belongs_to_the_period_of_the_call(
    anna: CostCaller, mesh: CostMesh
) -> None:
    await set_terms(anna, limit_nano_usd=10 * BOUND, period=HOUR)
    hold = await assumed(mesh, anna)
    mesh.clock.advance(seconds=3600)
    anna = mesh.caller(Role.ADMIN)
    await anna.settle(hold, input_tokens=10)
    assert (await anna.budget(ATHENA)).spent_nano_usd == 0
    # The zone changes and the hour with it, so it is counted anew: since the half hour before, which had the call.
    assert (await set_terms(anna, zone="Asia/Kathmandu")).spent_nano_usd == 0


async def test_what_is_not_given_stays_and_what_the_mask_names_is_reset(anna: CostCaller) -> None:
    berlin: dict[str, Any] = {
        "period": cost_pb2.BUDGET_PERIOD_MONTH,
        "zone": "Europe/Berlin",
        "mode": cost_pb2.BUDGET_MODE_SOFT,
    }
    await set_terms(anna, limit_nano_usd=30, limit_tokens=5, **berlin)
    warned = await set_terms(anna, warn_at_percent=90)
    shown = (warned.limit_nano_usd, warned.tokens.limit, warned.mode, warned.period, warned.zone)
    assert shown == (30, 5, berlin["mode"], berlin["period"], "Europe/Berlin")
    bare = await set_terms(anna, limit_calls=3, reset=("mode", "period", "limit_tokens", "warn_at_percent"))
    assert (bare.limit_nano_usd, bare.calls.limit, bare.warn_at_percent) == (30, 3, 80)
    assert (bare.mode, bare.period, bare.zone) == (cost_pb2.BUDGET_MODE_HARD, NONE, "")
    assert not bare.tokens.HasField("limit")


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"limit_calls": 3}, "limit_nano_usd"),
        ({"limit_nano_usd": 1, "zone": "Europe/Berlin"}, "zone"),
        ({"limit_nano_usd": 1, "update_mask": FieldMask(paths=["name"])}, "update_mask"),
        ({"update_mask": FieldMask(paths=["limit_nano_usd"])}, "limit_nano_usd"),
        ({"limit_nano_usd": 1, "period": DAY, "zone": "posixrules"}, "zone"),
    ],
)
async def test_what_makes_no_budget_is_refused(anna: CostCaller, terms: dict[str, Any], field: str) -> None:
    request = pb.SetBudgetRequest(scope=cost_pb2.BUDGET_SCOPE_AGENT, name="Nobody", **terms)
    with pytest.raises(Exception, match=f"^{field}:"):
        await anna.call("SetBudget", request)
    assert await anna.refused("GetBudget", pb.GetBudgetRequest(budget_id="agent:Nobody")) == (
        "not_found/BUDGET_NODE_NOT_FOUND"
    )


async def test_many_who_make_the_same_budgets_at_once_make_each_once(anna: CostCaller) -> None:
    made = await asyncio.gather(
        *(set_terms(anna, f"agent {number % 3}", limit_nano_usd=number + 1) for number in range(60))
    )
    assert len({budget.budget_id for budget in made}) == 3


async def test_every_budget_warns_unless_told_otherwise(anna: CostCaller, mesh: CostMesh) -> None:
    orchestrator, run = mesh.caller(Role.ADMIN, peer="orchestrator"), a_run_id()
    made = await orchestrator.call("CreateBudget", pb.CreateBudgetRequest(run_id=run, limit_nano_usd=BOUND))
    await anna.limit(BOUND)
    await anna.spend(run_id=run, budget_ids=[made.budget.budget_id], input_tokens=100, output_tokens=50)
    told = [cost_pb2.BudgetAlert.FromString(body) for subject, body in await mesh.messages() if "warned" in subject]
    assert {alert.budget.scope for alert in told} == {cost_pb2.BUDGET_SCOPE_TENANT, cost_pb2.BUDGET_SCOPE_RUN}


async def test_what_unusual_spend_does_to_a_budget_ends_with_it(anna: CostCaller) -> None:
    await set_terms(anna, limit_nano_usd=BOUND)
    await anna.call("SetSpikeRule", forecast.SetSpikeRuleRequest(budget_id=ATHENA, degrade_seconds=60))
    assert len((await anna.call("ListSpikeRules", forecast.ListSpikeRulesRequest())).rules) == 1
    await anna.call("RemoveBudget", pb.RemoveBudgetRequest(budget_id=ATHENA))
    assert not (await anna.call("ListSpikeRules", forecast.ListSpikeRulesRequest())).rules
