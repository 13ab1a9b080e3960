"""One open batch stream of a client: its identities, its items in flight, its reader."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio

from services.meshkit.batching.frames import MAX_FRAME_BYTES, MAX_FRAME_ITEMS, MakeFrame
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.errors import from_status, remote_error
from services.meshkit.grpc.stream_identities import MAX_IDENTITIES

#: Room of a frame that is kept for the tokens and for what surrounds the items, bytes.
_FRAME_MARGIN_BYTES: Final = 64 * 1024


@dataclass(slots=True, eq=False)
class Waiting:
    """A call that waits for its answer."""

    # A request item of the service; the coalescer keeps its type.
    item: Any
    #: Of the caller, as it goes on the wire.
    token: str = field(repr=False)
    size_bytes: int
    #: Time of the event loop at which the caller gives up.
    expires: float
    future: asyncio.Future[Any]
    #: Takes answers that more will follow; None when the caller wants the last one only.
    on_piece: Callable[[Any], None] | None = None
    #: Number on its stream; 0 until it is sent.
    item_id: int = 0
    stream: "ClientStream | None" = None


class ClientStream:
    """A stream that is written by its lane and read by a task of its own."""

    def __init__(self, call: Any, *, opened: float, make_frame: MakeFrame) -> None:
        self._call = call
        self._make_frame = make_frame
        self._index_of: dict[str, int] = {}
        self._cancelled: list[int] = []
        self.opened = opened
        #: Number of the newest item.
        self.last_id = 0
        self.in_flight: dict[int, Waiting] = {}
        #: Answers that came.
        self.answered = 0
        #: True once no more items may be sent here.
        self.retired = False
        #: Items that the server never took on, to be sent on another stream.
        self.left_over: list[Waiting] = []

    def take(self, pending: "deque[Waiting]") -> Any:
        """Makes a frame of what fits, out of `pending`; retires the stream when it has no room for another token."""
        taken: list[Any] = []
        tokens: list[str] = []
        room = MAX_FRAME_BYTES - _FRAME_MARGIN_BYTES
        while pending and len(taken) < MAX_FRAME_ITEMS:
            waiting = pending[0]
            if waiting.future.done():
                pending.popleft()
                continue
            index = self._index_of.get(waiting.token)
            if index is None and len(self._index_of) >= MAX_IDENTITIES:
                self.retired = True
                break
            room -= waiting.size_bytes + (0 if index is not None else len(waiting.token))
            if room < 0 and taken:
                break
            pending.popleft()
            if index is None:
                index = self._index_of[waiting.token] = len(self._index_of)
                tokens.append(waiting.token)
            taken.append(self._numbered(waiting, index))
        frame = self._make_frame(items=taken)
        while self._cancelled and len(frame.items) < MAX_FRAME_ITEMS:
            header = frame.items.add().header
            header.item_id, header.cancel = self._cancelled.pop(), True
        if tokens:
            frame.identities.access_tokens.extend(tokens)
        return frame

    def _numbered(self, waiting: Waiting, index: int) -> Any:
        self.last_id += 1
        waiting.item_id, waiting.stream = self.last_id, self
        self.in_flight[self.last_id] = waiting
        header = waiting.item.header
        header.item_id = self.last_id
        header.identity_index = index
        return waiting.item

    @property
    def has_news(self) -> bool:
        """True when there are items to take back."""
        return bool(self._cancelled)

    def forget(self, waiting: Waiting) -> None:
        """Takes an item back whose caller does not wait any more."""
        if self.in_flight.pop(waiting.item_id, None) is not None:
            self._cancelled.append(waiting.item_id)

    def give_up_after(self, item_id: int, failure: MeshError) -> None:
        """Fails the items that are newer than this one: their frame never left.

        The stream retires, since the server was not told the tokens of that frame. What left before is answered.
        """
        self.retired = True
        for newer in [known for known in self.in_flight if known > item_id]:
            waiting = self.in_flight.pop(newer)
            if not waiting.future.done():
                waiting.future.set_exception(failure)

    async def write(self, frame: Any) -> None:
        """Sends a frame. On a stream that has ended nothing is sent; its reader tells the callers."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.write(frame)

    async def finish(self) -> None:
        """Says that no more items come. The server answers what it has, then ends the stream."""
        self.retired = True
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    def cancel(self) -> None:
        """Ends the stream at once."""
        self._call.cancel()

    async def read(self, on_leaving: Callable[[], None]) -> None:
        """Hands answers to their callers until the stream ends.

        Args:
            on_leaving: called when the server asks to send no more; the stream has retired, and is to be finished.
        Raises: MeshError: the stream broke; what was in flight failed with it.
        """
        try:
            async for frame in self._call:
                for answer in frame.items:
                    self._answered(answer)
                if frame.leaving:
                    self.retired = True
                    on_leaving()
        except grpc.aio.AioRpcError as error:
            failure = remote_error(error)
            self._fail(failure)
            raise failure from error
        finally:
            self.retired = True
        # A stream that ends well has answered all that the server read: the rest was never begun.
        self.left_over = list(self.in_flight.values())
        self.in_flight.clear()

    def _answered(self, answer: Any) -> None:
        self.answered += 1
        status = answer.status
        if status.more:
            self._show(self.in_flight.get(status.item_id), answer)
            return
        waiting = self.in_flight.pop(status.item_id, None)
        if waiting is None or waiting.future.done():
            return
        if status.HasField("error"):
            waiting.future.set_exception(from_status(status.error))
        else:
            waiting.future.set_result(answer)

    def _show(self, waiting: Waiting | None, piece: Any) -> None:
        if waiting is not None and waiting.on_piece is not None and not waiting.future.done():
            waiting.on_piece(piece)

    def _fail(self, failure: MeshError) -> None:
        for waiting in self.in_flight.values():
            if not waiting.future.done():
                waiting.future.set_exception(failure)
        self.in_flight.clear()
