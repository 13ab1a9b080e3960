"""Money of calls at the doors: charged after the answer, many together."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest

from services.inference.domain.deployment import Task
from services.inference.usecases import door_call
from services.inference.usecases.door_call import DoorHolds
from services.meshkit.content import Usage
from services.meshkit.core.errors import Cancelled, Unavailable
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


@dataclass(slots=True)
class Door:
    """The holds of a door, and what settles them meanwhile."""

    clock: FakeClock
    holds: DoorHolds
    settling: asyncio.Task[None]
    #: Ends the calls.
    within: AsyncExitStack

    async def answer(self, path: str) -> None:
        """Makes a call up to its answer."""
        await answered(self.holds, self.within, path)

    async def gathered(self) -> None:
        """Lets the moment pass in which settlements gather."""
        await self.clock.until_someone_sleeps()
        self.clock.advance(seconds=0.05)

    async def stop(self, *, seconds: int = 0) -> None:
        """Stops the service; time goes on by seconds until it has."""
        self.settling.cancel()
        await asyncio.sleep(0)
        while seconds and not self.settling.done():
            self.clock.advance(seconds=seconds)
            await until(lambda: self.clock.sleepers > 0 or self.settling.done())
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(self.settling, 5)


@asynccontextmanager
async def a_door(cost: FakeHolds) -> AsyncGenerator[Door]:
    clock = FakeClock()
    holds = DoorHolds(cost, clock=clock)
    async with AsyncExitStack() as within:
        door = Door(clock, holds, asyncio.create_task(holds()), within)
        await asyncio.sleep(0)
        yield door
        await door.stop()


async def test_answers_that_leave_within_a_moment_are_charged_together() -> None:
    async with a_door(cost := FakeHolds()) as door:
        await door.answer("one")
        await door.clock.until_someone_sleeps()
        await door.answer("two")
        assert cost.states == ["dispatched", "dispatched"]
        door.clock.advance(seconds=0.05)
        await until(lambda: cost.states == ["settled", "settled"])


async def test_what_gathers_when_the_service_stops_is_charged_before_it_ends() -> None:
    async with a_door(cost := FakeHolds()) as door:
        await door.answer("one")
        await door.clock.until_someone_sleeps()
        await door.stop()
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
    async with a_door(cost := SlowHolds()) as door:
        await door.answer("one")
        await door.gathered()
        await cost.asked.wait()
        door.settling.cancel()
        await asyncio.sleep(0)
        cost.go.set()
        await door.stop()
        assert cost.states == ["settled"]


async def test_a_service_that_stops_waits_for_no_cost_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_call, "_LAST_SECONDS", 0.05)
    async with a_door(cost := SlowHolds()) as door:
        await door.answer("one")
        await door.gathered()
        await cost.asked.wait()
        await door.stop()
        assert cost.states == ["dispatched"]


@pytest.mark.parametrize(("faults", "state"), [(3, "settled"), (20, "dispatched")])
async def test_a_service_that_stops_while_cost_is_away_tries_again_for_some_seconds(faults: int, state: str) -> None:
    async with a_door(cost := FakeHolds()) as door:
        for _ in range(faults):
            cost.settling.next(Unavailable("cost"))
        await door.answer("one")
        await door.clock.until_someone_sleeps()
        await door.stop(seconds=1)
        assert cost.states == [state]
        assert door.clock.monotonic() < 10


async def test_a_fault_of_ours_in_one_settlement_leaves_its_hold_to_expire_and_stops_no_other() -> None:
    async with a_door(cost := FakeHolds()) as door:
        cost.settling.next(ValueError("a fault of ours"))
        await door.answer("one")
        await door.answer("two")
        await door.gathered()
        await until(lambda: cost.states == ["dispatched", "settled"])
        assert not door.settling.done()


async def unused(door: Door, cost: FakeHolds) -> None:
    """Makes a call whose prompt is refused once its money is held."""
    asked = an_asked(context=a_context("refused"), repeatable=False)
    async with door.holds.ahead(asked, OPENAI):
        await until(lambda: cost.states[-1:] == ["dispatched"])


async def test_a_hold_that_pays_for_nothing_is_freed_at_once() -> None:
    async with a_door(cost := FakeHolds()) as door:
        await unused(door, cost)
        await until(lambda: cost.states == ["released"])


def away_for_a_moment() -> FakeHolds:
    cost = FakeHolds()
    for fault in (Unavailable("cost"), Cancelled("the connection broke")):
        cost.releasing.next(fault)
    return cost


async def test_a_hold_that_pays_for_nothing_is_freed_though_cost_is_away_for_a_moment() -> None:
    async with a_door(cost := away_for_a_moment()) as door:
        await unused(door, cost)
        await door.gathered()
        await door.clock.until_someone_sleeps()
        door.clock.advance(seconds=1)
        await until(lambda: cost.states == ["released"])


async def test_a_service_that_stops_frees_what_pays_for_nothing_though_cost_is_away_for_a_moment() -> None:
    async with a_door(cost := away_for_a_moment()) as door:
        await unused(door, cost)
        await door.clock.until_someone_sleeps()
        await door.stop(seconds=1)
        assert cost.states == ["released"]


async def test_what_is_owed_after_the_last_look_is_paid_at_once() -> None:
    async with a_door(cost := FakeHolds()) as door:
        await door.stop()
        await door.answer("late")
        assert cost.states == ["settled"]
        await unused(door, cost)
        await until(lambda: cost.states == ["settled", "released"])


class SlowReleases(FakeHolds):
    """Takes its time to free."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def release(self, principal: Principal, hold_id: str, *, dispatched_unbilled: bool) -> None:
        """See `FakeHolds.release`."""
        self.asked.set()
        await self.go.wait()
        await super().release(principal, hold_id, dispatched_unbilled=dispatched_unbilled)


async def test_a_service_that_stops_has_a_slow_release_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_call, "_FREEING_SECONDS", 0.01)
    async with a_door(cost := SlowReleases()) as door:
        await unused(door, cost)
        await cost.asked.wait()
        cost.asked.clear()
        door.settling.cancel()
        await door.clock.until_someone_sleeps()
        door.clock.advance(seconds=0.05)
        await until(lambda: not door.holds._freeing)
        door.clock.advance(seconds=0.05)
        await cost.asked.wait()
        cost.go.set()
        await until(lambda: cost.states == ["released"])


async def test_what_is_being_freed_takes_the_place_of_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_call, "_MOST_WAITING", 1)
    async with a_door(cost := SlowReleases()) as door:
        await unused(door, cost)
        await cost.asked.wait()
        await door.answer("comes while another is owed")
        assert cost.states == ["dispatched", "settled"], "it was charged before its answer left"
        cost.go.set()
        await until(lambda: cost.states == ["released", "settled"])
