"""Two attempts at one call at once. The first answer that is whole wins; once text of one is shown, only that one may.

Both may come to something in one turn of the loop, so nothing goes by which task was woken first.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from services.inference.domain.answer import StreamEvent
from services.inference.usecases.calls_in_flight import Release
from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry.logs import logger

Answered = TypeVar("Answered")

log = logger(__name__)


@dataclass(slots=True)
class Ended(Generic[Answered]):
    """How a race ended, by lane. Who is in neither map was stopped."""

    answers: dict[int, Answered] = field(default_factory=dict[int, Answered])
    failures: dict[int, MeshError] = field(default_factory=dict[int, MeshError])
    #: Whose answer counts: that of the lane whose text was shown, else of several the one in the first. None: nobody's.
    winner: int | None = None
    #: The lane whose text was shown, whatever became of it. None: neither's.
    shown: int | None = None


class Race(Generic[Answered]):
    """Runs attempts in lanes 0 and 1. No more than one of them shows text: the other is stopped then.

    Args:
        release: shows text while it comes; None: nobody watches.
        decides: says of a failure of lane 0 that the other could do no better.
    """

    def __init__(self, release: Release | None, *, decides: Callable[[MeshError], bool]) -> None:
        self._release = release
        self._decides = decides
        self._lanes: dict[int, asyncio.Task[Answered]] = {}
        #: The lane whose text is shown.
        self._shown: int | None = None
        self._shows = asyncio.Event()
        #: True once it is over: who is being stopped shows nothing on its way out.
        self._over = False

    def release_of(self, lane: int) -> Release | None:
        """Gives what shows the text of a lane, unless that of the other is shown."""
        release = self._release
        if release is None:
            return None

        def show(event: StreamEvent) -> None:
            if self._shown is None and not self._over:
                self._shown = lane
                self._shows.set()
            if self._shown == lane:
                release(event)

        return show

    def start(self, lane: int, attempt: Coroutine[Any, Any, Answered]) -> None:
        """Begins an attempt."""
        self._lanes[lane] = asyncio.create_task(attempt, name=f"attempt in lane {lane}")

    async def silent_until(self, moment: Coroutine[Any, Any, None]) -> bool:
        """Waits for a moment; True when lane 0 was neither over nor shown by then."""
        waiting = asyncio.create_task(moment, name="hedge")
        try:
            await asyncio.wait((self._lanes[0], waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        return not self._lanes[0].done() and self._shown is None

    async def end(self) -> Ended[Answered]:
        """Waits until an answer is whole, until no other lane could do better, or until all have failed."""
        shows = asyncio.create_task(self._shows.wait(), name="text of a race")
        try:
            while not self._is_over():
                running = [one for one in self._lanes.values() if not one.done()]
                news = running if self._shown is not None else [*running, shows]
                await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
                if self._shown is not None:
                    # What is shown cannot be taken back by another's answer.
                    await _stopped(task for lane, task in self._lanes.items() if lane != self._shown)
        finally:
            self._over = True
            shows.cancel()
            await self.stop()
        return self._ended()

    async def stop(self) -> None:
        """Stops whoever runs still, and waits until that is done."""
        await _stopped(self._lanes.values())

    def _is_over(self) -> bool:
        if self._shown is not None:
            return self._lanes[self._shown].done()
        if all(task.done() for task in self._lanes.values()):
            return True
        for lane, task in self._lanes.items():
            if task.done() and not task.cancelled():
                error = task.exception()
                if not isinstance(error, MeshError) or (lane == 0 and self._decides(error)):
                    return True
        return False

    def _ended(self) -> Ended[Answered]:
        ended = Ended[Answered](shown=self._shown)
        for lane, task in sorted(self._lanes.items()):
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                ended.answers[lane] = task.result()
            elif isinstance(error, MeshError):
                ended.failures[lane] = error
            elif self._shown in (None, lane):
                raise error
            else:
                # A fault of ours: it must not take away what the reader sees.
                log.error("an attempt beside the one that is shown failed unexpectedly", lane=lane, exc_info=error)
        whole = (lane for lane in ended.answers if self._shown in (None, lane))
        ended.winner = next(whole, None)
        return ended


async def _stopped(tasks: Iterable[asyncio.Task[Any]]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
