"""Claims of calls: what other replicas know of those that this one makes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from services.inference.domain.call import Claimed
from services.inference.domain.errors import CallInProgress, ProviderRefused
from services.inference.usecases.claims import Claims
from services.meshkit.core.errors import Unavailable
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.inference import MemoryCallStore, an_asked, failing, says
from tests.unit.inference.conftest import Room, make_room, until

ASKED = an_asked()


@asynccontextmanager
async def extending(claims: Claims) -> AsyncGenerator[None]:
    """Extends claims while the block runs, as the server does."""
    async with claims:
        work = asyncio.create_task(claims())
        try:
            yield
        finally:
            work.cancel()
            await asyncio.wait((work,))


async def pass_time(clock: FakeClock, *, seconds: float) -> None:
    for _ in range(int(seconds)):
        await clock.until_someone_sleeps()
        clock.advance(seconds=1)
        await asyncio.sleep(0)


async def test_a_call_that_takes_long_stays_with_the_replica_that_makes_it() -> None:
    clock = FakeClock()
    calls = MemoryCallStore(clock)
    claims = Claims(calls, every_seconds=3.0, clock=clock)
    async with extending(claims), claims.claim(ASKED):
        await pass_time(clock, seconds=60)
        with pytest.raises(CallInProgress):
            await calls.beside("replica_2").claim(ASKED.key, ASKED.arguments_hash)


async def test_a_claim_that_cannot_be_extended_runs_out() -> None:
    clock = FakeClock()
    calls = MemoryCallStore(clock)
    calls.extending.next(Unavailable("postgres"), times=100)
    claims = Claims(calls, every_seconds=3.0, clock=clock)
    async with extending(claims), claims.claim(ASKED):
        await pass_time(clock, seconds=11)
        assert calls.extending.raised > 1
        other = calls.beside("replica_2")
        assert await other.claim(ASKED.key, ASKED.arguments_hash) == Claimed(lost_attempts=1)


async def test_what_goes_wrong_with_claims_ends_no_replica() -> None:
    clock = FakeClock()
    calls = MemoryCallStore(clock)
    calls.extending.next(ValueError("a fault of ours"), times=2)
    claims = Claims(calls, every_seconds=3.0, clock=clock)
    async with extending(claims), claims.claim(ASKED):
        await pass_time(clock, seconds=60)
        assert calls.extending.raised == 2
        with pytest.raises(CallInProgress):
            await calls.beside("replica_2").claim(ASKED.key, ASKED.arguments_hash)


async def test_a_call_that_is_cut_short_is_free_for_other_replicas_soon(room: Room) -> None:
    room.openai.scripts = [says("Yes.")]
    stuck = asyncio.Event()
    room.openai.before_piece = stuck.wait
    async with extending(room.claims):
        ask = asyncio.create_task(room.ask(ASKED))
        await until(lambda: room.openai.asked)
        ask.cancel()
        await asyncio.wait((ask,))
        other = room.calls.beside("replica_2")
        with pytest.raises(CallInProgress):
            await other.claim(ASKED.key, ASKED.arguments_hash)
        await pass_time(room.clock, seconds=3)
        assert await other.claim(ASKED.key, ASKED.arguments_hash) == Claimed(lost_attempts=1)


async def test_a_replica_that_stops_leaves_nobody_waiting(room: Room) -> None:
    room.openai.before_piece = asyncio.Event().wait
    async with extending(room.claims):
        ask = asyncio.create_task(room.ask(ASKED))
        await until(lambda: room.openai.asked)
        ask.cancel()
        await asyncio.wait((ask,))
    other = room.calls.beside("replica_2")
    assert await other.claim(ASKED.key, ASKED.arguments_hash) == Claimed(lost_attempts=1)


async def test_a_call_that_fails_is_free_at_once_and_was_not_lost(room: Room) -> None:
    for provider in room.providers.values():
        provider.scripts = [failing(ProviderRefused)]
    with pytest.raises(ProviderRefused):
        await room.ask(ASKED)
    assert await room.calls.beside("replica_2").claim(ASKED.key, ASKED.arguments_hash) == Claimed()


async def test_a_repeat_at_another_replica_gets_the_answer_once_it_is_there(room: Room) -> None:
    other = make_room(calls=room.calls.beside("replica_2"))
    answering = asyncio.Event()
    room.openai.before_piece = answering.wait
    ask = asyncio.create_task(room.ask(ASKED))
    await until(lambda: room.openai.asked)
    with pytest.raises(CallInProgress):
        await other.ask(ASKED)
    answering.set()
    answer = await ask
    repeated = await other.ask(ASKED)
    assert (repeated.replayed, repeated.parts) == (True, answer.parts)
    assert not other.openai.asked
    assert not other.holds.holds
