"""Wakes the runs of a lane when their moments come: one heap and one task for all of them."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import Any, Final

from services.meshkit.core.clock import Clock
from services.orchestrator.engine.live_run import LiveRun

#: Longest sleep: a wall clock that was set is noticed after so long.
_MOST_SECONDS: Final = 5.0
#: A run whose moment comes within so long does not leave the memory to rest. Longer than a round of the engine.
_SOON: Final = timedelta(seconds=5)
#: Entries of the heap that count no more, beyond as many as there are runs, before they are swept out.
_STALE: Final = 1_000


class Alarms:
    """Keeps the next moment of each run.

    Args:
        runs: those of the lane, by id.
        touch: has the lane look at a run again.
    """

    def __init__(self, runs: Mapping[str, LiveRun], *, clock: Clock, touch: Callable[[LiveRun], None]) -> None:
        self._runs = runs
        self._clock = clock
        self._touch = touch
        self._heap: list[tuple[datetime, str]] = []
        #: The entry that counts, for each run that waits for a moment; gone with the run at the next sweep.
        self._set: dict[str, datetime] = {}
        self._sooner = asyncio.Event()

    def set(self, run: LiveRun) -> None:
        """Has a run woken at its next moment, if it has one."""
        moment = run.wake_time
        if moment is None:
            return  # as most runs
        run_id = run.run.run_id
        if self._set.get(run_id) == moment:
            return
        if not self._heap or moment < self._heap[0][0]:
            self._sooner.set()
        self._set[run_id] = moment
        heappush(self._heap, (moment, run_id))
        if len(self._heap) > 2 * len(self._runs) + _STALE:
            self._sweep()

    def soon(self, run: LiveRun) -> bool:
        """Whether a run's next moment is so near that it stays in memory for it."""
        moment = run.wake_time
        return moment is not None and moment <= self._clock.now() + _SOON

    def _sweep(self) -> None:
        self._set = {run_id: moment for run_id, moment in self._set.items() if run_id in self._runs}
        self._heap = [(moment, run_id) for run_id, moment in self._set.items()]
        heapify(self._heap)

    async def keep(self) -> None:
        """Wakes runs until cancelled."""
        while True:
            self._sooner.clear()
            now = self._clock.now()
            while self._heap and self._heap[0][0] <= now:
                self._ring(*heappop(self._heap), now)
            if self._heap:
                seconds = (self._heap[0][0] - now).total_seconds()
                await _first_of(self._clock.sleep(min(seconds, _MOST_SECONDS)), self._sooner.wait())
            else:
                await self._sooner.wait()

    def _ring(self, moment: datetime, run_id: str, now: datetime) -> None:
        if self._set.get(run_id) != moment:
            return
        del self._set[run_id]
        run = self._runs.get(run_id)
        if run is not None:
            run.awake(now)
            self._touch(run)
            if run.wake_time is not None and run.wake_time > now:
                self.set(run)  # what has come is set anew only if its fact was not recorded


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Waits for one of these, and cancels the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
