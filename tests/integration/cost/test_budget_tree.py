"""Budgets of projects, agents and steps, seen from outside: set, spent from, shown, removed."""

from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role, TenantId
from tests.integration.cost.conftest import CostCaller, CostMesh
from tests.support.money import a_reserve, a_run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: What `CostCaller.reserve` holds: 100 tokens in and 50 out.
BOUND = 45_000
RUN = "run_01h455vb4pex5vsknk084sn02q"
PROJECT, AGENT, STEP = cost_pb2.BUDGET_SCOPE_PROJECT, cost_pb2.BUDGET_SCOPE_AGENT, cost_pb2.BUDGET_SCOPE_STEP


@pytest.fixture
def anna(mesh: CostMesh) -> CostCaller:
    return mesh.caller(Role.ADMIN)


async def set_budget(caller: CostCaller, scope: int, name: str, limit: int = 10**9, **changes: Any) -> cost_pb2.Budget:
    request = pb.SetBudgetRequest(scope=scope, name=name, limit_nano_usd=limit, **changes)  # type: ignore[arg-type]
    return (await caller.call("SetBudget", request)).budget


async def status(caller: CostCaller, budget: str) -> pb.GetBudgetStatusResponse:
    return await caller.call("GetBudgetStatus", pb.GetBudgetStatusRequest(budget_id=budget))


async def test_a_call_spends_from_its_project_its_agent_and_its_steps(anna: CostCaller) -> None:
    run = a_run_id()
    made = [
        await set_budget(anna, PROJECT, "atlas"),
        await set_budget(anna, AGENT, "Athena"),
        await set_budget(anna, STEP, f"{run}/rounds"),
        await set_budget(anna, STEP, f"{run}/rounds/1/Athena"),
    ]
    others = [await set_budget(anna, PROJECT, "other"), await set_budget(anna, STEP, f"{run}/rounds/2")]
    hold = await anna.reserve(run_id=run, project="atlas")
    assert {budget.budget_id for budget in made} < set(hold.budget_ids)
    assert not {budget.budget_id for budget in others} & set(hold.budget_ids)
    await anna.dispatch(hold)
    await anna.settle(hold, input_tokens=10, output_tokens=5)
    for name in ("project:atlas", "agent:Athena", f"step:{run}/rounds", made[3].budget_id):
        found = await anna.budget(name)
        assert (found.spent_nano_usd, found.tokens.spent, found.calls.spent, found.held_nano_usd) == (4500, 15, 1, 0)


async def test_a_call_spends_from_the_steps_of_other_runs_that_its_run_lies_below(anna: CostCaller) -> None:
    outer, middle, run = a_run_id(), a_run_id(), a_run_id()
    made = [
        await set_budget(anna, STEP, f"{outer}/nodes", limit=BOUND + 4500),
        await set_budget(anna, STEP, f"{middle}/nodes/list/3", period=cost_pb2.BUDGET_PERIOD_DAY),
        await set_budget(anna, STEP, f"{run}/rounds"),
    ]
    other = await set_budget(anna, STEP, f"{middle}/nodes/list/4")
    below: dict[str, Any] = {"run_id": run, "parent_steps": [f"{outer}/nodes/inner", f"{middle}/nodes/list/3"]}
    hold = await anna.spend(**below)
    assert {budget.budget_id for budget in made} < set(hold.budget_ids)
    assert other.budget_id not in hold.budget_ids
    for budget in made:
        assert (await anna.budget(budget.budget_id)).spent_nano_usd == 4500
    # Another period counts anew from the ledger, and loses nothing of runs below.
    weekly = pb.SetBudgetRequest(scope=STEP, name=f"{middle}/nodes/list/3", period=cost_pb2.BUDGET_PERIOD_WEEK)
    assert (await anna.call("SetBudget", weekly)).budget.spent_nano_usd == 4500
    await anna.spend(**below)
    with pytest.raises(MeshError) as refusal:
        await anna.reserve(**below)
    assert f"step:{outer}/nodes" in refusal.value.message
    await anna.spend(run_id=run)


@pytest.mark.parametrize("step", ["run_1/nodes", "nodes", "", RUN, f"{RUN}/"])
async def test_a_step_above_a_run_that_is_none_is_refused(anna: CostCaller, step: str) -> None:
    assert await anna.refused("Reserve", a_reserve(parent_steps=[step])) == "invalid/INVALID_FIELD"


