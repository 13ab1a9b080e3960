"""The connection to NATS. It comes up by itself, and a service starts without it."""

# pyright: reportUnknownMemberType=false
# nats-py leaves the type of its keyword arguments open.

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Final

import nats.aio.transport
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from services.meshkit.bus.live import LiveMessage, LiveSubscription
from services.meshkit.bus.subjects import DEAD_LETTERS, StreamSpec
from services.meshkit.core.errors import Internal, Invalid, Unavailable
from services.meshkit.core.secret import Secret
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Pause before a cancellation is repeated that was lost.
_CANCEL_SECONDS: Final = 0.5
_RECONNECT_SECONDS: Final = 0.5
_CONNECT_TIMEOUT_SECONDS: Final = 2
_REQUEST_TIMEOUT_SECONDS: Final = 5.0
#: Server's error code for a stream of that name with another configuration.
_STREAM_NAME_IN_USE: Final = 10058


class SubjectUnknown(Internal):
    """No stream that this service declared keeps this subject."""

    reason = "BUS_SUBJECT_UNKNOWN"


class MessageTooLarge(Invalid):
    """The message is above what the bus carries; put the payload in a blob and send its reference."""

    reason = "BUS_MESSAGE_TOO_LARGE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to publish."""

    subject: str
    body: bytes
    #: The stream drops a second message with this id within its duplicate window.
    msg_id: str


