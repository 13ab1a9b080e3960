"""Calls that are being made: a repeat of one attaches to it instead of asking the model again."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Final, Protocol

from services.inference.domain.answer import Answer, StreamEvent
from services.inference.domain.call import CallKey
from services.inference.domain.errors import CallArgumentsDiffer, ModelBusy
from services.meshkit.telemetry import metrics

_QUEUE: Final = "inference_calls"


class Release(Protocol):
    """Shows an event to whoever follows the call."""

    def __call__(self, event: StreamEvent) -> None: ...


class Flight:
    """One call in progress and those who wait for it."""

    def __init__(self, arguments_hash: bytes, *, streamed: bool) -> None:
        self.arguments_hash = arguments_hash
        #: True when text is released while it comes; else followers see the whole answer only.
        self.streamed = streamed
        self.followers = 0
        self._events: list[StreamEvent] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[Answer] | None = None

    @property
    def ended(self) -> bool:
        """True once the call has its outcome."""
        return self._task is not None and self._task.done()

    def start(self, work: Coroutine[object, object, Answer]) -> asyncio.Task[Answer]:
        """Begins the call in a task of its own, so that it ends in order whatever happens to its askers."""
        task = asyncio.create_task(work, name="model-call")
        task.add_done_callback(lambda _: self._news.set())
        self._task = task
        return task

    def release(self, event: StreamEvent) -> None:
        """See `Release`."""
        self._events.append(event)
        self._news.set()

    async def follow(self) -> AsyncGenerator[StreamEvent]:
        """Gives what was released so far and what comes, and the answer at the end.

        Raises: what the call raised.
        """
        seen = 0
        while True:
            while seen < len(self._events):
                seen += 1
                yield self._events[seen - 1]
            if self._task is None or self._task.done():
                break
            self._news.clear()
            await self._news.wait()
        yield await self.answer()

    async def answer(self) -> Answer:
        """Waits for the answer. A waiter that is cancelled leaves the call alone."""
        if self._task is None:
            raise RuntimeError("the call was not started")
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Cancels the call and waits until it has ended in order."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))


class CallsInFlight:
    """All calls that this replica is making, at most `most`.

    Two replicas may make the same call at once, after a break between them and their caller: the first answer that is
    recorded stands, and both pay for what they used.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._flights: dict[CallKey, Flight] = {}
        self._depth = metrics.QUEUE_ITEMS.labels(_QUEUE)
        self._refused = metrics.QUEUE_REFUSED.labels(_QUEUE)

    @asynccontextmanager
    async def join(
        self,
        key: CallKey,
        arguments_hash: bytes,
        work: Callable[[Release], Coroutine[object, object, Answer]],
        *,
        streamed: bool,
    ) -> AsyncGenerator[Flight]:
        """Begins the call, or attaches to it while it is made. When the last follower leaves early, it is cancelled.

        Raises: CallArgumentsDiffer: the call in flight has other arguments. ModelBusy: too many calls.
        """
        flight = self._flights.get(key)
        if flight is None or flight.ended:
            flight = self._begin(key, arguments_hash, work, streamed=streamed)
        elif flight.arguments_hash != arguments_hash:
            raise CallArgumentsDiffer(key.call_id)
        flight.followers += 1
        try:
            yield flight
        finally:
            flight.followers -= 1
            if flight.followers == 0:
                await flight.stop()

    def _begin(
        self,
        key: CallKey,
        arguments_hash: bytes,
        work: Callable[[Release], Coroutine[object, object, Answer]],
        *,
        streamed: bool,
    ) -> Flight:
        if len(self._flights) >= self._most:
            self._refused.inc()
            raise ModelBusy(self._most)
        flight = Flight(arguments_hash, streamed=streamed)
        self._flights[key] = flight
        self._depth.set(len(self._flights))

        def end(task: asyncio.Task[Answer]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            self._depth.set(len(self._flights))
            if not task.cancelled():
                task.exception()  # Looked at here, so that one nobody waited for is not called unhandled.

        flight.start(work(flight.release)).add_done_callback(end)
        return flight
