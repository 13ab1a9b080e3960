"""Reserve, MarkDispatched, Settle and Release over gRPC on real Postgres."""

import asyncio
from uuid import UUID, uuid4

import pytest
from google.protobuf.duration_pb2 import Duration

from comitia.common.v1 import content_pb2, usage_pb2
from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import from_uuid
from tests.integration.cost.conftest import CostMesh, StartCost
from tests.support.money import a_reserve, a_run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER = TenantId(UUID(int=0xBEEF))
BOUND = 100 * 150 + 50 * 600


async def test_a_call_is_held_dispatched_and_charged_what_it_used(mesh: CostMesh) -> None:
    anna = mesh.caller()
    hold = await anna.reserve()
    assert (hold.state, hold.amount_nano_usd) == (cost_pb2.HOLD_STATE_RESERVED, BOUND)
    assert (await anna.budget()).held_nano_usd == BOUND
    assert (await anna.dispatch(hold)).state == cost_pb2.HOLD_STATE_DISPATCHED
    settled = await anna.settle(hold, input_tokens=10, output_tokens=5)
    assert (settled.state, settled.charged_nano_usd) == (cost_pb2.HOLD_STATE_SETTLED, 10 * 150 + 5 * 600)
    budget = await anna.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd, budget.limit_nano_usd) == (4500, 0, 100_000_000_000)
    (event,) = await anna.events()
    assert (event.cost_nano_usd, event.agent_name, event.run_id, event.assumed) == (4500, "Athena", "run_1", False)
    assert event.hold_id == hold.hold_id
    assert len(event.price_digest) == 64


async def test_a_repeated_request_answers_with_the_first_hold(mesh: CostMesh) -> None:
    anna = mesh.caller()
    request = a_reserve()
    first = (await anna.call("Reserve", request)).hold
    await anna.dispatch(first)
    again = (await anna.call("Reserve", request)).hold
    assert (again.hold_id, again.state) == (first.hold_id, cost_pb2.HOLD_STATE_DISPATCHED)
    assert (await anna.budget()).held_nano_usd == BOUND
    request.model = "gpt-4o"
    assert await anna.refused("Reserve", request) == "conflict/REQUEST_ID_REUSED"


async def test_settling_twice_charges_once_and_another_usage_is_refused(mesh: CostMesh) -> None:
    anna = mesh.caller()
    hold = await anna.spend()
    assert (await anna.settle(hold, input_tokens=10, output_tokens=5)) == hold
    assert len(await anna.events()) == 1
    other = pb.SettleRequest(hold_id=hold.hold_id, usage=usage_pb2.Usage(input_tokens=11))
    assert await anna.refused("Settle", other) == "conflict/SETTLED_DIFFERENTLY"
    release = pb.ReleaseRequest(hold_id=hold.hold_id)
    assert await anna.refused("Release", release) == "precondition/HOLD_ALREADY_SETTLED"
    mark = pb.MarkDispatchedRequest(hold_id=hold.hold_id)
    assert await anna.refused("MarkDispatched", mark) == "precondition/HOLD_NOT_RESERVED"


async def test_a_call_that_leaves_at_once_is_held_as_dispatched_in_one_commit(mesh: CostMesh) -> None:
    anna = mesh.caller()
    request = a_reserve()
    request.dispatched = True
    hold = (await anna.call("Reserve", request)).hold
    assert hold.state == cost_pb2.HOLD_STATE_DISPATCHED
    assert (await anna.dispatch(hold)).state == cost_pb2.HOLD_STATE_DISPATCHED
    refused = pb.ReleaseRequest(hold_id=hold.hold_id)
    assert await anna.refused("Release", refused) == "precondition/HOLD_ALREADY_DISPATCHED"
    assert (await anna.settle(hold, input_tokens=10, output_tokens=5)).state == cost_pb2.HOLD_STATE_SETTLED


async def test_a_released_hold_frees_its_money(mesh: CostMesh) -> None:
    anna = mesh.caller()
    hold = await anna.reserve()
    assert (await anna.release(hold)).state == cost_pb2.HOLD_STATE_RELEASED
    assert (await anna.release(hold)).state == cost_pb2.HOLD_STATE_RELEASED
    assert (await anna.budget()).held_nano_usd == 0
    settle = pb.SettleRequest(hold_id=hold.hold_id, usage=usage_pb2.Usage(input_tokens=1))
    assert await anna.refused("Settle", settle) == "precondition/HOLD_NOT_DISPATCHED"