class Bus:
    """Publishes and subscribes. Made by `bus(…)`."""

    def __init__(self, url: str, token: str | None, streams: Sequence[StreamSpec]) -> None:
        self._url = Secret(url)
        self._token = None if token is None else Secret(token)
        self._streams = {stream.name: stream for stream in (DEAD_LETTERS, *streams)}
        self._client: Client | None = None
        self._subscriptions: dict[LiveSubscription, Subscription | None] = {}
        self._listening = asyncio.Lock()
        self._changed = asyncio.Event()
        self._ready = asyncio.Event()
        #: Live messages that were not sent because the bus was away, for metrics.
        self.live_unsent = 0

    @property
    def connected(self) -> bool:
        """Tells whether messages can be sent right now."""
        return self._client is not None and self._client.is_connected

    async def wait_connected(self) -> None:
        """Waits until the bus is connected and its streams are declared; for tests and tools, not for start-up."""
        await self._ready.wait()

    async def publish(
        self, subject: str, body: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Puts a message on its stream and returns once the stream has it.

        Args:
            msg_id: the stream drops a second message with this id within its duplicate window.
        Raises: Unavailable: the bus is away. SubjectUnknown: no declared stream keeps the subject.
            MessageTooLarge: above the server's limit.
        """
        if not any(stream.covers(subject) for stream in self._streams.values()):
            raise SubjectUnknown("no declared stream keeps this subject", subject=subject)
        try:
            await self.jetstream().publish(
                subject, body, timeout=_REQUEST_TIMEOUT_SECONDS, headers={**(headers or {}), "Nats-Msg-Id": msg_id}
            )
        except nats.errors.MaxPayloadError as cause:
            raise MessageTooLarge("body", f"{len(body)} bytes are above what the bus carries") from cause
        except nats.js.errors.NoStreamResponseError as cause:
            self._changed.set()  # the streams are gone: declare them again, the caller retries
            raise Unavailable("nats", subject=subject) from cause
        except (nats.errors.Error, OSError) as cause:
            raise Unavailable("nats", subject=subject) from cause

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        """Puts messages of one stream on it, and returns once the stream has answered for the last of them.

        A stream takes what comes over one connection in order, so its answer to the last one speaks for all before.
        That costs a tenth of one answer each, and is right for what may be lost: a message that the stream alone
        refused is not noticed.

        Raises: as `publish`; what was sent by then may be on the stream, and sending it again does no harm.
        """
        if not messages:
            return
        client = self._client
        if client is None or not client.is_connected:
            raise Unavailable("nats")
        *first, last = messages
        try:
            for message in first:
                await client.publish(message.subject, message.body, headers={"Nats-Msg-Id": message.msg_id})
        except nats.errors.MaxPayloadError as cause:
            raise MessageTooLarge("body", "a message is above what the bus carries") from cause
        except (nats.errors.Error, OSError) as cause:
            raise Unavailable("nats") from cause
        await self.publish(last.subject, last.body, msg_id=last.msg_id)

    async def count(self, stream: StreamSpec, subject: str) -> int:
        """Counts the messages of a stream on a subject, wildcards allowed. Raises: Unavailable."""
        try:
            state = (await self.jetstream().stream_info(stream.name, subjects_filter=subject)).state
        except nats.js.errors.NotFoundError:
            return 0
        except (nats.errors.Error, OSError) as cause:
            raise Unavailable("nats") from cause
        return sum((state.subjects or {}).values())

    async def purge(self, stream: StreamSpec, subject: str) -> None:
        """Removes the messages of a stream on a subject, wildcards allowed. Raises: Unavailable."""
        try:
            await self.jetstream().purge_stream(stream.name, subject=subject)
        except nats.js.errors.NotFoundError:
            return
        except (nats.errors.Error, OSError) as cause:
            raise Unavailable("nats") from cause

    async def publish_live(self, subject: str, body: bytes) -> bool:
        """Sends a message to those who listen right now; best effort.

        Returns: False when the bus is away and the message was dropped.
        """
        if self._client is None or not self._client.is_connected:
            self.live_unsent += 1
            return False
        try:
            await self._client.publish(subject, body)
        except (nats.errors.Error, OSError):
            self.live_unsent += 1
            return False
        return True

    @asynccontextmanager
    async def subscribe_live(
        self, subject: str, *, group: str = "", most: int = 256
    ) -> AsyncGenerator[LiveSubscription]:
        """Listens on a live subject (wildcards allowed) until the block ends; also across reconnects.

        Args:
            group: of those with the same group, one gets each message; empty: everyone does.
            most: messages that may wait for the reader; above it the oldest is dropped and counted.
        """
        listening = LiveSubscription(subject, group=group, most=most)
        self._subscriptions[listening] = None
        try:
            if self._client is not None and self._client.is_connected:
                with suppress(nats.errors.Error, OSError):  # the owner tries again on its next connection
                    await self._listen(self._client, listening)
                    await self._client.flush()
            yield listening
        finally:
            listening.close()
            on_wire = self._subscriptions.pop(listening)
            if on_wire is not None:
                with suppress(nats.errors.Error, OSError):  # a lost connection has no subscriptions
                    await on_wire.unsubscribe()

    async def declare(self, stream: StreamSpec) -> None:
        """Makes or adapts a stream, now if connected, else on connection."""
        self._streams[stream.name] = stream
        if self._client is not None and self._client.is_connected:
            await self._declare(self._client.jetstream(), stream)

    def jetstream(self) -> JetStreamContext:
        """Gives the JetStream context of the current connection.

        Raises: Unavailable: there is none.
        """
        if self._client is None or not self._client.is_connected:
            raise Unavailable("nats")
        return self._client.jetstream(timeout=_REQUEST_TIMEOUT_SECONDS)

    async def keep_connected(self) -> None:
        """Owns the connection until cancelled. Run by `bus(…)`."""
        while True:
            client = Client()
            closed = asyncio.Event()
            try:
                await self._connect(client, closed)
                await self._serve(client, closed)
            except (nats.errors.Error, OSError) as error:
                log.warning("nats connection failed", cause=str(error) or type(error).__name__)
            finally:
                self._ready.clear()
                self._client = None
                self._subscriptions = dict.fromkeys(self._subscriptions)
                await client.close()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connect(self, client: Client, closed: asyncio.Event) -> None:
        said = False

        async def on_error(error: Exception) -> None:
            nonlocal said
            if not said:
                log.warning("nats does not answer; trying on", cause=str(error) or type(error).__name__)
            said = True

        async def on_reconnected() -> None:
            nonlocal said
            said = False
            self._changed.set()

        async def on_closed() -> None:
            closed.set()

        url = self._url.reveal()
        if url.startswith(("ws://", "wss://")):
            # See the first lines of this package.
            setattr(nats.aio.transport, "aiohttp", import_module("aiohttp"))  # noqa: B010
        await client.connect(
            url,
            token=None if self._token is None else self._token.reveal(),
            error_cb=on_error,
            reconnected_cb=on_reconnected,
            closed_cb=on_closed,
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            reconnect_time_wait=_RECONNECT_SECONDS,  # pyright: ignore[reportArgumentType]  (only ever slept)
            max_reconnect_attempts=-1,
            ping_interval=20,
        )

    async def _serve(self, client: Client, closed: asyncio.Event) -> None:
        """Declares and subscribes, again after each reconnect, until the client closes for good."""
        self._client = client
        while not closed.is_set():
            self._changed.clear()
            try:
                for stream in tuple(self._streams.values()):
                    await self._declare(client.jetstream(timeout=_REQUEST_TIMEOUT_SECONDS), stream)
                for listening in tuple(self._subscriptions):
                    await self._listen(client, listening)
                self._ready.set()
            except (nats.errors.Error, OSError) as error:
                log.warning("nats streams are not ready; trying on", cause=str(error) or type(error).__name__)
                await asyncio.sleep(_RECONNECT_SECONDS)
                self._changed.set()
            async with _first_of(closed, self._changed):
                pass

    async def _listen(self, client: Client, listening: LiveSubscription) -> None:
        async def take(message: Msg) -> None:
            listening.put(LiveMessage(message.subject, message.data))

        async with self._listening:
            if self._subscriptions.get(listening, self) is None:
                self._subscriptions[listening] = await client.subscribe(
                    listening.subject, queue=listening.group, cb=take
                )

    async def _declare(self, jetstream: JetStreamContext, stream: StreamSpec) -> None:
        config = StreamConfig(
            name=stream.name,
            subjects=list(stream.subjects),
            retention=RetentionPolicy.WORK_QUEUE if stream.work_queue else RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            max_age=stream.max_age.total_seconds(),
            max_bytes=stream.max_bytes,
            duplicate_window=stream.duplicate_window.total_seconds(),
        )
        try:
            await jetstream.add_stream(config)
        except nats.js.errors.BadRequestError as error:
            if error.err_code != _STREAM_NAME_IN_USE:
                raise
            await jetstream.update_stream(config)


@asynccontextmanager
async def _first_of(*events: asyncio.Event) -> AsyncGenerator[None]:
    """Enters once any of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@asynccontextmanager
async def bus(url: str, *, token: str | None = None, streams: Sequence[StreamSpec] = ()) -> AsyncGenerator[Bus]:
    """Connects to NATS in the background and stays connected until the block ends; never fails because NATS is away.

    Args:
        url: `nats://host:4222`.
        streams: what this service publishes to or consumes from; declared on every connection, since NATS may lose all.
    """
    made = Bus(url, token, streams)
    owner = asyncio.ensure_future(made.keep_connected())
    try:
        yield made
    finally:
        # Again and again: `wait_for` of Python 3.11, by which the client connects, may lose a cancellation.
        while not owner.done():
            owner.cancel()
            await asyncio.wait((owner,), timeout=_CANCEL_SECONDS)
        await asyncio.gather(owner, return_exceptions=True)
