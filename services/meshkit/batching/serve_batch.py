"""The server side of a batch stream: many items in a frame, each with its own identity, deadline and answer.

async def BatchEvaluate(self, request_iterator, context):
    async for frame in serve_batch(request_iterator, self._evaluate_many, answers=pb.BatchEvaluateResponse):
        yield frame

async def _evaluate_many(self, items: Sequence[BatchItem[pb.BatchEvaluateRequest.Item]]):
    return [pb.BatchEvaluateResponse.Item(verdict=...) for item in items]
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, cast

from opentelemetry.trace import SpanKind

from services.meshkit.batching.frames import MAX_FRAME_ITEMS, Answer, FrameOut, Item, RequestFrame
from services.meshkit.batching.stream_session import ITEM_SECONDS, BatchItem, StreamSession
from services.meshkit.core.errors import Cancelled, Internal, MeshError
from services.meshkit.telemetry.tracing import past_span, span, span_began


@dataclass(frozen=True, slots=True)
class Later(Generic[Answer]):
    """An answer that comes later than those of the other items of its frame, which do not wait for it."""

    #: Gives it, or raises why there is none. Cancelled when the item is taken back, or its time is up.
    answer: Callable[[], Awaitable[Answer]]
    _: KW_ONLY
    #: Called once nobody asks for it any more, whether it was given or not.
    drop: Callable[[], None]


#: Handles the items of one frame: one answer per item, in order. A `MeshError` as an answer fails that item only; a
#: raised error fails the items of the frame.
HandleFrame = Callable[[Sequence[BatchItem[Item]]], Awaitable[Sequence[Answer | MeshError | Later[Answer]]]]
#: Handles one item; what it shows by `item.show` goes out before its answer. Items run side by side and fail alone.
HandleItem = Callable[[BatchItem[Item]], Awaitable[Answer]]


async def serve_batch(
    frames: AsyncIterator[RequestFrame[Item]],
    handle_frame: HandleFrame[Item, Answer],
    *,
    answers: type[FrameOut],
    together: int = MAX_FRAME_ITEMS,
    max_in_flight: int = 4096,
    item_seconds: float = ITEM_SECONDS,
) -> AsyncGenerator[FrameOut]:
    """Answers a batch stream frame by frame; several frames are handled at once.

    Ends well when the client has sent its last item or the server drains; then every item that was read has its answer.

    Args:
        answers: class of the answer frame, which has a field `items`.
        together: items that are handled, and wait for each other's answers, at most. A larger frame is parted.
        max_in_flight: items being handled; beyond it the stream is not read on.
        item_seconds: longest time for an item, also for one that names no deadline.
    """
    session = StreamSession(answers, max_in_flight=max_in_flight, item_seconds=item_seconds)

    def start(items: list[BatchItem[Item]]) -> None:
        for first in range(0, len(items), together):
            session.start(_together(session, items[first : first + together], handle_frame))

    async for frame in session.run(frames, start):
        yield frame


async def serve_items(
    frames: AsyncIterator[RequestFrame[Item]],
    handle_item: HandleItem[Item, Answer],
    *,
    answers: type[FrameOut],
    max_in_flight: int = 1024,
    item_seconds: float = ITEM_SECONDS,
) -> AsyncGenerator[FrameOut]:
    """Answers a batch stream item by item, as `serve_batch`: for work that waits, on others or on a group.

    A cancelled item is cancelled where it stands, and so is one whose deadline passes. Each runs as an RPC of its own
    would: with its caller, its time and its trace.

    Args:
        item_seconds: longest time for an item, also for one that names no deadline.
    """
    session = StreamSession(answers, max_in_flight=max_in_flight, item_seconds=item_seconds)

    def start(items: list[BatchItem[Item]]) -> None:
        for item in items:
            session.start(_single(session, item, handle_item), item)

    async for frame in session.run(frames, start):
        yield frame


async def _together(session: StreamSession, items: list[BatchItem[Any]], handle_frame: HandleFrame[Any, Any]) -> None:
    outcomes: Sequence[Any]
    session.enter_frame()
    began = span_began()
    timer = asyncio.timeout_at(max(item.expires for item in items))
    try:
        async with timer:
            outcomes = await handle_frame(items)
        if len(outcomes) != len(items):
            outcomes = [Internal(f"{len(outcomes)} answers for {len(items)} items")] * len(items)
    except Exception as error:  # noqa: BLE001  # a consumer loop: the items of the frame get it, the stream goes on
        failure = session.failure(error, timed_out=timer.expired())
        outcomes = [failure] * len(items)
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, Later):
            _begin_late(session, item, cast(Later[Any], outcome), began)
        else:
            _answer(session, item, _taken_back() if item.cancelled else outcome, began)


def _answer(session: StreamSession, item: BatchItem[Any], outcome: Any, began: int) -> None:
    """Answers an item of a frame, and records its part of the work as a span of its caller's trace."""
    if began and item.traceparent:
        failed = outcome.reason if isinstance(outcome, MeshError) else ""
        past_span(session.method, traceparent=item.traceparent, began=began, failed=failed)
    session.answer(item, outcome)


def _begin_late(session: StreamSession, item: BatchItem[Any], later: Later[Any], began: int) -> None:
    def ended() -> None:
        # Also when it was cancelled before its first step.
        later.drop()
        session.answer(item, _taken_back())

    if item.cancelled:
        ended()
    else:
        session.start(_late(session, item, later, began), item, ended=ended)


async def _late(session: StreamSession, item: BatchItem[Any], later: Later[Any], began: int) -> None:
    timer = asyncio.timeout_at(item.expires)
    try:
        async with timer:
            outcome = await later.answer()
    except Exception as error:  # noqa: BLE001  # a consumer loop: the item gets it, the stream goes on
        outcome = session.failure(error, timed_out=timer.expired())
    _answer(session, item, outcome, began)


def _taken_back() -> Cancelled:
    return Cancelled("the client took the item back")


async def _single(session: StreamSession, item: BatchItem[Any], handle_item: HandleItem[Any, Any]) -> None:
    session.enter(item)
    timer = asyncio.timeout_at(item.expires)
    try:
        with span(session.method, traceparent=item.traceparent, kind=SpanKind.SERVER):
            async with timer:
                outcome = await handle_item(item)
    except asyncio.CancelledError:
        session.answer(item, _taken_back())
        raise
    except Exception as error:  # noqa: BLE001  # a consumer loop: the item gets it, the stream goes on
        outcome = session.failure(error, timed_out=timer.expired())
    session.answer(item, outcome)