async def test_a_dispatched_call_is_freed_only_as_unbilled(mesh: CostMesh) -> None:
    anna = mesh.caller()
    hold = await anna.dispatch(await anna.reserve())
    release = pb.ReleaseRequest(hold_id=hold.hold_id)
    assert await anna.refused("Release", release) == "precondition/HOLD_ALREADY_DISPATCHED"
    assert (await anna.release(hold, unbilled=True)).state == cost_pb2.HOLD_STATE_RELEASED
    assert await anna.events() == []


async def test_a_tool_costs_what_its_service_says(mesh: CostMesh) -> None:
    anna = mesh.caller()
    tool = {"kind": cost_pb2.COST_KIND_TOOL, "provider": "tool", "model": "http_get", "tool_cost_nano_usd": 77}
    hold = await anna.dispatch(await anna.reserve(bound=None, **tool))
    assert hold.amount_nano_usd == 77
    assert (await anna.settle(hold)).charged_nano_usd == 77


async def test_a_model_is_never_charged_nothing_because_nobody_said_what_it_used(mesh: CostMesh) -> None:
    anna = mesh.caller()
    hold = await anna.reserve(dispatched=True)
    silent = pb.SettleRequest(hold_id=hold.hold_id)
    assert await anna.refused("Settle", silent) == "invalid/INVALID_FIELD"
    assert ((await anna.budget()).held_nano_usd, await anna.events()) == (BOUND, [])
    tool = await anna.reserve(kind=cost_pb2.COST_KIND_TOOL, model="http_get", tool_cost_nano_usd=7, dispatched=True)
    silent = pb.SettleRequest(hold_id=tool.hold_id)
    assert (await anna.call("Settle", silent)).hold.charged_nano_usd == 7
    assert (await anna.settle(hold)).charged_nano_usd == 0, "an empty usage says that nothing was used"


async def test_models_of_this_machine_are_free(mesh: CostMesh) -> None:
    anna = mesh.caller()
    await anna.limit(0)
    hold = await anna.spend(provider="local", model="smollm2-135m")
    assert (hold.amount_nano_usd, hold.charged_nano_usd) == (0, 0)


async def test_a_run_spends_from_its_own_budget_and_the_tenants(mesh: CostMesh) -> None:
    anna = mesh.caller()
    run_id = a_run_id()
    create = pb.CreateBudgetRequest(run_id=run_id, limit_nano_usd=BOUND)
    run = (await mesh.caller(peer="orchestrator").call("CreateBudget", create)).budget
    await anna.reserve(budget_ids=[run.budget_id])
    assert [(await anna.budget(name)).held_nano_usd for name in ("tenant", run.budget_id)] == [BOUND, BOUND]
    assert await anna.refused("Reserve", a_reserve(budget_ids=[run.budget_id])) == "exhausted/BUDGET_EXHAUSTED"
    assert (await anna.budget()).held_nano_usd == BOUND


async def test_two_hundred_callers_on_a_small_cap_never_overshoot(mesh: CostMesh) -> None:
    anna = mesh.caller()
    await anna.limit(50 * BOUND)

    async def attempt() -> bool:
        try:
            await anna.spend(input_tokens=100, output_tokens=50)
        except MeshError as error:
            if error.reason != "BUDGET_EXHAUSTED":
                raise
            return False
        return True

    passed = sum(await asyncio.gather(*(attempt() for _ in range(200))))
    budget = await anna.budget()
    assert passed == 50
    assert (budget.spent_nano_usd, budget.held_nano_usd, budget.overrun_nano_usd) == (50 * BOUND, 0, 0)
    assert sum(event.cost_nano_usd for event in await anna.events(page_size=500)) == budget.spent_nano_usd


async def test_two_replicas_on_one_cap_never_overshoot(start_cost: StartCost) -> None:
    async with start_cost() as one, start_cost() as two:
        callers = [one.caller(), two.caller()]
        await callers[0].limit(20 * BOUND)
        outcomes = await asyncio.gather(
            *(callers[number % 2].call("Reserve", a_reserve()) for number in range(100)), return_exceptions=True
        )
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 20
        assert (await callers[1].budget()).held_nano_usd == 20 * BOUND


