"""One place in the client's row of batch streams: keeps a stream open, replaces it when it is old, full or broken."""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

from services.meshkit.batching.client_stream import ClientStream, Waiting
from services.meshkit.batching.frames import MakeFrame
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.retry import Backoff
from services.meshkit.grpc.incidents import incident
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Shares of its time that a stream may get: all that opened together would be replaced together.
SPREAD: Final = (0.8, 1.2)


class Lane:
    """Writes what is pending to its stream, frame by frame. While a frame is being written the next one gathers.

    Args:
        open_stream: the batch method of a stub, called without arguments.
        stream_seconds: age at which a stream is replaced, so that new replicas get work.
    """

    def __init__(
        self,
        open_stream: Callable[[], Any],
        *,
        name: str,
        make_frame: MakeFrame,
        clock: Clock,
        random: Random,
        backoff: Backoff,
        stream_seconds: float,
    ) -> None:
        self._open_stream = open_stream
        self._name = name
        self._make_frame = make_frame
        self._clock = clock
        self._random = random
        self._backoff = backoff
        self._stream_seconds = stream_seconds * random.uniform(*SPREAD)
        self._waits = backoff.waits(random)
        self._broken = False
        self._current: ClientStream | None = None
        self._streams: dict[ClientStream, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._sizes = metrics.BATCH_ITEMS.labels(name)
        self.pending: deque[Waiting] = deque()

    @property
    def load(self) -> int:
        """Calls that wait for an answer here."""
        return len(self.pending) + sum(len(stream.in_flight) for stream in self._streams)

    def send(self, waiting: Waiting) -> None:
        """Takes a call on; it leaves in the next frame."""
        self.pending.append(waiting)
        self._wake.set()

    def forget(self, waiting: Waiting) -> None:
        """Takes a call back whose caller does not wait any more."""
        if waiting.stream is not None:
            waiting.stream.forget(waiting)
            self._wake.set()

    def waiting(self) -> list[Waiting]:
        """Gives all calls that wait here."""
        return [*self.pending, *(one for stream in self._streams for one in stream.in_flight.values())]

    async def run(self) -> None:
        """Works until cancelled."""
        try:
            while True:
                while not self.pending and not self._is_wanted(self._current):
                    self._wake.clear()
                    await self._wake.wait()
                try:
                    if self._current is not None and self._current.retired:
                        await self._finish(self._current)
                    else:
                        await self._send_frame()
                except Exception as error:  # noqa: BLE001  # a consumer loop: the callers get it, the loop goes on
                    self._fail_pending(incident(error, method=self._name))
        finally:
            for stream, reader in self._streams.items():
                stream.cancel()
                reader.cancel()
            await asyncio.gather(*self._streams.values(), return_exceptions=True)

    @staticmethod
    def _is_wanted(stream: ClientStream | None) -> bool:
        """True when the stream has something to say without an item that waits."""
        return stream is not None and (stream.has_news or stream.retired)

    async def _finish(self, stream: ClientStream) -> None:
        self._current = None
        await stream.finish()

    async def _send_frame(self) -> None:
        stream = await self._usable_stream()
        before = stream.last_id
        try:
            frame = stream.take(self.pending)
            if frame.items:
                self._sizes.observe(len(frame.items))
                await stream.write(frame)
        except Exception as error:  # noqa: BLE001  # the callers of this frame get it, all others go on
            stream.give_up_after(before, incident(error, method=self._name))
        if stream.retired:
            await self._finish(stream)

    async def _usable_stream(self) -> ClientStream:
        now = self._clock.monotonic()
        current = self._current
        if current is not None and not current.retired and now - current.opened < self._stream_seconds:
            return current
        if current is not None:
            await self._finish(current)
        if self._broken:
            self._broken = False
            await self._clock.sleep(next(self._waits, self._backoff.most_seconds))
        stream = ClientStream(self._open_stream(), opened=self._clock.monotonic(), make_frame=self._make_frame)
        self._current = stream
        self._streams[stream] = asyncio.create_task(self._read(stream), name=f"{self._name}-reader")
        return stream

    async def _read(self, stream: ClientStream) -> None:
        try:
            await stream.read(self._wake.set)
        except MeshError as error:
            log.info("batch stream broke", stream=self._name, error=str(error), reason=error.reason)
        finally:
            del self._streams[stream]
        if stream.answered:
            self._waits = self._backoff.waits(self._random)
        else:
            self._broken = True
        self.pending.extendleft(one for one in reversed(stream.left_over) if not one.future.done())
        self._wake.set()

    def _fail_pending(self, error: MeshError) -> None:
        for waiting in self.waiting():
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self.pending.clear()
