"""What goes wrong with one batch holds up no other, and nothing but the end of the service ends the work."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from services.inference.usecases.batch_ports import LeasedBatch
from services.inference.usecases.poll_batches import PollBatches
from services.meshkit.core.errors import Unavailable
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.fault_queue import FaultQueue
from tests.unit.inference.test_batch_job import A_BATCH

EVERY = timedelta(seconds=30)


class Due:
    """A store of batches that are due once."""

    def __init__(self, *, batches: int) -> None:
        self.waiting = [
            LeasedBatch(job=replace(A_BATCH, id=UUID(int=number)), epoch=1) for number in range(1, batches + 1)
        ]
        self.handed_back: dict[int, timedelta] = {}
        self.faults = FaultQueue()

    async def take(self, *, most: int, of_one_tenant: int, lease: timedelta) -> Sequence[LeasedBatch]:
        self.faults.hit()
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken

    async def renew(self, leased: LeasedBatch, *, lease: timedelta) -> None: ...

    async def hand_back(self, leased: LeasedBatch, *, look_in: timedelta) -> None:
        self.handed_back[leased.job.id.int] = look_in


Carry = Callable[[LeasedBatch], Awaitable[tuple[LeasedBatch, timedelta | None]]]


async def goes_on(leased: LeasedBatch) -> tuple[LeasedBatch, timedelta | None]:
    return leased, None


@asynccontextmanager
async def polling(store: Any, carry: Any, clock: FakeClock) -> AsyncIterator[asyncio.Task[None]]:
    poll = PollBatches(store=store, carry=carry, every=EVERY, retention=timedelta(hours=1), clock=clock, dice=Random(7))
    task = asyncio.create_task(poll())
    yield task
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def setbacks(kind: str) -> float:
    return REGISTRY.get_sample_value("comitia_model_batch_setbacks_total", {"kind": kind}) or 0.0


async def until(condition: Callable[[], bool], clock: FakeClock) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
            clock.advance(seconds=0.1)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError("a row of another release")])
async def test_a_step_that_something_else_breaks_off_is_only_a_setback(error: BaseException) -> None:
    async def breaks(leased: LeasedBatch) -> tuple[LeasedBatch, timedelta | None]:
        if leased.job.id.int == 1:
            raise error
        return await goes_on(leased)

    store, clock, before = Due(batches=2), FakeClock(), setbacks("internal")
    async with polling(store, breaks, clock):
        await until(lambda: len(store.handed_back) == 2, clock)
    assert store.handed_back[1] > EVERY >= store.handed_back[2]
    assert setbacks("internal") == before + 1


async def test_a_step_that_an_outage_stands_in_the_way_of_is_counted_by_its_kind() -> None:
    async def away(leased: LeasedBatch) -> tuple[LeasedBatch, timedelta | None]:
        raise Unavailable("postgres")

    store, clock, before = Due(batches=1), FakeClock(), setbacks("unavailable")
    async with polling(store, away, clock):
        await until(lambda: bool(store.handed_back), clock)
    assert setbacks("unavailable") == before + 1


async def test_what_cannot_be_leased_is_leased_later_whatever_the_reason() -> None:
    store, clock = Due(batches=1), FakeClock()
    store.faults.next(ValueError("a row of another release"))
    store.faults.next(RuntimeError("a fault that nobody has mapped"))
    async with polling(store, goes_on, clock):
        await until(lambda: bool(store.handed_back), clock)


async def test_steps_that_take_long_hold_up_no_others() -> None:
    going = asyncio.Event()

    async def waits(leased: LeasedBatch) -> tuple[LeasedBatch, timedelta | None]:
        if leased.job.id.int <= 2:
            await going.wait()
        return await goes_on(leased)

    store, clock = Due(batches=9), FakeClock()
    async with polling(store, waits, clock):
        await until(lambda: len(store.handed_back) == 7, clock)
        going.set()
        await until(lambda: len(store.handed_back) == 9, clock)


async def test_no_more_batches_are_leased_than_are_carried_on_at_once() -> None:
    async def waits(leased: LeasedBatch) -> tuple[LeasedBatch, timedelta | None]:
        return await asyncio.Event().wait(), None  # type: ignore[return-value]

    store, clock = Due(batches=9), FakeClock()
    async with polling(store, waits, clock):
        await until(lambda: len(store.waiting) == 5, clock)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(store.waiting) == 5
