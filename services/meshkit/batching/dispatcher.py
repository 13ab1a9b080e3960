"""Collects what concurrent callers ask for and hands it to one function in batches."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from services.meshkit.core.errors import ErrorKind, Exhausted, Internal, MeshError, Unavailable
from services.meshkit.grpc.incidents import incident
from services.meshkit.telemetry import metrics

Item = TypeVar("Item")
Result = TypeVar("Result")
Result_contra = TypeVar("Result_contra", contravariant=True)

_PENDING: Final = Internal("the result of an item is not there yet")

#: Handles a batch: one result per item, in order. A `MeshError` as a result fails that item only.
HandleMany = Callable[[Sequence[Item]], Awaitable[Sequence[Result | MeshError]]]


class QueueFull(Exhausted):
    """Too much is waiting already. Slow down and try again."""

    reason = "QUEUE_FULL"

    def __init__(self, queue: str, *, most: int) -> None:
        super().__init__(f"the queue {queue!r} holds {most} already; try again shortly", queue=queue, most=most)


def is_poison(error: Exception) -> bool:
    """True unless the error would hit any batch alike, such as a database that is down, or too busy for now."""
    if not isinstance(error, MeshError):
        return True
    if error.kind is ErrorKind.EXHAUSTED:
        return error.retry_after is None
    return error.kind not in (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.CANCELLED)


class Waiter(Protocol[Result_contra]):
    """Who waits for the result of one item: a future, or a place among items that were asked for together."""

    def done(self) -> bool: ...
    def set_result(self, result: Result_contra, /) -> None: ...
    def set_exception(self, exception: Exception, /) -> None: ...
    def cancel(self) -> object: ...


class _Together(Generic[Result]):
    """Items that one caller waits for at once: one future for all of them, and no task each."""

    __slots__ = ("_left", "future", "name", "outcomes")

    def __init__(self, many: int, *, name: str) -> None:
        self.name = name
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.outcomes: list[Result | MeshError] = [_PENDING] * many
        self._left = many

    def put(self, index: int, outcome: Result | MeshError) -> None:
        self.outcomes[index] = outcome
        self._left -= 1
        if self._left == 0:
            self.future.set_result(None)


class _Place(Generic[Result]):
    """The place of one item among those. What nobody planned is its own incident: the others may be committed."""

    __slots__ = ("_index", "_together")

    def __init__(self, together: _Together[Result], index: int) -> None:
        self._together = together
        self._index = index

    def done(self) -> bool:
        return self._together.future.done()

    def set_result(self, result: Result) -> None:
        self._together.put(self._index, result)

    def set_exception(self, exception: Exception) -> None:
        failed = exception if isinstance(exception, MeshError) else incident(exception, method=self._together.name)
        self._together.put(self._index, failed)

    def cancel(self) -> None:
        self._together.future.cancel()


class BatchDispatcher(Generic[Item, Result]):
    """Runs `handle` on everything that is waiting, again and again.

    A call that comes alone is handled alone and at once; under load, what piles up while a batch is handled becomes
    the next batch.

    Args:
        handle: must leave nothing behind when it raises, for then the batch is split in halves and tried again until
            the item at fault stands alone.
        name: of the queue, in metrics and errors.
        max_items: in one batch.
        max_waiting: calls that may wait; one more is refused with QueueFull.
        workers: batches handled at the same time.
        ahead: items that have to wait before another batch is begun while one is handled.
        poison: says whether an error can be one item's fault; when not, the whole batch fails with it.
    """

    def __init__(
        self,
        handle: HandleMany[Item, Result],
        *,
        name: str,
        max_items: int = 512,
        max_waiting: int = 8192,
        workers: int = 4,
        ahead: int = 1,
        poison: Callable[[Exception], bool] = is_poison,
    ) -> None:
        self._handle = handle
        self._name = name
        self._max_items = max_items
        self._max_waiting = max_waiting
        self._workers = workers
        self._ahead = ahead
        self._busy = 0
        self._poison = poison
        self._waiting: deque[tuple[Item, Waiter[Result]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._depth = metrics.QUEUE_ITEMS.labels(name)
        self._sizes = metrics.BATCH_ITEMS.labels(name)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work(), name=f"{self._name}-{n}") for n in range(self._workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Handles what is waiting, then stops."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(*self._tasks)

    async def call(self, item: Item) -> Result:
        """Has `item` handled and gives its result. A caller that is cancelled stops waiting; the item is handled yet.

        Raises: QueueFull; Unavailable: the dispatcher is closed; what the handler raised or returned for this item.
        """
        self._check_open()
        if len(self._waiting) >= self._max_waiting:
            raise self._refused()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._wake.set()
        return await future

    async def call_many(self, items: Sequence[Item]) -> list[Result | MeshError]:
        """Has `items` handled, in order, in one batch or several, and gives what became of each.

        An error that is none of the mesh becomes `Internal` for the item that it hit, with an incident in the log.

        Raises: Unavailable: the dispatcher is closed.
        """
        self._check_open()
        if not items:
            return []
        together = _Together[Result](len(items), name=self._name)
        room = max(0, self._max_waiting - len(self._waiting))
        self._waiting.extend((item, _Place(together, index)) for index, item in enumerate(items[:room]))
        for index in range(room, len(items)):
            together.put(index, self._refused())
        self._wake.set()
        await together.future
        return together.outcomes

    def _check_open(self) -> None:
        if self._closing or not self._tasks:
            raise Unavailable(self._name)

    def _refused(self) -> QueueFull:
        metrics.QUEUE_REFUSED.labels(self._name).inc()
        return QueueFull(self._name, most=self._max_waiting)

    async def _work(self) -> None:
        waiting = self._waiting
        while True:
            while not waiting or (self._busy and len(waiting) < self._ahead):
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            batch = [waiting.popleft() for _ in range(min(len(waiting), self._max_items))]
            self._depth.set(len(waiting))
            self._sizes.observe(len(batch))
            self._busy += 1
            try:
                await self._settle(batch)
            finally:
                self._busy -= 1

    async def _settle(self, batch: list[tuple[Item, Waiter[Result]]]) -> None:
        try:
            results = await self._handle([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  # a consumer loop: the callers get it, the loop goes on
            if len(batch) > 1 and self._poison(error):
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        if len(results) != len(batch):
            wrong = Internal(f"the queue {self._name!r} got {len(results)} results for {len(batch)} items")
            results = [wrong] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, MeshError):
                future.set_exception(result)
            else:
                future.set_result(result)
