"""What happened to budgets, asked for later: kept with what caused it, listed newest first, to whom it concerns."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import from_uuid
from tests.integration.cost.conftest import CostCaller, CostMesh
from tests.support.money import a_reserve, a_run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: What a call holds, and here what it costs; and a limit that one such call brings near its end.
BOUND, LIMIT = 45_000, 50_000
PROJECT, AGENT = cost_pb2.BUDGET_SCOPE_PROJECT, cost_pb2.BUDGET_SCOPE_AGENT
EXHAUSTED, OVERRUN, WARNED = (
    cost_pb2.BUDGET_ALERT_CAUSE_EXHAUSTED,
    cost_pb2.BUDGET_ALERT_CAUSE_OVERRUN,
    cost_pb2.BUDGET_ALERT_CAUSE_WARNED,
)


@pytest.fixture
def anna(mesh: CostMesh) -> CostCaller:
    return mesh.caller(Role.ADMIN)


async def page(caller: CostCaller, **changes: Any) -> pb.ListBudgetAlertsResponse:
    return await caller.call("ListBudgetAlerts", pb.ListBudgetAlertsRequest(**changes))


async def alerts(caller: CostCaller, **changes: Any) -> list[cost_pb2.BudgetAlert]:
    return list((await page(caller, **changes)).alerts)


async def set_budget(caller: CostCaller, scope: int, name: str, limit: int, **changes: Any) -> cost_pb2.Budget:
    request = pb.SetBudgetRequest(scope=scope, name=name, limit_nano_usd=limit, **changes)  # type: ignore[arg-type]
    return (await caller.call("SetBudget", request)).budget


async def spend(caller: CostCaller, **changes: Any) -> None:
    await caller.spend(input_tokens=100, output_tokens=50, **changes)


async def test_who_comes_later_reads_what_happened_as_it_was_told_on_the_bus(mesh: CostMesh, anna: CostCaller) -> None:
    assert await alerts(anna) == []
    made, run = await set_budget(anna, PROJECT, "atlas", LIMIT), a_run_id()
    await spend(anna, run_id=run, project="atlas")
    assert await anna.refused("Reserve", a_reserve(run_id=run, project="atlas")) == "exhausted/BUDGET_EXHAUSTED"
    lowered = await set_budget(anna, PROJECT, "atlas", 1_000)
    found = await alerts(anna)
    assert [alert.cause for alert in found] == [OVERRUN, EXHAUSTED, WARNED]
    assert [alert.run_id for alert in found] == ["", run, run], "nobody's call lowered the limit"
    assert {(alert.budget.budget_id, alert.budget.name, alert.measure) for alert in found} == {
        (made.budget_id, "atlas", cost_pb2.BUDGET_MEASURE_MONEY)
    }
    then = [
        (alert.budget.limit_nano_usd, alert.budget.spent_nano_usd, alert.budget.overrun_nano_usd) for alert in found
    ]
    assert then == [(1_000, BOUND, lowered.overrun_nano_usd), (LIMIT, BOUND, 0), (LIMIT, BOUND, 0)]
    assert [cost_pb2.BudgetAlert.FromString(body) for _, body in await mesh.messages()] == found[::-1]


async def test_an_alert_says_which_limit_it_is_about(anna: CostCaller) -> None:
    await set_budget(anna, AGENT, "Athena", 10**9, limit_calls=1)
    await anna.spend()
    assert await anna.refused("Reserve", a_reserve()) == "exhausted/BUDGET_EXHAUSTED"
    found = await alerts(anna, budget_id="agent:Athena")
    assert [(alert.cause, alert.measure) for alert in found] == [
        (EXHAUSTED, cost_pb2.BUDGET_MEASURE_CALLS),
        (WARNED, cost_pb2.BUDGET_MEASURE_CALLS),
    ]
    assert [(alert.budget.calls.spent, alert.budget.calls.limit) for alert in found] == [(1, 1)] * 2


async def test_pages_hold_each_alert_once_and_only_those_of_the_budget_asked_for(
    mesh: CostMesh, anna: CostCaller
) -> None:
    names = ("atlas", "borealis")
    made = {name: await set_budget(anna, PROJECT, name, LIMIT) for name in names}
    for _ in range(2):
        for name in names:
            await spend(anna, project=name)
            # Another limit may be warned of anew.
            await set_budget(anna, PROJECT, name, 2 * LIMIT)
            mesh.clock.advance(seconds=1)
    whole = await alerts(anna)
    assert len(whole) == 4
    first = await page(anna, page_size=3)
    rest = await page(anna, page_size=3, page_token=first.next_page_token)
    assert ([*first.alerts, *rest.alerts], rest.next_page_token) == (whole, "")
    times = [alert.create_time.ToNanoseconds() for alert in whole]
    assert times == sorted(times, reverse=True)
    for name, budget in made.items():
        mine = [alert for alert in whole if alert.budget.name == name]
        for named in (f"project:{name}", budget.budget_id):
            assert await alerts(anna, budget_id=named) == mine


async def test_a_budget_that_was_removed_keeps_its_alerts(anna: CostCaller) -> None:
    made = await set_budget(anna, PROJECT, "atlas", LIMIT)
    await spend(anna, project="atlas")
    await anna.call("RemoveBudget", pb.RemoveBudgetRequest(budget_id="project:atlas"))
    assert [alert.cause for alert in await alerts(anna)] == [WARNED]
    assert [alert.cause for alert in await alerts(anna, budget_id=made.budget_id)] == [WARNED]
    request = pb.ListBudgetAlertsRequest(budget_id="project:atlas")
    assert await anna.refused("ListBudgetAlerts", request) == "not_found/BUDGET_NODE_NOT_FOUND"


async def test_alerts_of_other_tenants_are_not_there(mesh: CostMesh, anna: CostCaller) -> None:
    made = await set_budget(anna, PROJECT, "atlas", LIMIT)
    await spend(anna, project="atlas")
    bert = mesh.caller(Role.ADMIN, tenant=TenantId(uuid4()))
    assert await alerts(bert) == []
    for budget, reason in (
        (made.budget_id, "BUDGET_NOT_FOUND"),
        (from_uuid("budget", uuid4()), "BUDGET_NOT_FOUND"),
        ("project:atlas", "BUDGET_NODE_NOT_FOUND"),
    ):
        request = pb.ListBudgetAlertsRequest(budget_id=budget)
        assert await bert.refused("ListBudgetAlerts", request) == f"not_found/{reason}"


@pytest.mark.parametrize("role", [Role.TENANT_USER, Role.AUDITOR, Role.ADMIN])
async def test_who_is_bound_to_a_project_sees_the_alerts_of_its_budget_alone(
    mesh: CostMesh, anna: CostCaller, role: Role
) -> None:
    bound = mesh.caller(role, project="claims", peer=None)
    other = await set_budget(anna, PROJECT, "billing", LIMIT)
    await set_budget(anna, AGENT, "claims", 5 * LIMIT, warn_at_percent=10)
    for project in ("billing", "claims"):
        await spend(anna, project=project, agent_name="claims")
    assert await alerts(bound) == [], "its project has no budget"
    own = await set_budget(anna, PROJECT, "claims", LIMIT)
    await spend(anna, project="claims")
    for changes in ({}, {"budget_id": "project:claims"}, {"budget_id": own.budget_id}):
        assert [alert.budget.budget_id for alert in await alerts(bound, **changes)] == [own.budget_id]
    # The place of a page says where to go on, never who may look.
    everything = await page(anna, page_size=1)
    assert await alerts(bound, page_token=everything.next_page_token) == []
    for foreign, reason in (
        ("tenant", "BUDGET_NOT_FOUND"),
        (other.budget_id, "BUDGET_NOT_FOUND"),
        ("project:billing", "BUDGET_NODE_NOT_FOUND"),
        ("agent:claims", "BUDGET_NODE_NOT_FOUND"),
    ):
        request = pb.ListBudgetAlertsRequest(budget_id=foreign)
        assert await bound.refused("ListBudgetAlerts", request) == f"not_found/{reason}", foreign


@pytest.mark.parametrize("changes", [{"page_size": -1}, {"page_token": "x"}, {"budget_id": "x"}, {"budget_id": "x:y"}])
async def test_bad_requests_are_refused(anna: CostCaller, changes: dict[str, Any]) -> None:
    assert await anna.refused("ListBudgetAlerts", pb.ListBudgetAlertsRequest(**changes)) == "invalid/INVALID_FIELD"


async def test_a_call_that_was_not_committed_tells_of_nothing(
    mesh: CostMesh, anna: CostCaller, armed: Callable[[str], None]
) -> None:
    await anna.limit(LIMIT)
    hold = await anna.dispatch(await anna.reserve())
    armed("cost.before_settle_commit=error@1")
    settle = pb.SettleRequest(hold_id=hold.hold_id)
    settle.usage.input_tokens, settle.usage.output_tokens = 100, 50
    assert await anna.refused("Settle", settle)
    assert await alerts(anna) == []
    await anna.call("Settle", settle)
    assert [alert.cause for alert in await alerts(anna)] == [WARNED]
    assert len(await mesh.messages()) == 1
