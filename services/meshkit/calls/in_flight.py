"""Calls that are being made: a repeat of one attaches to it instead of making it again."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from math import inf
from types import TracebackType
from typing import Generic, Self, TypeVar

from services.meshkit.content import CallId, CallKey
from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry import metrics

Event = TypeVar("Event")
Outcome = TypeVar("Outcome")

#: Makes a call, and shows events of it, by what it is given, to whoever follows the call.
Work = Callable[[Callable[[Event], None]], Coroutine[object, object, Outcome]]
#: Says how long a call goes on when its last follower has left, seconds, from how many go on alone already; 0: not.
WhenLeft = Callable[[int], float]


class Flight(Generic[Event, Outcome]):
    """One call in progress, in a task of its own, and those who wait for it."""

    def __init__(self, arguments_hash: bytes, work: Work[Event, Outcome], *, name: str) -> None:
        self.arguments_hash = arguments_hash
        self.followers = 0
        #: True while it goes on without anybody who follows it.
        self.alone = False
        self._end_of_patience: asyncio.TimerHandle | None = None
        #: True once nobody waits any more and the call was told to end.
        self.stopping = False
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(work(self._release), name=name)
        self.task.add_done_callback(lambda _: self._news.set())

    async def answer(self) -> Outcome:
        """Waits for the outcome. A waiter that is cancelled leaves the call alone. Raises: what the call raised."""
        return await asyncio.shield(self.task)

    async def follow(self) -> AsyncGenerator[Event]:
        """Gives what was released so far and what comes until the call has ended."""
        seen = 0
        while True:
            while seen < len(self._events):
                seen += 1
                yield self._events[seen - 1]
            if self.task.done():
                return
            self._news.clear()
            await self._news.wait()

    async def stop(self) -> None:
        """Cancels the call and waits until it has ended in order."""
        if not self.task.done():
            self._cancel()
            await asyncio.wait((self.task,))

    def go_on_alone(self, seconds: float) -> None:
        """Lets the call go on without anybody who follows it, so long at most."""
        self.alone = not self.task.done()
        if self.alone and seconds < inf:
            self._end_of_patience = asyncio.get_running_loop().call_later(seconds, self._cancel)
            self.task.add_done_callback(lambda _: self.joined())

    def joined(self) -> None:
        """Notes that somebody follows the call again, or that it has ended."""
        self.alone = False
        if self._end_of_patience is not None:
            self._end_of_patience.cancel()
            self._end_of_patience = None

    def _cancel(self) -> None:
        self.stopping = True
        self.task.cancel()

    def _release(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()


class CallsInFlight(Generic[Event, Outcome]):
    """All calls that this replica is making, at most `most`. Leaving the block ends those that still run.

    Two replicas may make the same call at once, after a break between them and their caller: the first outcome that is
    recorded stands, and both pay for what they used.

    Args:
        name: of the calls, in metrics.
        stop_unfollowed: True to cancel a call when its last follower leaves early; else it runs to its end, and who
            asks again finds its record.
        differs: makes the error for a call that is in flight with other arguments.
        busy: makes the error for one call more than `most`.
    """

    def __init__(
        self,
        name: str,
        *,
        most: int,
        stop_unfollowed: bool,
        differs: Callable[[CallId], MeshError],
        busy: Callable[[int], MeshError],
    ) -> None:
        self._name = name
        self._most = most
        self._patience = 0.0 if stop_unfollowed else inf
        self._differs = differs
        self._busy = busy
        self._flights: dict[CallKey, Flight[Event, Outcome]] = {}
        self._depth = metrics.QUEUE_ITEMS.labels(name)
        self._refused = metrics.QUEUE_REFUSED.labels(name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def join(
        self,
        key: CallKey,
        arguments_hash: bytes,
        work: Work[Event, Outcome],
        *,
        when_left: WhenLeft | None = None,
    ) -> AsyncGenerator[Flight[Event, Outcome]]:
        """Begins the call, or attaches to it while it is made.

        Args:
            when_left: says how long the call goes on if this follower is the last one and leaves early; None: as
                `stop_unfollowed` says.
        Raises: what `differs` and `busy` make.
        """
        flight = await self._standing(key)
        if flight is None:
            flight = self._begin(key, arguments_hash, work)
        elif flight.arguments_hash != arguments_hash:
            raise self._differs(key.call_id)
        flight.followers += 1
        flight.joined()
        try:
            yield flight
        finally:
            flight.followers -= 1
            if flight.followers == 0 and not flight.task.done():
                seconds = self._patience if when_left is None else when_left(self._alone())
                if seconds > 0:
                    flight.go_on_alone(seconds)
                else:
                    await flight.stop()

    def _alone(self) -> int:
        """Counts the calls that go on without anybody who follows them."""
        return sum(flight.alone for flight in self._flights.values())

    async def _standing(self, key: CallKey) -> Flight[Event, Outcome] | None:
        """Gives the flight that can be joined; waits for the end of one that nobody wanted any more."""
        while (flight := self._flights.get(key)) is not None and not flight.task.done():
            if not flight.stopping:
                return flight
            await asyncio.wait((flight.task,))
        return None

    def _begin(self, key: CallKey, arguments_hash: bytes, work: Work[Event, Outcome]) -> Flight[Event, Outcome]:
        if len(self._flights) >= self._most:
            self._refused.inc()
            raise self._busy(self._most)
        flight = Flight(arguments_hash, work, name=self._name)
        self._flights[key] = flight
        self._depth.set(len(self._flights))

        def end(task: asyncio.Task[Outcome]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            self._depth.set(len(self._flights))
            if not task.cancelled():
                task.exception()  # Looked at here, so that one nobody waited for is not called unhandled.

        flight.task.add_done_callback(end)
        return flight