async def test_a_node_that_is_made_is_seen_by_the_next_call_and_one_removed_is_not(anna: CostCaller) -> None:
    for _ in range(3):
        assert len((await anna.reserve()).budget_ids) == 1
        made = await set_budget(anna, AGENT, "Athena")
        hold = await anna.reserve()
        assert made.budget_id in hold.budget_ids
        remove = pb.RemoveBudgetRequest(budget_id="agent:Athena")
        assert await anna.refused("RemoveBudget", remove) == "precondition/BUDGET_IN_USE"
        await anna.release(hold)
        assert (await anna.call("RemoveBudget", remove)).budget.budget_id == made.budget_id
        assert await anna.refused("GetBudget", pb.GetBudgetRequest(budget_id="agent:Athena")) == (
            "not_found/BUDGET_NODE_NOT_FOUND"
        )
        assert await anna.refused("GetBudget", pb.GetBudgetRequest(budget_id=made.budget_id)) == (
            "not_found/BUDGET_NOT_FOUND"
        )


async def test_a_charge_that_is_corrected_after_its_node_was_removed_is_settled(
    anna: CostCaller, mesh: CostMesh
) -> None:
    await set_budget(anna, AGENT, "Athena")
    hold = await anna.reserve(dispatched=True, ttl=Duration(seconds=5))

    async def charged() -> bool:
        return (await anna.budget()).spent_nano_usd == BOUND

    mesh.clock.advance(seconds=6)
    await mesh.until(charged)
    await anna.call("RemoveBudget", pb.RemoveBudgetRequest(budget_id="agent:Athena"))
    await anna.settle(hold, input_tokens=10)
    assert (await anna.budget()).spent_nano_usd == 1500


@pytest.mark.parametrize(
    ("limits", "unit"),
    [({"limit_tokens": 200}, "tokens"), ({"limit_calls": 1}, "calls"), ({"limit_wall_ms": 90_000}, "wall_ms")],
)
async def test_each_measure_refuses_at_its_limit(anna: CostCaller, limits: dict[str, int], unit: str) -> None:
    await set_budget(anna, AGENT, "Athena", **limits)
    hold = await anna.reserve()
    assert await anna.refused("Reserve", a_reserve()) == "exhausted/BUDGET_EXHAUSTED"
    await anna.release(hold)
    await anna.reserve()
    gauge = getattr(await anna.budget("agent:Athena"), unit)
    assert (gauge.limit, gauge.spent) == (next(iter(limits.values())), 0)
    assert 0 < gauge.held <= gauge.limit


async def test_a_soft_budget_warns_and_never_refuses(anna: CostCaller, mesh: CostMesh) -> None:
    await set_budget(anna, AGENT, "Athena", 5000, mode=cost_pb2.BUDGET_MODE_SOFT)
    for _ in range(3):
        await anna.spend()
    told = [cost_pb2.BudgetAlert.FromString(body) for subject, body in await mesh.messages() if "warned" in subject]
    assert [alert.budget.spent_nano_usd for alert in told] == [4500, 9000]
    assert (await status(anna, "agent:Athena")).level == cost_pb2.BUDGET_LEVEL_EXHAUSTED
    assert (await anna.budget("agent:Athena")).overrun_nano_usd == 0


async def test_a_degrading_budget_lets_only_the_cheapest_through_and_refuses_at_the_limit(anna: CostCaller) -> None:
    await set_budget(anna, AGENT, "Athena", 100_000, mode=cost_pb2.BUDGET_MODE_DEGRADE, warn_at_percent=40)
    await anna.spend(input_tokens=100, output_tokens=50)
    assert (await status(anna, "agent:Athena")).level == cost_pb2.BUDGET_LEVEL_DEGRADED
    assert await anna.refused("Reserve", a_reserve()) == "exhausted/BUDGET_DEGRADES"
    assert await anna.refused("Reserve", a_reserve(wait=Duration(seconds=60))) == "exhausted/BUDGET_DEGRADES"
    await anna.reserve(cheapest=True)
    assert await anna.refused("Reserve", a_reserve(cheapest=True)) == "exhausted/BUDGET_EXHAUSTED"


async def test_a_period_that_turns_begins_with_nothing_spent_and_keeps_what_is_held(
    anna: CostCaller, mesh: CostMesh
) -> None:
    hourly = {"period": cost_pb2.BUDGET_PERIOD_HOUR, "zone": "Europe/Berlin"}
    made = await set_budget(anna, AGENT, "Athena", 2 * BOUND, **hourly)
    await anna.spend(input_tokens=100, output_tokens=50)
    mesh.clock.advance(seconds=60)
    await anna.reserve(ttl=Duration(seconds=3600))
    assert await anna.refused("Reserve", a_reserve()) == "exhausted/BUDGET_EXHAUSTED"
    mesh.clock.advance(seconds=made.period_end_time.seconds - mesh.clock.now().timestamp())
    later = mesh.caller(Role.ADMIN)
    shown = await later.budget("agent:Athena")
    assert (shown.spent_nano_usd, shown.held_nano_usd) == (0, BOUND)
    assert shown.period_end_time.seconds - made.period_end_time.seconds == 3600
    await later.reserve()
    assert await later.refused("Reserve", a_reserve()) == "exhausted/BUDGET_EXHAUSTED"


