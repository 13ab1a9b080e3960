"""Background work lives through outages and begins after what must come before it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.gateway.usecases.audit_rounds import Rounds
from services.meshkit.core.errors import Internal, Unavailable
from services.meshkit.testing.fake_clock import FakeClock


class Work:
    def __init__(self, *outcomes: bool | Exception) -> None:
        self.outcomes = list(outcomes)
        self.done = 0

    async def __call__(self) -> bool:
        self.done += 1
        outcome = self.outcomes.pop(0) if self.outcomes else False
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def running(rounds: Rounds) -> AsyncIterator[None]:
    task = asyncio.create_task(rounds())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_rounds_follow_at_once_while_there_is_more_and_else_after_a_pause() -> None:
    clock, work = FakeClock(), Work(True, True, False)
    async with running(Rounds("work", work, seconds=60, clock=clock)):
        await clock.until_someone_sleeps()
        assert work.done == 3
        clock.advance(seconds=60)
        await clock.until_someone_sleeps()
        assert work.done == 4


async def test_failures_are_waited_out() -> None:
    clock, work = FakeClock(), Work(Unavailable("postgres"), Internal("a bug"), False)
    async with running(Rounds("work", work, seconds=1, clock=clock)):
        for done in (1, 2, 3):
            await clock.until_someone_sleeps()
            assert work.done == done
            clock.advance(seconds=1)


async def test_nothing_begins_before_what_must_come_first() -> None:
    clock, work, tries = FakeClock(), Work(), list[int]()

    async def before() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise Unavailable("the store of audit heads")

    async with running(Rounds("work", work, seconds=60, clock=clock, before=before)):
        for _ in range(2):
            await clock.until_someone_sleeps()
            assert work.done == 0
            clock.advance(seconds=2)
        await clock.until_someone_sleeps()
        assert (len(tries), work.done) == (3, 1)
