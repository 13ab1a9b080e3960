"""Takes messages off a stream one by one, and never loses nor repeats one silently."""

# pyright: reportUnknownMemberType=false
# nats-py leaves the type of its keyword arguments open.

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from services.meshkit.bus.bus import Bus
from services.meshkit.bus.dead_letter import REPLAY_FOR, bury
from services.meshkit.bus.subjects import StreamSpec
from services.meshkit.core.errors import ErrorKind, MeshError, Unavailable
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Failures of the surroundings: the message is tried again for as long as they last.
_NOT_ITS_FAULT: Final = frozenset(
    {ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED, ErrorKind.DEADLINE, ErrorKind.CANCELLED, ErrorKind.CONFLICT}
)
#: A message that was delivered this often without an answer kills its consumers; it is buried unread.
_MOST_DELIVERIES: Final = 200
_FETCH_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 1.0
_LONGEST_DELAY_SECONDS: Final = 30.0


class Poison(Exception):
    """The handler says: this message can never be handled. It goes to the dead letter with this reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of a stream; it may come more than once."""

    subject: str
    body: bytes
    #: `Nats-Msg-Id`: the outbox id.
    msg_id: str
    #: 1 at the first delivery.
    deliveries: int
    headers: Mapping[str, str]


Handle = Callable[[Message], Awaitable[None]]


class Consumer:
    """A durable pull consumer: acknowledges after `handle` returned, which must be after its commit.

    A message that fails `max_deliveries` times by its own fault, or at once with `Poison`, goes to the dead letter
    with the reason; `dead_letter.replay` brings it back. Replicas with the same durable share the work.

    Args:
        durable: name of this consumer on the stream, `<service>-<what>`.
        subjects: filter; empty takes all of the stream.
        concurrency: most messages in work at a time.
        ack_seconds: the server delivers again when it hears nothing for so long; longer work is extended.
    """

    def __init__(
        self,
        bus: Bus,
        stream: StreamSpec,
        durable: str,
        handle: Handle,
        *,
        subjects: tuple[str, ...] = (),
        concurrency: int = 16,
        max_deliveries: int = 5,
        ack_seconds: float = 30.0,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._durable = durable
        self._handle = handle
        self._subjects = subjects
        self._concurrency = concurrency
        self._max_deliveries = max_deliveries
        self._ack_seconds = ack_seconds
        #: By reply subject, which is unique per delivery.
        self._in_work: dict[str, Msg] = {}
        self._freed = asyncio.Event()
        #: Counts since the start, for metrics.
        self.handled = 0
        self.failed = 0
        self.buried = 0

    async def __call__(self) -> None:
        """Consumes until cancelled; messages in work are then delivered again later."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._extend())
            while True:
                try:
                    await self._consume(group)
                except (nats.errors.Error, OSError, Unavailable) as error:
                    log.warning("consumer waits", durable=self._durable, cause=str(error) or type(error).__name__)
                    await asyncio.sleep(_PAUSE_SECONDS)

    async def _consume(self, group: asyncio.TaskGroup) -> None:
        source = await self._bind()
        try:
            while True:
                while (free := self._concurrency - len(self._in_work)) == 0:
                    self._freed.clear()
                    await self._freed.wait()
                try:
                    messages = await source.fetch(free, timeout=_FETCH_SECONDS)
                except nats.errors.TimeoutError:
                    await source.consumer_info()  # raises when the stream was emptied under us
                    continue
                for message in messages:
                    self._in_work[message.reply] = message
                    group.create_task(self._work(message))
        finally:
            await source.unsubscribe()

    async def _bind(self) -> JetStreamContext.PullSubscription:
        await self._bus.declare(self._stream)
        jetstream = self._bus.jetstream()
        await jetstream.add_consumer(
            self._stream.name,
            ConsumerConfig(
                durable_name=self._durable,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._ack_seconds,
                max_deliver=-1,  # the dead letter is ours to write; the server would drop in silence
                max_ack_pending=max(self._concurrency * 4, 64),
                filter_subjects=list(self._subjects) or None,
            ),
        )
        return await jetstream.pull_subscribe_bind(durable=self._durable, stream=self._stream.name)

    async def _work(self, raw: Msg) -> None:
        try:
            await self._answer(raw)
        except (nats.errors.Error, OSError, Unavailable) as error:
            # The answer did not reach the server, so the message comes again.
            log.warning("message unanswered", durable=self._durable, cause=str(error) or type(error).__name__)
        finally:
            self._in_work.pop(raw.reply, None)
            self._freed.set()

    async def _answer(self, raw: Msg) -> None:
        headers = raw.headers or {}
        if headers.get(REPLAY_FOR, self._durable) != self._durable:
            await raw.ack()
            return
        message = Message(
            subject=raw.subject,
            body=raw.data,
            msg_id=headers.get("Nats-Msg-Id", ""),
            deliveries=raw.metadata.num_delivered,
            headers=headers,
        )
        if message.deliveries > _MOST_DELIVERIES:
            await self._bury(raw, f"delivered {message.deliveries} times without an answer")
            return
        try:
            await self._handle(message)
        except Poison as reason:
            await self._bury(raw, str(reason))
        except Exception as error:  # noqa: BLE001  the consumer loop is where unforeseen failures end
            await self._retry_or_bury(raw, message, error)
        else:
            await raw.ack()
            self.handled += 1

    async def _retry_or_bury(self, raw: Msg, message: Message, error: Exception) -> None:
        self.failed += 1
        surroundings = isinstance(error, MeshError) and error.kind in _NOT_ITS_FAULT
        if message.deliveries >= self._max_deliveries and not surroundings:
            await self._bury(raw, f"{type(error).__name__}: {error}")
            return
        log.warning(
            "message failed; it comes again",
            durable=self._durable,
            subject=message.subject,
            deliveries=message.deliveries,
            exc_info=None if surroundings else error,
        )
        await raw.nak(delay=min(0.1 * 2 ** min(message.deliveries, 16), _LONGEST_DELAY_SECONDS))

    async def _bury(self, raw: Msg, reason: str) -> None:
        await bury(self._bus, raw, durable=self._durable, reason=reason)
        await raw.term()
        self.buried += 1
        log.error("message buried", durable=self._durable, subject=raw.subject, reason=reason)

    async def _extend(self) -> None:
        """Tells the server that slow work is still going on."""
        while True:
            await asyncio.sleep(self._ack_seconds / 3)
            for message in tuple(self._in_work.values()):
                try:
                    await message.in_progress()
                except (nats.errors.Error, OSError):
                    break  # answered meanwhile, or the connection is away: then it comes again