async def test_the_tree_shows_steps_below_runs_and_runs_below_the_tenant(anna: CostCaller, mesh: CostMesh) -> None:
    run = a_run_id()
    orchestrator = mesh.caller(Role.ADMIN, peer="orchestrator")
    await orchestrator.call("CreateBudget", pb.CreateBudgetRequest(run_id=run, limit_nano_usd=10**9))
    for scope, name in ((STEP, f"{run}/rounds/1"), (PROJECT, "atlas"), (STEP, f"{run}/rounds"), (AGENT, "Athena")):
        await set_budget(anna, scope, name)
    tree = await anna.call("GetBudgetTree", pb.GetBudgetTreeRequest())
    shown = [(node.depth, node.budget.name or node.budget.run_id) for node in tree.nodes]
    assert shown == [(0, ""), (1, "atlas"), (1, "Athena"), (1, run), (2, f"{run}/rounds"), (3, f"{run}/rounds/1")]
    assert tree.nodes[4].parent_budget_id == tree.nodes[3].budget.budget_id
    assert not tree.more_runs
    only = await anna.call("ListBudgets", pb.ListBudgetsRequest(scope=STEP))
    assert {budget.name for budget in only.budgets} == {f"{run}/rounds", f"{run}/rounds/1"}


async def test_a_run_stands_below_the_budget_of_its_project(anna: CostCaller, mesh: CostMesh) -> None:
    orchestrator, runs = mesh.caller(Role.ADMIN, peer="orchestrator"), [a_run_id() for _ in range(4)]
    for run, said in zip(runs, ({"project": "atlas"}, {"project": "peace"}, {"project": ""}, {}), strict=True):
        mesh.clock.advance(seconds=1)
        request = pb.CreateBudgetRequest(run_id=run, limit_nano_usd=10**9, **said)
        made = (await orchestrator.call("CreateBudget", request)).budget
        assert made.project == said.get("project", "")
        assert (await orchestrator.call("CreateBudget", request)).budget == made
    atlas = await set_budget(anna, PROJECT, "atlas")
    await set_budget(anna, STEP, f"{runs[0]}/rounds")
    tree = await anna.call("GetBudgetTree", pb.GetBudgetTreeRequest())
    shown = [(node.depth, node.budget.name or node.budget.run_id) for node in tree.nodes]
    below = [(1, "atlas"), (2, runs[0]), (3, f"{runs[0]}/rounds")]
    assert shown == [(0, ""), *below, (1, runs[3]), (1, runs[2]), (1, runs[1])]
    await anna.call("RemoveBudget", pb.RemoveBudgetRequest(budget_id=atlas.budget_id))
    tree = await anna.call("GetBudgetTree", pb.GetBudgetTreeRequest())
    assert (1, runs[0]) in [(node.depth, node.budget.run_id) for node in tree.nodes]


async def test_a_run_is_of_one_project(anna: CostCaller, mesh: CostMesh) -> None:
    orchestrator = mesh.caller(Role.ADMIN, peer="orchestrator")
    await anna.spend()
    for own, other in (("atlas", "peace"), ("atlas", ""), ("", "atlas")):
        request = pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=10**9, project=own)
        run = (await orchestrator.call("CreateBudget", request)).budget.budget_id
        # Twice: on rows as they were seen, and as they are.
        for _ in range(2):
            wrong = a_reserve(budget_ids=[run], project=other)
            assert await anna.refused("Reserve", wrong) == "invalid/INVALID_FIELD"
        assert run in (await anna.reserve(budget_ids=[run], project=own)).budget_ids
        request.project = other
        assert await orchestrator.refused("CreateBudget", request) == "exists/BUDGET_EXISTS"
        # As a release before asks.
        request.ClearField("project")
        assert (await orchestrator.call("CreateBudget", request)).budget.project == own
    unsaid = pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=10**9)
    old = (await orchestrator.call("CreateBudget", unsaid)).budget.budget_id
    for project in ("atlas", ""):
        assert old in (await anna.reserve(budget_ids=[old], project=project)).budget_ids


@pytest.mark.parametrize("project", ["a" * 201, "a\x00b"])
async def test_a_project_that_makes_no_sense_is_refused(mesh: CostMesh, project: str) -> None:
    request = pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=5, project=project)
    assert await mesh.caller(peer="orchestrator").refused("CreateBudget", request) == "invalid/INVALID_FIELD"


