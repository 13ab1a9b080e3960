"""Holds that nobody settles, and crashes on the way."""

from collections.abc import Callable

import pytest

from comitia.cost.v1 import budget_service_pb2 as budget_pb
from comitia.cost.v1 import cost_pb2
from comitia.cost.v1 import ledger_service_pb2 as ledger_pb
from services.meshkit.core.errors import MeshError
from tests.integration.cost.conftest import CostMesh, StartCost
from tests.support.money import a_reserve

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUND = 100 * 150 + 50 * 600
Arm = Callable[[str], None]


async def test_expiry_frees_what_was_not_sent_and_assumes_what_was(mesh: CostMesh) -> None:
    anna = mesh.caller()
    await anna.reserve()
    sent = await anna.dispatch(await anna.reserve())
    mesh.clock.advance(seconds=61)

    async def swept() -> bool:
        return (await anna.budget()).held_nano_usd == 0

    await mesh.until(swept)
    assert (await anna.budget()).spent_nano_usd == BOUND
    (event,) = await anna.events()
    assert (event.hold_id, event.cost_nano_usd, event.assumed) == (sent.hold_id, BOUND, True)


async def test_late_usage_corrects_what_was_assumed_and_the_summary_follows(mesh: CostMesh) -> None:
    anna = mesh.caller()
    sent = await anna.dispatch(await anna.reserve())
    mesh.clock.advance(seconds=61)

    async def assumed() -> bool:
        return len(await anna.events()) == 1

    await mesh.until(assumed)
    settled = await anna.settle(sent, input_tokens=10, output_tokens=5)
    assert (settled.state, settled.charged_nano_usd) == (cost_pb2.HOLD_STATE_SETTLED, 4500)
    assert (await anna.budget()).spent_nano_usd == 4500
    events = await anna.events()
    assert sorted((event.cost_nano_usd, event.assumed, event.reversal) for event in events) == [
        (-BOUND, True, True),
        (4500, False, False),
        (BOUND, True, False),
    ]
    summary = await anna.call("GetCostSummary", ledger_pb.GetCostSummaryRequest())
    assert (summary.total_nano_usd, summary.assumed_nano_usd, summary.event_count) == (4500, 0, 1)
    assert (summary.lines[0].usage.input_tokens, summary.lines[0].usage.output_tokens) == (10, 5)


async def test_an_expired_hold_cannot_be_dispatched_even_before_the_sweep(start_cost: StartCost) -> None:
    async with start_cost(sweep_seconds=60.0) as mesh:
        anna = mesh.caller()
        hold = await anna.reserve(ttl={"seconds": 5})
        mesh.clock.advance(seconds=6)
        mark = budget_pb.MarkDispatchedRequest(hold_id=hold.hold_id)
        assert await anna.refused("MarkDispatched", mark) == "precondition/HOLD_NOT_RESERVED"


async def test_a_crash_before_a_settlement_is_durable_leaves_nothing_half_written(mesh: CostMesh, armed: Arm) -> None:
    anna = mesh.caller()
    hold = await anna.dispatch(await anna.reserve())
    armed("cost.before_settle_commit=error@1")
    with pytest.raises(MeshError):
        await anna.settle(hold, input_tokens=10, output_tokens=5)
    budget = await anna.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (0, BOUND)
    assert await anna.events() == []
    assert (await anna.settle(hold, input_tokens=10, output_tokens=5)).charged_nano_usd == 4500


async def test_a_crash_after_a_settlement_is_durable_charges_once(mesh: CostMesh, armed: Arm) -> None:
    anna = mesh.caller()
    hold = await anna.dispatch(await anna.reserve())
    armed("cost.after_settle_commit=error@1")
    with pytest.raises(MeshError):
        await anna.settle(hold, input_tokens=10, output_tokens=5)
    assert (await anna.settle(hold, input_tokens=10, output_tokens=5)).charged_nano_usd == 4500
    assert [event.cost_nano_usd for event in await anna.events()] == [4500]


async def test_a_crash_after_a_reserve_is_durable_holds_once(mesh: CostMesh, armed: Arm) -> None:
    anna = mesh.caller()
    request = a_reserve()
    armed("cost.after_reserve_commit=error@1")
    with pytest.raises(MeshError):
        await anna.call("Reserve", request)
    assert (await anna.call("Reserve", request)).hold.state == cost_pb2.HOLD_STATE_RESERVED
    assert (await anna.budget()).held_nano_usd == BOUND


async def test_a_sweep_that_fails_leaves_the_holds_to_the_next(start_cost: StartCost, armed: Arm) -> None:
    async with start_cost() as mesh:
        anna = mesh.caller()
        await anna.dispatch(await anna.reserve())
        armed("cost.before_expiry=error@1")
        mesh.clock.advance(seconds=61)

        async def assumed() -> bool:
            return (await anna.budget()).spent_nano_usd == BOUND

        await mesh.until(assumed)
        assert len(await anna.events()) == 1
