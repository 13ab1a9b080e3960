"""Calls wait for a seat in fair turns, and no longer than they may."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from services.inference.domain.answer import Answer
from services.inference.domain.call_policy import CallPolicy, WorkClass
from services.inference.domain.errors import ModelBusy
from services.inference.usecases.admit import FairScheduler
from services.meshkit.core.identity import Principal, TenantId
from tests.support.inference import ANNA, a_context, an_asked, says
from tests.unit.inference.conftest import Room, make_room, until

BATCH = CallPolicy(work_class=WorkClass.BATCH)


class Crowd:
    """Callers of a room with one seat whose model answers when it is told to."""

    def __init__(self, *, waiting: int = 8) -> None:
        self.room: Room = make_room(seats=1, most=64, waiting=waiting)
        self.calls: dict[str, asyncio.Future[Answer]] = {}
        self._may_answer = asyncio.Semaphore(0)
        self.room.openai.before_piece = self._wait
        self.room.openai.scripts = [says("Yes.") for _ in range(64)]

    async def ask(self, path: str, *, tenant: int = 1, **changes: Any) -> asyncio.Future[Answer]:
        principal = ANNA if tenant == 1 else _principal(tenant)
        asked = an_asked(principal=principal, context=a_context(path), **changes)
        call = self.calls[path] = asyncio.ensure_future(self.room.ask(asked))
        for _ in range(5):
            await asyncio.sleep(0)  # It comes to its seat, to the queue, or back refused.
        return call

    async def answer(self) -> list[str]:
        """Has the model answer once; gives who has been answered."""
        asked = len(self.room.openai.asked)
        await until(lambda: self.room.openai.asked)
        done = self.done()
        self.release()
        await until(lambda: self.done() != done)
        if self.room.queue.seated:
            await until(lambda: len(self.room.openai.asked) > asked)
        return self.done()

    def release(self) -> None:
        # An answer has two pieces: its text, and its end.
        self._may_answer.release()
        self._may_answer.release()

    def done(self) -> list[str]:
        return [path for path, call in self.calls.items() if call.done()]

    async def _wait(self) -> None:
        await self._may_answer.acquire()


def _principal(tenant: int) -> Principal:
    return replace(ANNA, tenant=TenantId(UUID(int=tenant)))


async def test_a_call_waits_for_a_seat_and_then_is_made() -> None:
    crowd = Crowd()
    await crowd.ask("first")
    await crowd.ask("second")
    assert len(crowd.room.openai.asked) == 1
    await crowd.answer()
    await crowd.answer()
    assert crowd.done() == ["first", "second"]
    assert (crowd.room.queue.seated, crowd.room.queue.waiting) == (0, 0)


async def test_a_quiet_tenant_is_served_before_the_rest_of_a_flood() -> None:
    crowd = Crowd(waiting=64)
    for n in range(10):
        await crowd.ask(f"flood {n}")
    await crowd.ask("quiet", tenant=2)
    await crowd.answer()
    assert await crowd.answer() == ["flood 0", "quiet"]


async def test_interactive_work_goes_before_batch_work() -> None:
    crowd = Crowd()
    await crowd.ask("now")
    await crowd.ask("some day", tenant=2, policy=BATCH)
    await crowd.ask("soon")
    await crowd.answer()
    assert await crowd.answer() == ["now", "soon"]
    await crowd.answer()
    assert crowd.done() == ["now", "some day", "soon"]


async def test_who_waits_too_long_is_told_when_to_come_back() -> None:
    crowd = Crowd()
    await crowd.ask("first")
    late = await crowd.ask("late")
    await crowd.room.clock.until_someone_sleeps()
    crowd.room.clock.advance(seconds=2.0)
    with pytest.raises(ModelBusy) as refused:
        await late
    assert refused.value.retry_after is not None
    assert timedelta() < refused.value.retry_after <= timedelta(seconds=30)
    assert crowd.room.queue.waiting == 0
    await crowd.answer()


async def test_a_call_waits_no_longer_than_a_quarter_of_its_time() -> None:
    crowd = Crowd()
    await crowd.ask("first")
    late = await crowd.ask("late", deadline=4.0)
    await crowd.room.clock.until_someone_sleeps()
    crowd.room.clock.advance(seconds=1.0)
    with pytest.raises(ModelBusy):
        await late
    await crowd.answer()


async def test_batch_work_may_wait_longer() -> None:
    crowd = Crowd()
    await crowd.ask("first")
    patient = await crowd.ask("patient", policy=BATCH)
    await crowd.room.clock.until_someone_sleeps()
    crowd.room.clock.advance(seconds=10.0)
    await asyncio.sleep(0)
    assert not patient.done()
    await crowd.answer()
    await crowd.answer()
    assert patient.done()


async def test_one_more_than_may_wait_is_refused_at_once() -> None:
    crowd = Crowd(waiting=1)
    await crowd.ask("first")
    await crowd.ask("second")
    with pytest.raises(ModelBusy):
        await (await crowd.ask("third"))
    await crowd.answer()
    await crowd.answer()


async def test_in_a_full_queue_a_flood_makes_room_for_a_quiet_tenant() -> None:
    crowd = Crowd(waiting=3)
    for n in range(4):
        await crowd.ask(f"flood {n}")
    quiet = await crowd.ask("quiet", tenant=2)
    with pytest.raises(ModelBusy):
        await crowd.calls["flood 3"]
    await crowd.answer()
    await crowd.answer()
    assert quiet.done()
    await crowd.answer()
    await crowd.answer()


async def test_who_leaves_while_waiting_leaves_no_place_behind() -> None:
    crowd = Crowd()
    await crowd.ask("first")
    gone = await crowd.ask("gone")
    gone.cancel()
    await until(lambda: crowd.room.queue.waiting == 0)
    await crowd.answer()
    assert crowd.room.queue.seated == 0
    assert len(crowd.room.openai.asked) == 1


async def test_who_leaves_as_it_is_called_passes_the_seat_on() -> None:
    crowd = Crowd()
    await crowd.ask("first")
    gone = await crowd.ask("gone")
    await crowd.ask("next")
    crowd.room.openai.before_piece = None
    crowd.release()
    await until(lambda: crowd.calls["first"].done())
    gone.cancel()
    await until(lambda: crowd.calls["next"].done())
    assert crowd.room.queue.seated == 0


async def test_a_repeat_of_a_call_in_flight_takes_no_seat() -> None:
    crowd = Crowd()
    first = await crowd.ask("same")
    again = asyncio.ensure_future(crowd.room.ask(an_asked(context=a_context("same"))))
    await asyncio.sleep(0)
    assert (crowd.room.queue.seated, crowd.room.queue.waiting) == (1, 0)
    await crowd.answer()
    assert await again == await first


async def test_who_would_be_turned_away_is_so_before_anything_is_read() -> None:
    crowd = Crowd(waiting=1)
    scheduler = FairScheduler(crowd.room.queue, wait_seconds=2.0, clock=crowd.room.clock)
    await crowd.ask("seated")
    scheduler.check(ANNA.tenant)
    await crowd.ask("waits")
    with pytest.raises(ModelBusy) as busy:
        scheduler.check(ANNA.tenant)
    assert busy.value.retry_after is not None
    scheduler.check(_principal(2).tenant)