async def test_budgets_of_another_tenant_are_not_found_by_id_or_name(anna: CostCaller, mesh: CostMesh) -> None:
    made = await set_budget(anna, PROJECT, "atlas", 0)
    stranger = mesh.caller(Role.ADMIN, tenant=TenantId(uuid4()))
    for name, reason in ((made.budget_id, "BUDGET_NOT_FOUND"), ("project:atlas", "BUDGET_NODE_NOT_FOUND")):
        for method, request in (
            ("GetBudget", pb.GetBudgetRequest(budget_id=name)),
            ("GetBudgetStatus", pb.GetBudgetStatusRequest(budget_id=name)),
            ("RemoveBudget", pb.RemoveBudgetRequest(budget_id=name)),
            ("SetBudgetLimit", pb.SetBudgetLimitRequest(budget_id=name, limit_nano_usd=1)),
        ):
            assert await stranger.refused(method, request) == f"not_found/{reason}", (method, name)
    assert len((await stranger.reserve(project="atlas")).budget_ids) == 1


async def test_extending_holds_the_time_and_a_repeat_changes_nothing(anna: CostCaller) -> None:
    await set_budget(anna, AGENT, "Athena", limit_wall_ms=100_000)
    hold = await anna.reserve()
    for seconds in (100, 100, 50):
        extended = await anna.call("Extend", pb.ExtendRequest(hold_id=hold.hold_id, ttl=Duration(seconds=seconds)))
        assert extended.hold.expire_time.seconds - hold.expire_time.seconds == 40
    assert (await anna.budget("agent:Athena")).wall_ms.held == 100_000
    longer = pb.ExtendRequest(hold_id=hold.hold_id, ttl=Duration(seconds=101))
    assert await anna.refused("Extend", longer) == "exhausted/BUDGET_EXHAUSTED"
    await anna.release(hold)
    assert await anna.refused("Extend", longer) == "precondition/HOLD_NOT_OPEN"


async def test_an_older_fence_is_refused_and_a_later_one_takes_the_call_over(anna: CostCaller) -> None:
    hold = await anna.reserve(fence=5)
    mark = pb.MarkDispatchedRequest(hold_id=hold.hold_id, fence=4)
    assert await anna.refused("MarkDispatched", mark) == "conflict/HOLD_FENCED"
    assert (await anna.call("MarkDispatched", pb.MarkDispatchedRequest(hold_id=hold.hold_id, fence=6))).hold.fence == 6
    assert await anna.refused("Settle", pb.SettleRequest(hold_id=hold.hold_id, fence=5)) == "conflict/HOLD_FENCED"
    await anna.settle(hold, input_tokens=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"limit_nano_usd": -1},
        {"limit_nano_usd": 2**62 + 1},
        {"limit_tokens": -1},
        {"limit_calls": 2**62 + 1},
        {"limit_wall_ms": -(2**63)},
        {"mode": 9},
        {"period": 9},
        {"zone": "Europe/Berlin"},
        {"zone": "../../etc/passwd", "period": 1},
        {"zone": "Mars/Olympus", "period": 1},
        {"warn_at_percent": 101},
        {"warn_at_percent": -1},
        {"scope": cost_pb2.BUDGET_SCOPE_RUN},
        {"scope": 0},
        {"scope": cost_pb2.BUDGET_SCOPE_TENANT},
        {"name": ""},
        {"name": "a" * 201},
        {"name": "a\x00b"},
        {"scope": STEP, "name": "rounds/2"},
        {"scope": STEP, "name": f"{a_run_id()}/"},
        {"scope": STEP, "name": f"{a_run_id()}//x"},
        {"scope": STEP, "name": f"{a_run_id()}/{'/'.join('x' * 17)}"},
    ],
)
async def test_what_makes_no_sense_is_refused(anna: CostCaller, changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {"scope": PROJECT, "name": "atlas", "limit_nano_usd": 5, **changes}
    request = pb.SetBudgetRequest(**values)
    assert await anna.refused("SetBudget", request) == "invalid/INVALID_FIELD"


async def test_a_limit_must_be_given(anna: CostCaller) -> None:
    assert await anna.refused("SetBudget", pb.SetBudgetRequest(scope=PROJECT, name="x")) == "invalid/INVALID_FIELD"


async def test_the_budgets_of_tenants_and_runs_stay(anna: CostCaller) -> None:
    await anna.budget()
    remove = pb.RemoveBudgetRequest(budget_id="tenant")
    assert await anna.refused("RemoveBudget", remove) == "precondition/BUDGET_STAYS"


async def test_a_repeated_set_gets_its_first_answer(anna: CostCaller) -> None:
    request = pb.SetBudgetRequest(scope=PROJECT, name="atlas", limit_nano_usd=5, request_id=str(uuid4()))
    first = await anna.call("SetBudget", request)
    await set_budget(anna, PROJECT, "atlas", 7)
    assert await anna.call("SetBudget", request) == first
    assert (await anna.budget("project:atlas")).limit_nano_usd == 7
