"""A call that is being made is joined by its repeats, and ends in order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from math import inf

import pytest

from services.meshkit.calls.in_flight import CallsInFlight, Flight
from services.meshkit.content import CallId, CallKey
from services.meshkit.core.errors import Conflict, Exhausted
from services.meshkit.testing.mesh_keys import TENANT

SAME = b"same arguments"


class Differs(Conflict):
    reason = "DIFFERS_IN_TEST"

    def __init__(self, call_id: CallId) -> None:
        super().__init__(f"{call_id} was made with other arguments")


class Busy(Exhausted):
    reason = "BUSY_IN_TEST"

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} are running")


def calls(*, most: int = 4, stop_unfollowed: bool = True) -> CallsInFlight[str, str]:
    return CallsInFlight("test_calls", most=most, stop_unfollowed=stop_unfollowed, differs=Differs, busy=Busy)


def key(path: str = "a") -> CallKey:
    return CallKey(tenant=TENANT, call_id=CallId(run_id="run_1", path=path))


class Work:
    """A call that shows two pieces and answers when it is let."""

    def __init__(self) -> None:
        self.made = 0
        self.ended: list[str] = []
        self.let, self.let_end = asyncio.Event(), asyncio.Event()
        self.let_end.set()

    async def __call__(self, release: Callable[[str], None]) -> str:
        self.made += 1
        release("one")
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            await self.let_end.wait()
            self.ended.append("cancelled")
            raise
        release("two")
        self.ended.append("answered")
        return "one two"


async def shown(flight: Flight[str, str]) -> AsyncIterator[str]:
    async for piece in flight.follow():
        yield piece


async def test_a_repeat_joins_and_gets_what_was_shown_before() -> None:
    flying, work = calls(), Work()
    async with flying.join(key(), SAME, work) as first, flying.join(key(), SAME, work) as second:
        assert first is second
        pieces = first.follow()
        assert await anext(pieces) == "one"
        work.let.set()
        assert [piece async for piece in pieces] == ["two"]
        assert [piece async for piece in shown(second)] == ["one", "two"]
        assert await second.answer() == "one two"
    assert work.made == 1


async def test_other_arguments_are_refused_and_so_is_one_call_too_many() -> None:
    flying, work = calls(most=1), Work()
    async with flying.join(key(), SAME, work):
        with pytest.raises(Differs):
            async with flying.join(key(), b"others", work):
                pass
        with pytest.raises(Busy):
            async with flying.join(key("b"), SAME, work):
                pass


async def test_a_call_that_has_ended_is_made_anew() -> None:
    flying, work = calls(), Work()
    work.let.set()
    for _ in range(2):
        async with flying.join(key(), SAME, work) as flight:
            assert await flight.answer() == "one two"
    assert work.made == 2


async def test_the_last_follower_who_leaves_early_stops_the_call() -> None:
    flying, work = calls(), Work()
    async with flying.join(key(), SAME, work):
        async with flying.join(key(), SAME, work):
            await asyncio.sleep(0)
        assert work.ended == []
    assert work.ended == ["cancelled"]


async def test_who_asks_while_an_unwanted_call_ends_makes_it_anew() -> None:
    flying, work = calls(), Work()
    work.let_end.clear()

    async def leave_early() -> None:
        async with flying.join(key(), SAME, work):
            await asyncio.sleep(0)

    async def ask() -> str:
        async with flying.join(key(), SAME, work) as flight:
            work.let.set()
            return await flight.answer()

    leaving = asyncio.ensure_future(leave_early())
    for _ in range(3):
        await asyncio.sleep(0)
    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    work.let_end.set()
    assert await asking == "one two"
    await leaving
    assert work.ended == ["cancelled", "answered"]


async def test_a_call_that_runs_to_its_end_does_so_without_followers() -> None:
    flying, work = calls(stop_unfollowed=False), Work()
    async with flying.join(key(), SAME, work):
        await asyncio.sleep(0)
    async with flying.join(key(), SAME, work) as flight:
        work.let.set()
        assert await flight.answer() == "one two"
    assert (work.made, work.ended) == (1, ["answered"])


async def test_who_leaves_last_may_have_the_call_go_on_alone_and_come_back_for_it() -> None:
    flying, work = calls(), Work()
    alone: list[int] = []

    def when_left(others: int) -> float:
        alone.append(others)
        return inf

    for path in ("a", "b"):
        async with flying.join(key(path), SAME, work, when_left=when_left):
            await asyncio.sleep(0)
    assert (alone, work.ended) == ([0, 1], [])
    async with flying.join(key("a"), SAME, work) as flight:
        work.let.set()
        assert await flight.answer() == "one two"
    assert work.made == 2


async def test_a_call_that_goes_on_alone_has_its_time_and_is_then_cancelled() -> None:
    flying, work = calls(), Work()
    async with flying.join(key(), SAME, work, when_left=lambda _: 0.01) as flight:
        await asyncio.sleep(0)
    assert not flight.task.done()
    await asyncio.wait((flight.task,), timeout=5)
    assert work.ended == ["cancelled"]


async def test_who_comes_back_in_time_keeps_the_call_from_its_end() -> None:
    flying, work = calls(), Work()
    async with flying.join(key(), SAME, work, when_left=lambda _: 0.01) as flight:
        await asyncio.sleep(0)
    async with flying.join(key(), SAME, work):
        await asyncio.sleep(0.02)
        assert not flight.task.done()
        work.let.set()
        assert await flight.answer() == "one two"


async def test_leaving_the_block_ends_what_still_runs() -> None:
    work = Work()
    async with calls(stop_unfollowed=False) as flying, flying.join(key(), SAME, work):
        await asyncio.sleep(0)
    assert work.ended == ["cancelled"]


async def test_a_failure_that_nobody_waits_for_is_not_called_unhandled() -> None:
    async def failing(release: Callable[[str], None]) -> str:
        raise Busy(1)

    async with calls(stop_unfollowed=False).join(key(), SAME, failing) as flight:
        pass
    await asyncio.wait((flight.task,))
