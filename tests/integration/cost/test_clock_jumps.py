"""Machines whose wall clock is wrong: periods, expiry, the ledger and what is old go by the time of the database."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role
from services.meshkit.telemetry import names
from tests.integration.cost.conftest import CostCaller, StartCost
from tests.support.jumping_clock import JumpingClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Another hour, day, week and month for whoever believes it.
FAR = timedelta(days=40)
#: What `CostCaller.reserve` holds, and what `spend` charges.
BOUND, PRICE = 45_000, 4_500


async def limit_each_month(caller: CostCaller) -> cost_pb2.Budget:
    request = pb.SetBudgetRequest(
        scope=cost_pb2.BUDGET_SCOPE_TENANT, limit_nano_usd=BOUND + PRICE, period=cost_pb2.BUDGET_PERIOD_MONTH
    )
    return (await caller.call("SetBudget", request)).budget


def seconds_ahead() -> float:
    return REGISTRY.get_sample_value(names.CLOCK_AHEAD_SECONDS, {"service": "cost"}) or 0


@pytest.mark.parametrize("wrong", [FAR, -FAR], ids=["ahead", "behind"])
async def test_a_replica_with_a_wrong_clock_empties_no_budget(start_cost: StartCost, wrong: timedelta) -> None:
    async with (
        start_cost(machine=SystemClock()) as right,
        start_cost(machine=JumpingClock(wrong)) as off,
    ):
        anna, ben = right.caller(Role.ADMIN), off.caller(Role.ADMIN)
        made = await limit_each_month(anna)
        await anna.spend()
        seen = await ben.budget()
        assert (seen.spent_nano_usd, seen.period_end_time) == (PRICE, made.period_end_time)
        await ben.spend()
        assert (await anna.budget()).spent_nano_usd == 2 * PRICE
        for caller in (anna, ben):
            with pytest.raises(MeshError, match="left"):
                await caller.reserve()
        times = [event.create_time.ToDatetime(tzinfo=UTC) for event in await anna.events()]
        assert all(abs(time - datetime.now(UTC)) < timedelta(minutes=1) for time in times)


async def test_a_clock_that_jumps_while_a_replica_runs_turns_no_period_and_ends_no_hold(start_cost: StartCost) -> None:
    machine = JumpingClock()
    async with start_cost(machine=SystemClock()) as right, start_cost(machine=machine, sweep_seconds=0.01) as off:
        anna = right.caller(Role.ADMIN)
        await limit_each_month(anna)
        await anna.spend()
        hold = await anna.dispatch(await anna.reserve())
        machine.jump(FAR)
        assert seconds_ahead() == pytest.approx(FAR.total_seconds(), abs=5)
        # Tokens are checked by the machine's time, so these are of after the jump.
        ben = off.caller(Role.ADMIN)
        seen = await ben.budget()
        assert (seen.spent_nano_usd, seen.held_nano_usd) == (PRICE, BOUND)
        assert (await ben.settle(hold, input_tokens=10, output_tokens=5)).state == cost_pb2.HOLD_STATE_SETTLED
        assert (await anna.budget()).spent_nano_usd == 2 * PRICE


async def test_a_replica_whose_clock_is_years_ahead_makes_nothing_old(start_cost: StartCost) -> None:
    async with start_cost(machine=SystemClock()) as right:
        anna = right.caller(Role.ADMIN)
        hold = await anna.spend()
        async with start_cost(machine=JumpingClock(timedelta(days=500)), hold_days=1, event_days=1) as off:
            ben = off.caller(Role.ADMIN)
            assert (await ben.settle(hold, input_tokens=10, output_tokens=5)).hold_id == hold.hold_id
            assert len(await ben.events()) == 1
