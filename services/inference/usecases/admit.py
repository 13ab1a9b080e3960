"""Gives each call its seat, in fair turns among tenants. A `Scheduler`."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from services.inference.domain.answer import Answer
from services.inference.domain.call_policy import WorkClass
from services.inference.domain.errors import ModelBusy
from services.inference.domain.fairness.fair_queue import FairQueue, Standing, Ticket, weight_of
from services.inference.domain.fairness.likely_usage import likely_usage
from services.inference.usecases.asked import Asked
from services.inference.usecases.calls_in_flight import Release
from services.inference.usecases.ports import MakesCalls, Scheduler
from services.meshkit.content import Usage
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics

#: A call waits this share of its time for a seat at most.
_SHARE_OF_TIME: Final = 0.25
#: Seats whose times say how fast they come free.
_SEATS_SEEN: Final = 64
_LEAST_RETRY_SECONDS: Final = 0.1
_MOST_RETRY_SECONDS: Final = 30.0
_QUEUE: Final = "inference_seats"


class _Taken:
    """Implements `Seat`."""

    def __init__(self, weight: int) -> None:
        self.weight = weight

    def used(self, usage: Usage) -> None:
        """See `Seat.used`."""
        self.weight = weight_of(usage)


class FairScheduler:
    """Lets calls in as fast as seats come free.

    Args:
        wait_seconds: longest wait of interactive work; batch work, for which nobody waits, has a quarter of its time.
    """

    def __init__(self, queue: FairQueue, *, wait_seconds: float, clock: Clock) -> None:
        self._queue = queue
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._called: dict[Ticket, asyncio.Event] = {}
        self._given = deque[float](maxlen=_SEATS_SEEN)
        self._refused = metrics.QUEUE_REFUSED.labels(_QUEUE)
        self._waited = {one: metrics.MODEL_SEAT_WAIT.labels(one.value) for one in WorkClass}
        metrics.QUEUE_ITEMS.labels(_QUEUE).set_function(lambda: queue.waiting)

    def check(self, tenant: TenantId) -> None:
        """Refuses at once what would be refused for want of a seat. Raises: ModelBusy."""
        if self._queue.is_full(tenant, WorkClass.INTERACTIVE):
            self._refused.inc()
            raise ModelBusy(self._queue.seats, retry_after=self._retry_after())

    @asynccontextmanager
    async def seat(self, asked: Asked, *, weight: int) -> AsyncGenerator[_Taken]:
        """See `Scheduler.seat`."""
        ticket, turned_away = self._queue.enter(asked.principal.tenant, asked.policy.work_class, weight)
        self._call(turned_away)
        if ticket.standing is Standing.WAITING:
            await self._wait(ticket, asked)
        if ticket.standing is not Standing.SEATED:
            self._refused.inc()
            raise ModelBusy(self._queue.seats, retry_after=self._retry_after())
        self._given.append(self._clock.monotonic())
        taken = _Taken(weight)
        try:
            yield taken
        finally:
            self._call(self._queue.leave(ticket, taken.weight))

    async def _wait(self, ticket: Ticket, asked: Asked) -> None:
        """Waits until the ticket is called, or for as long as it may; then it is given up."""
        since = self._clock.monotonic()
        most = (asked.deadline - since) * _SHARE_OF_TIME
        if ticket.work_class is WorkClass.INTERACTIVE:
            most = min(most, self._wait_seconds)
        called = self._called[ticket] = asyncio.Event()
        waits = (asyncio.create_task(called.wait()), asyncio.create_task(self._clock.sleep(most)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if ticket.standing is Standing.SEATED:
                self._call(self._queue.leave(ticket, 0))
            raise
        finally:
            del self._called[ticket]
            for one in waits:
                one.cancel()
            if ticket.standing is Standing.WAITING:
                self._call(self._queue.give_up(ticket))
            self._waited[ticket.work_class].observe(self._clock.monotonic() - since)

    def _call(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._called[ticket].set()

    def _retry_after(self) -> timedelta:
        """Gives how long all who wait need to get a seat, as fast as seats were given lately."""
        seconds = 1.0
        if len(self._given) > 1:
            each = (self._clock.monotonic() - self._given[0]) / len(self._given)
            seconds = each * (self._queue.waiting + 1)
        return timedelta(seconds=min(max(seconds, _LEAST_RETRY_SECONDS), _MOST_RETRY_SECONDS))


class SeatedCalls:
    """Makes calls once they have a seat, and says what they used of it. A `MakesCalls`."""

    def __init__(self, calls: MakesCalls, *, scheduler: Scheduler) -> None:
        self._calls = calls
        self._scheduler = scheduler

    async def __call__(self, asked: Asked, release: Release, *, streamed: bool) -> Answer:
        """See `MakesCalls`. Raises: ModelBusy, and what making the call raises."""
        async with self._scheduler.seat(asked, weight=weight_of(likely_usage(asked.prompt))) as seat:
            answer = await self._calls(asked, release, streamed=streamed)
            if answer.replayed or answer.cached:
                seat.used(Usage())
            elif answer.usage_known:
                seat.used(answer.usage)
            return answer
