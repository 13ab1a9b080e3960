"""Work that would hold up the loop, on a few threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from services.meshkit.batching.dispatcher import QueueFull
from services.meshkit.telemetry import metrics

Result = TypeVar("Result")


class Threads:
    """A bounded pool of threads with a bounded queue. Use as a context manager.

    Args:
        name: of the queue, in metrics and errors.
    """

    def __init__(self, name: str, *, threads: int, most_waiting: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = most_waiting
        self._waiting = 0
        self._depth = metrics.QUEUE_ITEMS.labels(self._name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets what runs end; what waits is dropped, for nobody waits for it any more."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Runs `work` on a thread. A caller that is cancelled stops waiting; work that has begun goes on.

        Raises: QueueFull; what `work` raises.
        """
        if self._waiting >= self._most:
            metrics.QUEUE_REFUSED.labels(self._name).inc()
            raise QueueFull(self._name, most=self._most)
        self._waiting += 1
        self._depth.set(self._waiting)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1
            self._depth.set(self._waiting)
