"""Money of calls at the doors: charged after the answer, many together."""

import asyncio
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

import pytest

from services.inference.domain.deployment import Task
from services.inference.usecases import door_call
from services.inference.usecases.door_call import DoorHolds
from services.meshkit.content import Usage
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.core.money import NanoUsd
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.inference import OPENAI, FakeHolds, a_context, an_asked
from tests.unit.inference.conftest import until

USED = Usage(input=3, output=2)


async def answered(holds: DoorHolds, within: AsyncExitStack, path: str) -> None:
    """Makes a call up to its answer."""
    asked = an_asked(context=a_context(path), repeatable=False)
    await within.enter_async_context(holds.ahead(asked, OPENAI))
    hold = await holds.hold(
        asked.principal,
        asked.context,
        task=Task.GENERATE,
        provider=OPENAI.payee,
        model=OPENAI.model,
        bound=asked.bound(OPENAI),
        ttl=timedelta(seconds=60),
    )
    await holds.settle(asked.principal, hold.id, USED)


async def test_answers_that_leave_within_a_moment_are_charged_together() -> None:
    clock, cost = FakeClock(), FakeHolds()
    holds = DoorHolds(cost, clock=clock)
    settling = asyncio.create_task(holds())
    async with AsyncExitStack() as within:
        await answered(holds, within, "one")
        await clock.until_someone_sleeps()
        await answered(holds, within, "two")
        assert cost.states == ["dispatched", "dispatched"]
        clock.advance(seconds=0.05)
        await until(lambda: cost.states == ["settled", "settled"])
    settling.cancel()
    with suppress(asyncio.CancelledError):
        await settling


async def test_what_gathers_when_the_service_stops_is_charged_before_it_ends() -> None:
    clock, cost = FakeClock(), FakeHolds()
    holds = DoorHolds(cost, clock=clock)
    settling = asyncio.create_task(holds())
    async with AsyncExitStack() as within:
        await answered(holds, within, "one")
        await clock.until_someone_sleeps()
        settling.cancel()
        with suppress(asyncio.CancelledError):
            await settling
        assert cost.states == ["settled"]


class SlowHolds(FakeHolds):
    """Takes its time to charge."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def settle(self, principal: Principal, hold_id: str, usage: Usage | None) -> NanoUsd:
        """See `FakeHolds.settle`."""
        self.asked.set()
        await self.go.wait()
        return await super().settle(principal, hold_id, usage)


async def test_what_is_being_charged_when_the_service_stops_is_charged() -> None:
    clock, cost = FakeClock(), SlowHolds()
    holds = DoorHolds(cost, clock=clock)
    settling = asyncio.create_task(holds())
    async with AsyncExitStack() as within:
        await answered(holds, within, "one")
        await clock.until_someone_sleeps()
        clock.advance(seconds=0.05)
        await cost.asked.wait()
        settling.cancel()
        await asyncio.sleep(0)
        cost.go.set()
        with suppress(asyncio.CancelledError):
            await settling
        assert cost.states == ["settled"]


async def test_a_service_that_stops_waits_for_no_cost_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_call, "_LAST_SECONDS", 0.05)
    clock, cost = FakeClock(), SlowHolds()
    holds = DoorHolds(cost, clock=clock)
    settling = asyncio.create_task(holds())
    async with AsyncExitStack() as within:
        await answered(holds, within, "one")
        await clock.until_someone_sleeps()
        clock.advance(seconds=0.05)
        await cost.asked.wait()
        settling.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(settling, 5)
        assert cost.states == ["dispatched"]


@pytest.mark.parametrize(("faults", "state"), [(3, "settled"), (20, "dispatched")])
async def test_a_service_that_stops_while_cost_is_away_tries_again_for_some_seconds(faults: int, state: str) -> None:
    clock, cost = FakeClock(), FakeHolds()
    holds = DoorHolds(cost, clock=clock)
    settling = asyncio.create_task(holds())
    for _ in range(faults):
        cost.settling.next(Unavailable("cost"))
    async with AsyncExitStack() as within:
        await answered(holds, within, "one")
        await clock.until_someone_sleeps()
        settling.cancel()
        await asyncio.sleep(0)
        while not settling.done():
            clock.advance(seconds=1)
            await until(lambda: clock.sleepers > 0 or settling.done())
        assert cost.states == [state]
    assert clock.monotonic() < 10


async def test_a_fault_of_ours_in_one_settlement_leaves_its_hold_to_expire_and_stops_no_other() -> None:
    clock, cost = FakeClock(), FakeHolds()
    holds = DoorHolds(cost, clock=clock)
    settling = asyncio.create_task(holds())
    cost.settling.next(ValueError("a fault of ours"))
    async with AsyncExitStack() as within:
        await answered(holds, within, "one")
        await answered(holds, within, "two")
        await clock.until_someone_sleeps()
        clock.advance(seconds=0.05)
        await until(lambda: cost.states == ["dispatched", "settled"])
        assert not settling.done()
    settling.cancel()
    with suppress(asyncio.CancelledError):
        await settling
