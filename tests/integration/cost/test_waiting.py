"""Money that is only held is waited for, money that is spent is not: on a real Postgres, as inference asks for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from prometheus_client import REGISTRY

from comitia.common.v1 import usage_pb2
from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from tests.integration.cost.conftest import CostCaller, CostMesh, StartCost
from tests.support.money import a_reserve

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: What `a_reserve` asks for, nano-USD.
BOUND = 100 * 150 + 50 * 600
CALLERS = 500
Item = pb.BatchSpendRequest.Item
Spending = Coalescer[pb.BatchSpendRequest.Item, pb.BatchSpendResponse.Item]


def a_wait(seconds: float = 300) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


@dataclass
class Spender:
    """Spends over a batch stream, as inference does, and remembers what became of it."""

    caller: CostCaller
    spending: Spending
    #: Causes of refusals, in order.
    refused: list[str] = field(default_factory=list[str])
    settled: int = 0

    async def reserve(self, **changes: Any) -> cost_pb2.Hold:
        values: dict[str, Any] = {"wait": a_wait(), "dispatched": True, **changes}
        item = Item(reserve=a_reserve(**values))
        answer = await self.spending.call(item, principal=self.caller.principal, timeout_seconds=400)
        return answer.hold

    async def settle(self, hold: cost_pb2.Hold, **tokens: int) -> cost_pb2.Hold:
        request = pb.SettleRequest(hold_id=hold.hold_id, usage=usage_pb2.Usage(**tokens))
        answer = await self.spending.call(Item(settle=request), principal=self.caller.principal)
        return answer.hold

    async def call(self, *, output_tokens: int, **changes: Any) -> None:
        """Makes one call: holds its bound, and is charged for its answer."""
        try:
            hold = await self.reserve(**changes)
        except MeshError as refusal:
            self.refused.append(f"{refusal.reason}/{refusal.metadata.get('cause')}")
            return
        await self.settle(hold, input_tokens=100, output_tokens=output_tokens)
        self.settled += 1


@asynccontextmanager
async def spending(mesh: CostMesh) -> AsyncIterator[Spending]:
    assertion = [("comitia-workload", mesh.keys.workload("inference").assertion())]
    async with Coalescer(
        lambda: BudgetServiceStub(mesh.inside).BatchSpend(metadata=assertion),
        frame=pb.BatchSpendRequest,
        name="test",
        clock=mesh.clock,
        random=Random(1),
    ) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def stream(mesh: CostMesh) -> AsyncIterator[Spending]:
    async with spending(mesh) as opened:
        yield opened


@pytest.fixture
def anna(mesh: CostMesh) -> CostCaller:
    return mesh.caller()


async def waiting(how_many: int, *, seconds: float = 10) -> None:
    """Waits until so many calls wait for money."""
    await until(lambda: waits() == how_many, seconds=seconds)


def waits() -> int:
    return int(REGISTRY.get_sample_value("comitia_queue_items", {"queue": "cost.waiting"}) or 0)


async def until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_500_callers_at_a_cap_worth_100_calls_exactly_100_pass_and_the_rest_fails_once_it_is_spent(
    mesh: CostMesh, anna: CostCaller, stream: Spending
) -> None:
    await anna.limit(100 * BOUND)
    spender = Spender(anna, stream)
    # Nobody's time passes: who is refused is refused because the money is spent.
    await asyncio.gather(*(spender.call(output_tokens=50) for _ in range(CALLERS)))
    assert spender.settled == 100
    assert spender.refused == ["BUDGET_EXHAUSTED/spent"] * 400
    budget = await anna.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd, budget.overrun_nano_usd) == (100 * BOUND, 0, 0)
    assert waits() == 0


async def test_a_budget_that_degrades_has_dearer_models_wait_for_what_is_only_held(
    mesh: CostMesh, anna: CostCaller, stream: Spending
) -> None:
    terms = pb.SetBudgetRequest(
        scope=cost_pb2.BUDGET_SCOPE_TENANT, limit_nano_usd=10 * BOUND, mode=cost_pb2.BUDGET_MODE_DEGRADE
    )
    await anna.call("SetBudget", terms)
    spender = Spender(anna, stream)
    # Twelve at once, of which eight reach the level while they hold their bounds.
    await asyncio.gather(*(spender.call(output_tokens=1) for _ in range(12)))
    assert (spender.settled, spender.refused) == (12, [])
    held = [await spender.reserve() for _ in range(4)]
    assert await anna.refused("Reserve", a_reserve()) == "exhausted/BUDGET_DEGRADES", "who does not wait goes cheaper"
    late = asyncio.create_task(spender.call(output_tokens=1))
    await waiting(1)
    for hold in held:
        await spender.settle(hold, input_tokens=100, output_tokens=50)
    await late
    assert spender.refused == ["BUDGET_DEGRADES/None"], "once that is spent"


async def test_whoever_fits_below_a_lowered_limit_once_calls_settle_waits_for_that(
    mesh: CostMesh, anna: CostCaller, stream: Spending
) -> None:
    spender = Spender(anna, stream)
    held = [await spender.reserve() for _ in range(8)]
    lowered = await anna.limit(5 * BOUND)
    assert lowered.overrun_nano_usd == 3 * BOUND
    late = asyncio.create_task(spender.reserve())
    await waiting(1)
    for hold in held[:3]:
        await spender.settle(hold, input_tokens=1)
    assert (await anna.budget()).overrun_nano_usd == 450
    assert not late.done(), "nothing new is held while it overruns"
    for hold in held[3:]:
        await spender.settle(hold, input_tokens=1)
    assert (await late).state == cost_pb2.HOLD_STATE_DISPATCHED
    refused = a_reserve(input_tokens=100_000_000, wait=a_wait())
    with pytest.raises(MeshError) as refusal:
        await anna.call("Reserve", refused)
    assert refusal.value.metadata["cause"] == "spent"


async def test_500_callers_whose_bounds_are_four_times_the_actual_use_the_cap_and_overshoot_nothing(
    mesh: CostMesh, anna: CostCaller, stream: Spending
) -> None:
    limit = 100 * BOUND
    await anna.limit(limit)
    spender, random = Spender(anna, stream), Random(5)

    async def one() -> None:
        # A fourth of the bound on average: 100 tokens in are 15,000, and answers differ.
        tokens = random.randint(1, 49)
        await spender.call(output_tokens=tokens, bound=usage_pb2.Usage(input_tokens=100, output_tokens=175))

    await asyncio.gather(*(one() for _ in range(CALLERS)))
    budget = await anna.budget()
    assert (budget.held_nano_usd, budget.overrun_nano_usd) == (0, 0)
    assert 0.95 * limit <= budget.spent_nano_usd <= limit
    assert set(spender.refused) == {"BUDGET_EXHAUSTED/spent"}
    assert spender.settled + len(spender.refused) == CALLERS
    charged = await anna.events(page_size=500)
    assert sum(event.cost_nano_usd for event in charged) == budget.spent_nano_usd
    assert len(charged) == spender.settled


async def test_nothing_else_of_a_frame_waits_for_an_item_that_does(
    mesh: CostMesh, anna: CostCaller, stream: Spending
) -> None:
    await anna.limit(2 * BOUND)
    spender = Spender(anna, stream)
    held, kept = await spender.reserve(), await spender.reserve()
    big = usage_pb2.Usage(input_tokens=100, output_tokens=125)
    # Both leave in one tick, so in one frame.
    patient = asyncio.create_task(spender.reserve(bound=big))
    settled = asyncio.create_task(spender.settle(held))
    assert (await asyncio.wait_for(settled, 5)).state == cost_pb2.HOLD_STATE_SETTLED
    assert not patient.done()
    await spender.settle(kept)
    await asyncio.wait_for(patient, 5)


async def test_at_the_end_of_its_time_the_cause_is_held(mesh: CostMesh, anna: CostCaller, stream: Spending) -> None:
    await anna.limit(BOUND)
    spender = Spender(anna, stream)
    await spender.reserve()
    late = asyncio.create_task(spender.reserve(wait=a_wait(30)))
    await waiting(1)
    await passing(mesh, 31, late)
    with pytest.raises(MeshError) as refusal:
        await late
    assert (refusal.value.reason, refusal.value.metadata["cause"]) == ("BUDGET_EXHAUSTED", "held")
    assert refusal.value.retry_after is not None
    assert ((await anna.budget()).held_nano_usd, waits()) == (BOUND, 0)


async def passing(mesh: CostMesh, seconds: float, *ends: asyncio.Future[Any], real: float = 0.002) -> None:
    """Lets so much of the mesh's time pass, in steps, until what is waited for has ended.

    Args:
        real: seconds of a step, in which databases do their work.
    """
    for _ in range(int(seconds * 10)):
        if all(one.done() for one in ends) and ends:
            return
        mesh.clock.advance(seconds=0.1)
        await asyncio.sleep(real)


@pytest.mark.parametrize("form", ["unary", "batch"])
async def test_who_asks_not_to_wait_is_refused_at_once(anna: CostCaller, stream: Spending, form: str) -> None:
    await anna.limit(BOUND)
    spender = Spender(anna, stream)
    await spender.reserve()
    with pytest.raises(MeshError) as refusal:
        await (anna.reserve() if form == "unary" else spender.reserve(wait=None))
    assert refusal.value.metadata["cause"] == "held"


@pytest.mark.parametrize("wait", [Duration(seconds=601), Duration(seconds=-1), Duration(seconds=600, nanos=1)])
async def test_a_wait_beyond_its_bounds_is_refused(anna: CostCaller, wait: Duration) -> None:
    with pytest.raises(MeshError, match="wait: must be 0 s to 600 s") as refusal:
        await anna.reserve(wait=wait)
    assert (refusal.value.reason, refusal.value.field) == ("INVALID_FIELD", "wait")


@pytest.mark.parametrize("frees", ["settle", "release", "limit", "set_budget", "sweep"])
async def test_whatever_gives_money_back_ends_a_wait_at_once(
    mesh: CostMesh, anna: CostCaller, stream: Spending, frees: str
) -> None:
    await anna.limit(BOUND)
    spender = Spender(anna, stream)
    held = await spender.reserve()
    patient = asyncio.create_task(spender.reserve(ttl=Duration(seconds=600)))
    await waiting(1)
    if frees == "settle":
        await spender.settle(held)
    elif frees == "release":
        await anna.release(held, unbilled=True)
    elif frees == "limit":
        await anna.limit(2 * BOUND)
    elif frees == "set_budget":
        request = pb.SetBudgetRequest(scope=cost_pb2.BUDGET_SCOPE_TENANT, limit_nano_usd=2 * BOUND)
        await anna.call("SetBudget", request)
    else:
        # It is charged as assumed then, so that there is no money for the other one.
        await passing(mesh, 90, patient)
        with pytest.raises(MeshError) as refusal:
            await patient
        assert refusal.value.metadata["cause"] == "spent"
        return
    async with asyncio.timeout(5):
        await patient
    assert waits() == 0


async def test_a_big_call_is_not_starved_by_small_ones(mesh: CostMesh, anna: CostCaller, stream: Spending) -> None:
    await anna.limit(10 * BOUND)
    spender = Spender(anna, stream)
    small = [await spender.reserve() for _ in range(10)]
    big = asyncio.create_task(spender.reserve(bound=usage_pb2.Usage(input_tokens=100, output_tokens=475)))
    await waiting(1)
    others = [asyncio.create_task(spender.reserve()) for _ in range(5)]
    await waiting(6)
    for number, hold in enumerate(small):
        assert not big.done() or number >= 7
        assert not any(other.done() for other in others) or big.done()
        await anna.release(hold, unbilled=True)
        # Nor does one that does not wait take what the big one waits for.
        if not big.done() and number < 6:
            with pytest.raises(MeshError, match="calls that came before wait for it") as refusal:
                await anna.reserve(wait=None)
            assert refusal.value.metadata["cause"] == "held"
    await asyncio.wait_for(big, 5)
    # 10 are the limit, the big one holds 6.67 of them: three of the small ones fit beside it.
    await until(lambda: waits() == 2 and sum(other.done() for other in others) == 3)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await until(lambda: waits() == 0)


async def test_who_goes_away_leaves_the_line_and_lets_the_next_one_pass(
    mesh: CostMesh, anna: CostCaller, stream: Spending
) -> None:
    await anna.limit(2 * BOUND)
    spender = Spender(anna, stream)
    held = await spender.reserve(bound=usage_pb2.Usage(input_tokens=100, output_tokens=50))
    big = asyncio.create_task(spender.reserve(bound=usage_pb2.Usage(input_tokens=100, output_tokens=75)))
    await waiting(1)
    small = asyncio.create_task(spender.reserve())
    await waiting(2)
    big.cancel()
    with pytest.raises(asyncio.CancelledError):
        await big
    await asyncio.wait_for(small, 5)
    assert ((await anna.budget()).held_nano_usd, waits()) == (2 * BOUND, 0)
    await spender.settle(held)
    assert (await anna.budget()).held_nano_usd == BOUND


@pytest.mark.parametrize("how", ["unary call", "stream"])
async def test_a_caller_that_is_gone_holds_nothing(mesh: CostMesh, anna: CostCaller, how: str) -> None:
    await anna.limit(BOUND)
    held = await anna.dispatch(await anna.reserve())
    if how == "stream":
        async with spending(mesh) as broken:
            asked = asyncio.create_task(Spender(anna, broken).reserve())
            await waiting(1)
        with pytest.raises(MeshError):
            await asked
    else:
        asked = asyncio.create_task(anna.reserve(wait=a_wait()))
        await waiting(1)
        asked.cancel()
    await until(lambda: waits() == 0)
    await anna.settle(held)
    assert (await anna.budget()).held_nano_usd == 0


async def test_a_hold_that_is_made_as_its_caller_goes_away_is_freed(
    mesh: CostMesh, anna: CostCaller, stream: Spending, armed: Callable[[str], None]
) -> None:
    await anna.limit(BOUND)
    spender = Spender(anna, stream)
    held = await spender.reserve()
    patient = asyncio.create_task(spender.reserve())
    await waiting(1)
    # The hold is in the ledger, and its maker has not come to tell.
    armed("cost.after_reserve_commit=delay:1000")
    await spender.settle(held)
    async with asyncio.timeout(5):
        while (await anna.budget()).held_nano_usd != BOUND:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    patient.cancel()
    async with asyncio.timeout(5):
        while (await anna.budget()).held_nano_usd:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert waits() == 0


async def test_a_repeat_waits_with_the_first_and_both_get_the_same_hold(
    mesh: CostMesh, anna: CostCaller, stream: Spending
) -> None:
    await anna.limit(BOUND)
    spender = Spender(anna, stream)
    held = await spender.reserve()
    request = str(uuid4())
    asked = [asyncio.create_task(spender.reserve(request_id=request)) for _ in range(3)]
    asked.append(asyncio.create_task(anna.reserve(request_id=request, dispatched=True, wait=a_wait())))
    await waiting(4)
    with pytest.raises(MeshError) as refusal:
        await spender.reserve(request_id=request, bound=usage_pb2.Usage(input_tokens=99, output_tokens=50))
    assert refusal.value.reason == "REQUEST_ID_REUSED"
    asked[0].cancel()
    await waiting(3)
    await spender.settle(held)
    holds = await asyncio.wait_for(asyncio.gather(*asked[1:]), 5)
    assert len({hold.hold_id for hold in holds}) == 1
    assert (await anna.budget()).held_nano_usd == BOUND
    again = await spender.reserve(request_id=request)
    assert again.hold_id == holds[0].hold_id


async def test_a_full_queue_refuses_with_a_hint_and_one_tenant_fills_but_half_of_it(
    start_cost: StartCost,
) -> None:
    async with start_cost(wait_queue_calls=4) as mesh, spending(mesh) as stream:
        spenders = [Spender(mesh.caller(tenant=TenantId(uuid4())), stream) for _ in range(3)]
        for spender in spenders:
            await spender.caller.limit(BOUND)
            await spender.reserve()
        tasks: list[asyncio.Task[Any]] = []
        for spender, places in zip(spenders, (2, 2, 0), strict=True):
            for _ in range(places):
                tasks.append(asyncio.create_task(spender.reserve()))
                await waiting(len(tasks))
            with pytest.raises(MeshError) as refusal:
                await spender.reserve()
            assert refusal.value.reason == "TOO_MANY_WAITING"
            assert refusal.value.retry_after is not None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_replica_that_stops_tells_those_who_wait_to_ask_again(start_cost: StartCost) -> None:
    request = str(uuid4())
    async with start_cost() as other, AsyncExitStack() as stack:
        async with start_cost() as stopping:
            # Calls go over a channel that outlives the server.
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{stopping.port}"))
            mesh = replace(stopping, inside=channel)
            spender = Spender(mesh.caller(), await stack.enter_async_context(spending(mesh)))
            await spender.caller.limit(BOUND)
            held = await spender.reserve()
            asked = asyncio.create_task(spender.reserve(request_id=request))
            unary = asyncio.create_task(spender.caller.reserve(wait=a_wait()))
            await waiting(2)
        for task in (asked, unary):
            with pytest.raises(MeshError) as refusal:
                await task
            assert (refusal.value.reason, refusal.value.metadata["dependency"]) == ("UNAVAILABLE", "cost")
        spender = Spender(other.caller(), await stack.enter_async_context(spending(other)))
        again = asyncio.create_task(spender.reserve(request_id=request))
        await waiting(1)
        await spender.settle(held)
        await asyncio.wait_for(again, 5)
        assert (await other.caller().budget()).held_nano_usd == BOUND


async def test_two_replicas_serve_those_who_wait_at_both(start_cost: StartCost) -> None:
    async with start_cost() as mesh, start_cost() as twin, spending(mesh) as here, spending(twin) as there:
        anna = mesh.caller()
        limit, random = 100 * BOUND, Random(7)
        await anna.limit(limit)
        spenders = [Spender(anna, here), Spender(twin.caller(), there)]
        bound = usage_pb2.Usage(input_tokens=100, output_tokens=175)

        async def one(spender: Spender) -> None:
            takes, tokens = random.uniform(0.1, 2.0), random.randint(1, 49)
            try:
                hold = await spender.reserve(bound=bound, ttl=Duration(seconds=3600))
            except MeshError as refusal:
                spender.refused.append(f"{refusal.reason}/{refusal.metadata.get('cause')}")
                return
            await mesh.clock.sleep(takes)
            await spender.settle(hold, input_tokens=100, output_tokens=tokens)
            spender.settled += 1

        calls = [asyncio.create_task(one(spender)) for spender in spenders for _ in range(120)]
        await passing(mesh, 200, *calls, real=0.02)
        await asyncio.wait_for(asyncio.gather(*calls), 10)
        budget = await anna.budget()
        assert (budget.held_nano_usd, budget.overrun_nano_usd) == (0, 0)
        assert 0.95 * limit <= budget.spent_nano_usd <= limit
        assert all(spender.settled >= 20 for spender in spenders), [one.settled for one in spenders]
        refused = [cause for spender in spenders for cause in spender.refused]
        assert set(refused) == {"BUDGET_EXHAUSTED/spent"}
        assert len(refused) + sum(spender.settled for spender in spenders) == 240


async def test_what_another_replica_gives_back_is_found_by_the_poll(start_cost: StartCost) -> None:
    async with start_cost() as mesh, start_cost() as twin, spending(mesh) as here:
        anna, spender = mesh.caller(), Spender(mesh.caller(), here)
        await anna.limit(BOUND)
        held = await spender.reserve()
        patient = asyncio.create_task(spender.reserve())
        await waiting(1)
        await twin.caller().settle(held)
        await passing(mesh, 2, patient)
        assert (await asyncio.wait_for(patient, 5)).amount_nano_usd == BOUND
