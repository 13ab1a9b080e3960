"""Calls that are being made: a repeat of one attaches to it instead of running the tool again."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import TracebackType
from typing import Final, Self

from services.meshkit.telemetry import metrics
from services.tools.domain.errors import CallArgumentsDiffer, TooManyToolCalls
from services.tools.domain.invocation import CallKey, Invocation

#: Releases text to whoever follows the call.
Release = Callable[[str], None]
Work = Callable[[Release], Coroutine[object, object, Invocation]]

_QUEUE: Final = "tool_calls"


class Flight:
    """One call in progress and those who wait for it."""

    def __init__(self, arguments_hash: bytes, work: Work) -> None:
        self.arguments_hash = arguments_hash
        self._pieces: list[str] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(work(self._release), name="tool-call")
        self.task.add_done_callback(lambda _: self._news.set())

    async def answer(self) -> Invocation:
        """Waits for the outcome. A waiter that is cancelled leaves the call alone."""
        return await asyncio.shield(self.task)

    async def follow(self) -> AsyncGenerator[str]:
        """Gives the text that was released so far and what comes until the call has ended."""
        seen = 0
        while True:
            while seen < len(self._pieces):
                seen += 1
                yield self._pieces[seen - 1]
            if self.task.done():
                return
            self._news.clear()
            await self._news.wait()

    def _release(self, text: str) -> None:
        self._pieces.append(text)
        self._news.set()


class CallsInFlight:
    """Owns the calls that this replica is making, at most `most`, in tasks of their own.

    A call runs to its end whatever happens to its askers: tools only read, and their time is short. So its record and
    its money are always dealt with, and who asks again finds the outcome. Leaving the block cancels what still runs.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._flights: dict[CallKey, Flight] = {}
        self._depth = metrics.QUEUE_ITEMS.labels(_QUEUE)
        self._refused = metrics.QUEUE_REFUSED.labels(_QUEUE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def join(self, key: CallKey, arguments_hash: bytes, work: Work) -> Flight:
        """Begins the call, or attaches to it while it is made.

        Raises: CallArgumentsDiffer: the call in flight has other arguments. TooManyToolCalls.
        """
        flight = self._flights.get(key)
        if flight is not None:
            if flight.arguments_hash != arguments_hash:
                raise CallArgumentsDiffer(key.call_id)
            return flight
        if len(self._flights) >= self._most:
            self._refused.inc()
            raise TooManyToolCalls(self._most)
        flight = self._flights[key] = Flight(arguments_hash, work)
        flight.task.add_done_callback(lambda task: self._end(key, task))
        self._depth.set(len(self._flights))
        return flight

    def _end(self, key: CallKey, task: asyncio.Task[Invocation]) -> None:
        del self._flights[key]
        self._depth.set(len(self._flights))
        if not task.cancelled():
            task.exception()  # Looked at here, so that one nobody waited for is not called unhandled.