async def test_another_tenants_holds_and_budgets_are_not_found(mesh: CostMesh) -> None:
    anna, bert = mesh.caller(), mesh.caller(tenant=OTHER)
    hold = await anna.dispatch(await anna.reserve())
    create = pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=5)
    hers = (await mesh.caller(peer="orchestrator").call("CreateBudget", create)).budget.budget_id
    own = (await anna.budget()).budget_id
    for method, request in (
        ("MarkDispatched", pb.MarkDispatchedRequest(hold_id=hold.hold_id)),
        ("Settle", pb.SettleRequest(hold_id=hold.hold_id)),
        ("Release", pb.ReleaseRequest(hold_id=hold.hold_id, dispatched_unbilled=True)),
    ):
        assert await bert.refused(method, request) == "not_found/HOLD_NOT_FOUND"
    for budget_id in (hers, own):
        for method, request in (
            ("Reserve", a_reserve(budget_ids=[budget_id])),
            ("GetBudget", pb.GetBudgetRequest(budget_id=budget_id)),
            ("SetBudgetLimit", pb.SetBudgetLimitRequest(budget_id=budget_id, limit_nano_usd=1)),
        ):
            assert await bert.refused(method, request) == "not_found/BUDGET_NOT_FOUND"
    assert await bert.events() == []
    assert (await anna.budget()).held_nano_usd == BOUND


async def test_unknown_names_are_not_found(mesh: CostMesh) -> None:
    anna = mesh.caller()
    nobody = from_uuid("hold", uuid4())
    assert await anna.refused("Settle", pb.SettleRequest(hold_id=nobody)) == "not_found/HOLD_NOT_FOUND"
    missing = a_reserve(budget_ids=[from_uuid("budget", uuid4())])
    assert await anna.refused("Reserve", missing) == "not_found/BUDGET_NOT_FOUND"


async def test_a_wrong_field_is_named_on_the_wire(mesh: CostMesh) -> None:
    with pytest.raises(MeshError, match=r"^ttl: ") as refusal:
        await mesh.caller().reserve(ttl=Duration(seconds=3601))
    assert (refusal.value.kind, refusal.value.reason) == (ErrorKind.INVALID, "INVALID_FIELD")


async def test_a_bound_beyond_reason_is_refused(mesh: CostMesh) -> None:
    absurd = a_reserve(model="gpt-4-32k", output_tokens=10**10)
    assert await mesh.caller().refused("Reserve", absurd) == "invalid/INVALID_FIELD"


async def test_an_unknown_price_is_refused_and_nothing_is_held(mesh: CostMesh) -> None:
    anna = mesh.caller()
    assert await anna.refused("Reserve", a_reserve(model="gpt-unheard-of")) == "precondition/PRICE_UNKNOWN"
    assert (await anna.budget()).held_nano_usd == 0


async def test_only_services_that_let_bytes_out_may_hold(mesh: CostMesh) -> None:
    for peer in (None, "orchestrator", "gateway"):
        assert await mesh.caller(peer=peer).refused("Reserve", a_reserve()) == "denied/PEER_NOT_ALLOWED"
    create = pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=5)
    assert await mesh.caller(peer="inference").refused("CreateBudget", create) == "denied/PEER_NOT_ALLOWED"


async def test_a_role_that_may_only_read_cannot_spend_or_change_a_limit(mesh: CostMesh) -> None:
    auditor = mesh.caller(Role.AUDITOR)
    assert await auditor.refused("Reserve", a_reserve()) == "denied/PERMISSION_MISSING"
    limit = pb.SetBudgetLimitRequest(budget_id="tenant", limit_nano_usd=1)
    assert await auditor.refused("SetBudgetLimit", limit) == "denied/PERMISSION_MISSING"
    assert (await auditor.budget()).spent_nano_usd == 0


async def test_a_call_without_context_is_refused(mesh: CostMesh) -> None:
    request = a_reserve()
    request.context.CopyFrom(content_pb2.CallContext())
    assert await mesh.caller().refused("Reserve", request) == "invalid/INVALID_FIELD"
