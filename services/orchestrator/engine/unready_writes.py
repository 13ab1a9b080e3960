"""Writes that wait for more than the database: for room in the object store, or for the key of their tenant.

They wait beside the commits, each run by itself: a store that is slow for one tenant holds up nobody else's. What a run
writes later waits behind, for its facts are recorded in order.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Final

from services.meshkit.telemetry import metrics
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.ports import Journal
from services.orchestrator.engine.run import RunWrite

#: Runs whose writes are made ready at once. Each holds its facts twice meanwhile, and moves several objects at once.
_AT_ONCE: Final = 8

Preparation = Callable[[], Awaitable[None]]


class UnreadyWrites:
    """Changed by the lane that has it.

    Args:
        ready: told of each write that may join a commit now, in order.
        failed: told of a run whose write cannot be made ready, and why.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        ready: Callable[[LiveRun, RunWrite], None],
        failed: Callable[[LiveRun, Exception], None],
    ) -> None:
        self._journal = journal
        self._ready = ready
        self._failed = failed
        #: Of each run those that wait, and who makes the first of them ready.
        self._waiting: dict[str, deque[RunWrite]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._group: asyncio.TaskGroup | None = None
        self._context = Context()
        metrics.QUEUE_ITEMS.labels("orchestrator.unready").set_function(self._count)

    def open(self, group: asyncio.TaskGroup, context: Context) -> None:
        """Makes writes ready in a group from now on."""
        self._group, self._context = group, context

    def take(self, run: LiveRun, write: RunWrite) -> bool:
        """Keeps a write that has to wait, for itself or for others of its run; False for any other."""
        run_id = run.run.run_id
        waiting = self._waiting.get(run_id)
        if waiting is not None:
            waiting.append(write)
            return True
        preparation = self._journal.preparation(write)
        if preparation is None:
            return False
        if self._group is not None:  # else it stops, and what is not recorded is decided again
            self._waiting[run_id] = deque([write])
            making = self._make_ready(run, self._waiting[run_id], preparation)
            self._tasks[run_id] = self._group.create_task(
                making, name=f"make ready {run_id}", context=self._context.copy()
            )
        return True

    def drop(self, run_id: str) -> None:
        """Forgets the writes of a run that is not driven here any more."""
        self._waiting.pop(run_id, None)
        if task := self._tasks.pop(run_id, None):
            task.cancel()

    def close(self) -> list[asyncio.Task[None]]:
        """Makes no more ready; gives the tasks that do."""
        self._group = None
        return list(self._tasks.values())

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def _make_ready(self, run: LiveRun, waiting: deque[RunWrite], preparation: Preparation | None) -> None:
        run_id = run.run.run_id
        try:
            while True:
                if preparation is not None:
                    async with self._places:
                        await preparation()
                self._ready(run, waiting.popleft())
                if not waiting:
                    break
                preparation = self._journal.preparation(waiting[0])
        except Exception as error:  # noqa: BLE001  # logged by whoever sets the run aside
            self._tasks.pop(run_id, None)  # this one: it ends by itself
            self._failed(run, error)
            return
        if self._waiting.get(run_id) is waiting:
            del self._waiting[run_id]
            self._tasks.pop(run_id, None)
