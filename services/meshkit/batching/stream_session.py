"""What one batch stream of a server is doing: who its items speak for, which are in flight, what is ready to send."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Generic

import grpc.aio
from google.protobuf import message_factory

from comitia.common.v1.batch_pb2 import ItemHeader
from services.meshkit.batching.frames import MAX_FRAME_BYTES, MAX_FRAME_ITEMS, Item, MakeAnswers
from services.meshkit.core.errors import DeadlineExceeded, Exhausted, Internal, MeshError
from services.meshkit.core.identity import Caller, Principal
from services.meshkit.grpc.call import Call, current_call, enter_call
from services.meshkit.grpc.errors import remote_error, to_status
from services.meshkit.grpc.incidents import incident
from services.meshkit.grpc.limits import RateLimited, RouteLimits
from services.meshkit.grpc.stream_identities import StreamIdentities
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.scope import Scope, enter_scope
from services.meshkit.telemetry.tracing import received_traceparent

#: Longest time for an item, unless the stream is served with another, seconds.
ITEM_SECONDS: Final = 30.0
#: A client that was told that the server stops has so long to end its side, seconds.
_LEAVING_SECONDS: Final = 2.0


class FrameTooLarge(Exhausted):
    """A frame holds more items than it may. Send smaller frames."""

    reason = "FRAME_TOO_LARGE"


class AnswerTooLarge(Exhausted):
    """The answer of one item does not fit into a frame. Ask for less, or by the unary call."""

    reason = "ANSWER_TOO_LARGE"


@dataclass(slots=True, kw_only=True)
class BatchItem(Generic[Item]):
    """One item of a batch stream, its identity verified and its permission checked."""

    item_id: int
    message: Item
    principal: Principal
    #: Service that sent it.
    peer: str | None
    #: Time of the event loop at which the answer is no longer wanted.
    expires: float
    #: Trace context under which its work goes on, empty without one.
    traceparent: str
    #: True once the client has taken the item back. Work that has not begun may be left out.
    cancelled: bool = False
    #: The task that works on this item alone.
    task: "asyncio.Task[None] | None" = None
    #: Sends an answer that more will follow, while the item is in flight.
    show: Callable[[Any], None] = field(repr=False)

    @property
    def caller(self) -> Caller:
        """The caller, as `caller_of` gives it for a unary call."""
        return Caller(principal=self.principal, peer=self.peer)


class StreamSession:
    """Reads frames, keeps items in flight within a bound, and sends answers as they come, many to a frame."""

    # Items and answers are messages of the service that owns the stream: `Any` here, typed in `serve_batch`.

    def __init__(self, answers: MakeAnswers, *, max_in_flight: int, item_seconds: float = ITEM_SECONDS) -> None:
        call = current_call()
        if call is None:
            raise Internal("a batch stream is served outside of an RPC")
        self._call: Call = call
        self._domain = f"{call.service}.comitia"
        self._make_frame = answers
        self._make_item = _item_class(answers)
        self._identities = StreamIdentities(
            call.admission, method=call.method, peer=call.peer, connection=call.connection
        )
        self._limits = _limits_of(call)
        self._max_in_flight = max_in_flight
        self._item_seconds = item_seconds
        self._in_flight: dict[int, BatchItem[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: list[Any] = []
        self._reading = True
        #: True while the client is yet to be told that the server stops.
        self._leaving = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._sizes = metrics.BATCH_ITEMS.labels(call.method)

    @property
    def method(self) -> str:
        """Full name of the RPC."""
        return self._call.method

    async def run(
        self, frames: AsyncIterator[Any], start: Callable[[list[BatchItem[Any]]], None]
    ) -> AsyncGenerator[Any]:
        """Reads `frames`, has `start` begin the work on the items of each, and gives the frames of answers.

        When the server drains, the client is asked to end its side, and what it sends until then is answered: were the
        stream ended first, whatever the client writes meanwhile would break it (grpc/grpc#36066).
        """
        reader = asyncio.create_task(self._read(frames, start), name="batch-reader")
        patience: asyncio.TimerHandle | None = None

        def leave() -> None:
            nonlocal patience
            self._leaving = True
            self._changed.set()
            patience = asyncio.get_running_loop().call_later(_LEAVING_SECONDS, _cancel, reader)

        try:
            with self._call.drain.notify(leave):
                while self._reading or self._in_flight or self._ready:
                    if not self._ready and not self._leaving:
                        self._changed.clear()
                        await self._changed.wait()
                    ready, self._ready = self._ready, []
                    for frame in self._framed(ready):
                        yield frame
                    if self._leaving:
                        self._leaving = False
                        yield self._make_frame(items=(), leaving=True)
            if not reader.cancelled():
                await reader
        finally:
            if patience is not None:
                patience.cancel()
            reader.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(reader, *self._tasks, return_exceptions=True)

    def start(
        self,
        work: Coroutine[Any, Any, None],
        item: BatchItem[Any] | None = None,
        *,
        ended: Callable[[], None] | None = None,
    ) -> None:
        """Begins work; with `item`, taking that item back cancels it. Calls `ended` at its end, however it comes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if ended is not None:
            task.add_done_callback(lambda _: ended())
        if item is not None:
            item.task = task

    def enter(self, item: BatchItem[Any]) -> None:
        """Makes an item the call that the running task answers: what it asks others ends with the item's own time."""
        enter_call(replace(self._call, principal=item.principal, expires=item.expires))
        enter_scope(Scope(service=self._call.service, correlation_id=item.principal.run_id or ""))

    def enter_frame(self) -> None:
        """Has the running task work for many: what it does for one of them is no part of the stream's own trace."""
        enter_scope(Scope(service=self._call.service))

    def answer(self, item: BatchItem[Any], outcome: Any) -> None:
        """Takes the last answer of an item, or the error it failed with."""
        if self._in_flight.pop(item.item_id, None) is None:
            return
        if isinstance(outcome, MeshError):
            outcome = self._failed(item.item_id, outcome)
        else:
            outcome.status.item_id = item.item_id
        self._put(outcome)

    def failure(self, error: Exception, *, timed_out: bool) -> MeshError:
        """Gives the error that the items of a failed handler get."""
        match error:
            case MeshError():
                return error
            case TimeoutError() if timed_out:
                return DeadlineExceeded("the answer was not ready in time")
            case grpc.aio.AioRpcError():
                return remote_error(error)
            case _:
                return incident(error, method=self._call.method)

    async def _read(self, frames: AsyncIterator[Any], start: Callable[[list[BatchItem[Any]]], None]) -> None:
        try:
            async for frame in frames:
                if len(frame.items) > MAX_FRAME_ITEMS:
                    raise FrameTooLarge(f"a frame may hold at most {MAX_FRAME_ITEMS} items", most=MAX_FRAME_ITEMS)
                if frame.HasField("identities"):
                    self._identities.extend(frame.identities)
                self._sizes.observe(len(frame.items))
                items = self._admitted(frame.items)
                if self._limits is not None:
                    items = await self._counted(items, self._limits)
                if items:
                    start(items)
                while len(self._in_flight) >= self._max_in_flight:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._reading = False
            self._changed.set()

    def _admitted(self, messages: Iterable[Any]) -> list[BatchItem[Any]]:
        """Verifies the items of a frame; those that may not begin are answered at once."""
        wall, loop_time = time.time(), asyncio.get_running_loop().time()
        longest = min(self._call.expires, loop_time + self._item_seconds)
        items: list[BatchItem[Any]] = []
        for message in messages:
            header: ItemHeader = message.header
            item_id = header.item_id
            if header.cancel:
                self._take_back(item_id)
                continue
            expires = longest
            if header.HasField("deadline_time"):
                deadline = header.deadline_time
                expires = min(longest, loop_time + deadline.seconds + deadline.nanos / 1e9 - wall)
            try:
                principal = self._identities.principal(header.identity_index, now=wall)
                if expires <= loop_time:
                    raise DeadlineExceeded("the deadline of the item had passed when it came")
            except MeshError as error:
                self._put(self._failed(item_id, error))
                continue
            item = BatchItem[Any](
                item_id=item_id,
                message=message,
                principal=principal,
                peer=self._call.peer,
                expires=expires,
                traceparent=received_traceparent(header.traceparent, neighbour=self._call.peer is not None),
                show=partial(self._show, item_id),
            )
            self._in_flight[item_id] = item
            items.append(item)
        return items

    async def _counted(self, items: list[BatchItem[Any]], limits: RouteLimits) -> list[BatchItem[Any]]:
        """Leaves those items that their own caller may send right now; the others are answered."""
        left: list[BatchItem[Any]] = []
        for item in items:
            try:
                await limits.count(item.principal, None)
            except RateLimited as refusal:
                self.answer(item, refusal)
            else:
                left.append(item)
        return left

    def _take_back(self, item_id: int) -> None:
        item = self._in_flight.get(item_id)
        if item is not None:
            item.cancelled = True
            if item.task is not None:
                item.task.cancel()

    def _show(self, item_id: int, piece: Any) -> None:
        if item_id in self._in_flight:
            piece.status.item_id = item_id
            piece.status.more = True
            self._put(piece)

    def _failed(self, item_id: int, error: MeshError) -> Any:
        answer = self._make_item()
        answer.status.item_id = item_id
        answer.status.error.CopyFrom(to_status(error, domain=self._domain))
        return answer

    def _put(self, answer: Any) -> None:
        self._ready.append(answer)
        self._changed.set()
        self._room.set()

    def _framed(self, answers: Sequence[Any]) -> Iterator[Any]:
        """Packs answers into frames within the bounds."""
        for first in range(0, len(answers), MAX_FRAME_ITEMS):
            yield from self._within_bytes(answers[first : first + MAX_FRAME_ITEMS])

    def _within_bytes(self, answers: Sequence[Any]) -> Iterator[Any]:
        frame = self._make_frame(items=answers)
        if frame.ByteSize() <= MAX_FRAME_BYTES:
            yield frame
        elif len(answers) == 1:
            too_large = AnswerTooLarge("the answer does not fit into a frame", most_bytes=MAX_FRAME_BYTES)
            yield self._make_frame(items=[self._failed(answers[0].status.item_id, too_large)])
        else:
            middle = len(answers) // 2
            yield from self._within_bytes(answers[:middle])
            yield from self._within_bytes(answers[middle:])


def _limits_of(call: Call) -> RouteLimits | None:
    """Gives what counts the items of a stream; None for those of services, which were counted before."""
    limits = call.admission.limits
    if limits is None or call.peer is not None:
        return None
    return limits.route(call.method, call.admission.guard(call.method))


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _item_class(answers: Any) -> Callable[[], Any]:
    return message_factory.GetMessageClass(answers.DESCRIPTOR.fields_by_name["items"].message_type)
