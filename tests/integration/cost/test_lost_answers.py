"""Holds whose answer got lost: who asks again gets the same one, so that nothing is charged for a call never sent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from random import Random

import pytest
import pytest_asyncio

from comitia.common.v1 import usage_pb2
from comitia.cost.v1 import budget_service_pb2, cost_pb2
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from services.meshkit.calls.cost_holds import CostHolds, Operations
from services.meshkit.calls.ports import DispatchedHold
from services.meshkit.content import CallContext, CallId, Usage
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import SystemIds
from tests.integration.cost.conftest import CostCaller, CostMesh
from tests.support.money import MODEL

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUND = 100 * 150 + 50 * 600
TTL = timedelta(seconds=60)
NEEDS = timedelta(seconds=10)
Arm = Callable[[str], None]


@pytest_asyncio.fixture(loop_scope="module")
async def holds(mesh: CostMesh) -> AsyncIterator[CostHolds]:
    """Asks cost as inference does."""
    assertion = [("comitia-workload", mesh.keys.workload("inference").assertion())]
    async with Operations(
        lambda: BudgetServiceStub(mesh.inside).BatchSpend(metadata=assertion),
        frame=budget_service_pb2.BatchSpendRequest,
        name="cost",
        clock=mesh.clock,
        random=Random(1),
    ) as operations:
        yield CostHolds(operations, ids=SystemIds())


@pytest.fixture
def anna(mesh: CostMesh) -> CostCaller:
    return mesh.caller()


def a_call(path: str = "rounds/1/Athena") -> CallContext:
    return CallContext(call_id=CallId(run_id="run_1", path=path))


def an_order(output_tokens: int = 50) -> budget_service_pb2.ReserveRequest:
    return budget_service_pb2.ReserveRequest(
        kind=cost_pb2.COST_KIND_GENERATE,
        provider="openai",
        model=MODEL,
        bound=usage_pb2.Usage(input_tokens=100, output_tokens=output_tokens),
    )


async def lose_an_answer(holds: CostHolds, anna: CostCaller, armed: Arm) -> None:
    """Has cost die for the asker after the hold is durable and before it is told."""
    armed("cost.after_reserve_commit=error@1")
    with pytest.raises(MeshError):
        await holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS)
    armed("")


async def test_asking_again_after_a_lost_answer_finds_the_hold(holds: CostHolds, anna: CostCaller, armed: Arm) -> None:
    await lose_an_answer(holds, anna, armed)
    assert (await anna.budget()).held_nano_usd == BOUND
    found = await holds.dispatch(anna.principal, a_call(), an_order(), ttl=2 * TTL, needs=NEEDS)
    assert (found.amount, (await anna.budget()).held_nano_usd) == (BOUND, BOUND)


async def test_a_lost_hold_that_became_a_charge_is_given_back(
    holds: CostHolds, anna: CostCaller, mesh: CostMesh, armed: Arm
) -> None:
    await lose_an_answer(holds, anna, armed)

    async def assumed() -> bool:
        return (await anna.budget()).spent_nano_usd == BOUND

    mesh.clock.advance(seconds=61)
    await mesh.until(assumed)
    await holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS)
    own = await anna.budget()
    assert (own.spent_nano_usd, own.held_nano_usd) == (0, BOUND)


async def test_a_refusal_is_an_answer_and_leaves_nothing_to_find(
    holds: CostHolds, anna: CostCaller, armed: Arm
) -> None:
    await lose_an_answer(holds, anna, armed)
    await anna.limit(BOUND)
    for _ in range(2):
        with pytest.raises(MeshError, match="left, and"):
            await holds.dispatch(anna.principal, a_call("other"), an_order(), ttl=TTL, needs=NEEDS)
    found = await holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS)
    assert (found.amount, (await anna.budget()).held_nano_usd) == (BOUND, BOUND)


async def test_a_hold_that_was_answered_is_for_one_call(holds: CostHolds, anna: CostCaller, armed: Arm) -> None:
    await lose_an_answer(holds, anna, armed)
    made = [await holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS) for _ in range(2)]
    assert made[0].id != made[1].id
    assert (await anna.budget()).held_nano_usd == 2 * BOUND


async def test_another_call_does_not_get_a_lost_hold(holds: CostHolds, anna: CostCaller, armed: Arm) -> None:
    await lose_an_answer(holds, anna, armed)
    await holds.dispatch(anna.principal, a_call("rounds/1/Apollo"), an_order(), ttl=TTL, needs=NEEDS)
    await holds.dispatch(anna.principal, a_call(), an_order(output_tokens=0), ttl=TTL, needs=NEEDS)
    assert (await anna.budget()).held_nano_usd == 2 * BOUND + 100 * 150


async def test_two_calls_that_were_broken_off_find_a_hold_each(holds: CostHolds, anna: CostCaller, armed: Arm) -> None:
    async def two() -> list[DispatchedHold]:
        return await asyncio.gather(
            *(holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS) for _ in range(2))
        )

    armed("cost.after_reserve_commit=delay:1000")
    broken_off = asyncio.create_task(two())
    async with asyncio.timeout(5):
        while (await anna.budget()).held_nano_usd < 2 * BOUND:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    broken_off.cancel()
    with pytest.raises(asyncio.CancelledError):
        await broken_off
    armed("")
    one, other = await two()
    assert one.id != other.id
    assert (await anna.budget()).held_nano_usd == 2 * BOUND


async def test_a_refused_hold_is_asked_for_anew(holds: CostHolds, anna: CostCaller) -> None:
    await anna.limit(0)
    with pytest.raises(MeshError, match="left, and"):
        await holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS)
    await anna.limit(BOUND)
    assert (await holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS)).amount == BOUND


async def test_a_hold_that_was_freed_when_its_asker_went_away_is_for_no_call(
    holds: CostHolds, anna: CostCaller, armed: Arm
) -> None:
    armed("cost.after_reserve_commit=delay:1000")
    broken_off = asyncio.create_task(holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS))
    async with asyncio.timeout(5):
        while not (await anna.budget()).held_nano_usd:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        broken_off.cancel()
        armed("")
        while (await anna.budget()).held_nano_usd:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    made = await holds.dispatch(anna.principal, a_call(), an_order(), ttl=TTL, needs=NEEDS)
    assert (await anna.budget()).held_nano_usd == BOUND
    await holds.settle(anna.principal, made.id, Usage(input=100))
    assert (await anna.budget()).spent_nano_usd == 15_000
