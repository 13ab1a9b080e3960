"""The client side of a batch stream: concurrent calls become one frame, a call that comes alone leaves at once."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from math import inf
from random import Random
from types import TracebackType
from typing import Any, Final, Generic, Self

from services.meshkit.batching.client_stream import Waiting
from services.meshkit.batching.dispatcher import QueueFull
from services.meshkit.batching.frames import MAX_FRAME_BYTES, Answer, Item, MakeFrame
from services.meshkit.batching.lane import Lane
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import DeadlineExceeded, Exhausted, Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.core.retry import Backoff
from services.meshkit.grpc.call import seconds_left
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.scope import current_scope

#: Age at which a stream is replaced, if nobody says otherwise.
STREAM_SECONDS: Final = 240.0
#: Least time between two looks for calls whose time is up, seconds.
_LOOK_SECONDS: Final = 0.05
_BACKOFF: Final = Backoff(first_seconds=0.05, most_seconds=1.0)
#: What the header and the token of an item may add to its size, bytes.
_OVERHEAD_BYTES: Final = 256
_MAX_ITEM_BYTES: Final = MAX_FRAME_BYTES - 128 * 1024


class ItemTooLarge(Exhausted):
    """The request does not fit into a frame. Send large content as a blob."""

    reason = "ITEM_TOO_LARGE"


class Coalescer(Generic[Item, Answer]):
    """Sends the calls of one loop tick as one frame on an open batch stream and gives each caller its own answer.

        async with Coalescer(stub.BatchEvaluate, frame=pb.BatchEvaluateRequest, name="policy", ...) as evaluations:
            answer = await evaluations.call(pb.BatchEvaluateRequest.Item(subject=...), principal=caller.principal)

    A stream that breaks fails what was in flight on it with UNAVAILABLE, and the next call opens another. A server
    that drains asks for the end of its streams and loses nothing: what it was not sent goes to the next one.

    Args:
        open_stream: the batch method of a stub.
        frame: class of the request frame.
        name: of the queue, in metrics and errors.
        max_waiting: calls that may wait for answers; one more is refused with QueueFull.
        streams: open side by side; each new one goes to the next replica, each call to the least loaded.
        stream_seconds: age at which a stream is replaced, so that new replicas get work.
    """

    def __init__(
        self,
        open_stream: Callable[[], Any],
        *,
        frame: MakeFrame,
        name: str,
        clock: Clock,
        random: Random,
        max_waiting: int = 8192,
        streams: int = 1,
        stream_seconds: float = STREAM_SECONDS,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        self._name = name
        self._clock = clock
        self._max_waiting = max_waiting
        self._waiting = 0
        #: When calls were looked through for those whose time is up, and when they will be: as that of the first is.
        self._looked, self._looks_at = -inf, inf
        self._timer: asyncio.TimerHandle | None = None
        #: Of all of this name in the process.
        self._depth = metrics.QUEUE_ITEMS.labels(name)
        self._tasks: list[asyncio.Task[None]] = []
        self._lanes = [
            Lane(
                open_stream,
                name=name,
                make_frame=frame,
                clock=clock,
                random=random,
                backoff=backoff,
                stream_seconds=stream_seconds,
            )
            for _ in range(streams)
        ]

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(lane.run(), name=f"{self._name}-lane") for lane in self._lanes]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the streams; who still waits gets UNAVAILABLE."""
        tasks, self._tasks = self._tasks, []
        left = [waiting for lane in self._lanes for waiting in lane.waiting()]
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._looks_at = None, inf
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for waiting in left:
            if not waiting.future.done():
                waiting.future.set_exception(Unavailable(self._name))

    async def call(self, item: Item, *, principal: Principal, timeout_seconds: float = 30.0) -> Answer:
        """Sends `item` for `principal` and gives its answer.

        The header of the item is filled in here. A call made while answering an RPC never waits longer than its own
        caller does. A caller that is cancelled takes its item back.

        Raises: QueueFull; ItemTooLarge; DeadlineExceeded; Unavailable; the error the item was answered with.
        """
        waiting, lane = self._send(item, principal, timeout_seconds)
        try:
            return await waiting.future
        finally:
            self._end(waiting, lane)

    async def stream(
        self, item: Item, *, principal: Principal, timeout_seconds: float = 30.0
    ) -> AsyncGenerator[Answer]:
        """Sends `item` as `call` does and gives its answers as they come, the last one being the end.

        Close it to take the item back.
        """
        pieces: deque[Answer] = deque()
        news = asyncio.Event()

        def take(piece: Answer) -> None:
            pieces.append(piece)
            news.set()

        waiting, lane = self._send(item, principal, timeout_seconds)
        try:
            waiting.on_piece = take
            waiting.future.add_done_callback(lambda _: news.set())
            while not waiting.future.done() or pieces:
                if pieces:
                    yield pieces.popleft()
                else:
                    news.clear()
                    await news.wait()
            yield waiting.future.result()
        finally:
            self._end(waiting, lane)

    def _send(self, item: Item, principal: Principal, timeout_seconds: float) -> tuple[Waiting, Lane]:
        """Has an item sent, until `_end`."""
        if not self._tasks:
            raise Unavailable(self._name)
        if self._waiting >= self._max_waiting:
            metrics.QUEUE_REFUSED.labels(self._name).inc()
            raise QueueFull(self._name, most=self._max_waiting)
        waiting = self._prepared(item, principal, timeout_seconds)
        lane = self._lanes[0] if len(self._lanes) == 1 else min(self._lanes, key=_load)
        lane.send(waiting)
        self._waiting += 1
        self._depth.inc()
        self._look_at(waiting.expires)
        return waiting, lane

    def _end(self, waiting: Waiting, lane: Lane) -> None:
        """Ends a call; one that has no answer is taken back."""
        self._waiting -= 1
        self._depth.dec()
        if waiting.future.cancelled() or not waiting.future.done():
            waiting.future.cancel()
            lane.forget(waiting)
        else:
            waiting.future.exception()  # Looked at here, so that one nobody waited for is not called unhandled.

    def _prepared(self, item: Item, principal: Principal, timeout_seconds: float) -> Waiting:
        size = item.ByteSize() + _OVERHEAD_BYTES
        if size > _MAX_ITEM_BYTES:
            raise ItemTooLarge("the request does not fit into a frame", size_bytes=size, most_bytes=_MAX_ITEM_BYTES)
        left = seconds_left()
        seconds = timeout_seconds if left is None else min(left, timeout_seconds)
        header = item.header
        ends = self._clock.now().timestamp() + seconds
        whole = int(ends)
        deadline = header.deadline_time
        deadline.seconds = whole
        deadline.nanos = int((ends - whole) * 1e9)
        scope = current_scope()
        if scope.traceparent:
            header.traceparent = scope.traceparent
        loop = asyncio.get_running_loop()
        return Waiting(
            item=item,
            token=principal.token.reveal(),
            size_bytes=size,
            expires=loop.time() + seconds,
            future=loop.create_future(),
        )

    def _look_at(self, when: float) -> None:
        """Has calls looked through at `when`, unless that is done before. One timer stands for all that wait."""
        when = max(when, self._looked + _LOOK_SECONDS)
        if when < self._looks_at:
            if self._timer is not None:
                self._timer.cancel()
            self._looks_at = when
            self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        """Ends the wait of those whose time is up."""
        # The timer of a loop that counts milliseconds may come a part of one early.
        self._looked, self._looks_at = max(self._looks_at, asyncio.get_running_loop().time()), inf
        first = inf
        for lane in self._lanes:
            for waiting in lane.waiting():
                if waiting.expires > self._looked:
                    first = min(first, waiting.expires)
                elif not waiting.future.done():
                    waiting.future.set_exception(DeadlineExceeded("the answer was not ready in time"))
                    lane.forget(waiting)
        if first < inf:
            self._look_at(first)


def _load(lane: Lane) -> int:
    return lane.load
