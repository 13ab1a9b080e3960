"""The ways from an engine to a worker and back. Frames are encoded already; every route carries the same bytes."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import nats.js.errors
from messages import GRPC_OPTIONS, METHOD, pb
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

#: Leases that a worker takes at a time.
CREDITS = 2_000
#: Frames on their way to JetStream that it has not confirmed.
UNCONFIRMED = 64
#: Messages in one pull request, and how long it stands.
PULLED, PULL_SECONDS = 64, 30
STREAM, WORK, NOW = "LOOP", "loop.work.none", "loop.now.none"

Receive = Callable[[bytes], None]
Encoded = list[bytes]


def field(number: int, value: bytes) -> bytes:
    """Encodes a field of bytes; joined, such fields are a message."""
    head = bytearray((number << 3 | 2,))
    size = len(value)
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + value


class Streams:
    """Owner-pushed: workers dial the engine, say how much they take, and are pushed leases."""

    def __init__(self, receive: Receive, frame: int) -> None:
        self._receive = receive
        self.frame = frame
        self._sessions: list[_Session] = []
        #: Leases without a worker to take them; the engine's bound on open steps bounds it.
        self.waiting: deque[bytes] = deque()

    async def open(self) -> int:
        self._server = grpc.aio.server(options=GRPC_OPTIONS)
        method = grpc.stream_stream_rpc_method_handler(self._work)
        service, name = METHOD.strip("/").split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def send(self, leases: Encoded) -> None:
        self.waiting.extend(leases)
        self._pump()

    def _pump(self) -> None:
        waiting = self.waiting
        while waiting:
            session = max(self._sessions, key=lambda one: one.credits, default=None)
            if session is None or session.credits <= 0:
                return
            count = min(len(waiting), self.frame, session.credits)
            session.credits -= count
            session.frames.append(b"".join([waiting.popleft() for _ in range(count)]))
            session.wake.set()

    async def _work(self, _requests: Any, context: Any) -> None:
        session = _Session()
        self._sessions.append(session)
        writer = asyncio.create_task(self._write(session, context))
        try:
            while (frame := await context.read()) is not grpc.aio.EOF:
                taken = self._receive(frame)
                session.credits += taken
                self._pump()
        finally:
            self._sessions.remove(session)
            writer.cancel()

    @staticmethod
    async def _write(session: "_Session", context: Any) -> None:
        while True:
            await session.wake.wait()
            session.wake.clear()
            while session.frames:
                await context.write(session.frames.popleft())

    async def close(self) -> None:
        await self._server.stop(0)


class _Session:
    def __init__(self) -> None:
        self.credits = 0
        self.frames: deque[bytes] = deque()
        self.wake = asyncio.Event()


async def work_streams(target: str, handle: Callable[[bytes], bytes]) -> None:
    """The worker's end; runs until cancelled or until the engine has gone."""
    async with grpc.aio.insecure_channel(target, options=GRPC_OPTIONS) as channel:
        call = channel.stream_stream(METHOD)()
        with suppress(grpc.aio.AioRpcError):
            await call.write(pb.WorkerFrame(credits=CREDITS).SerializeToString())
            while (frame := await call.read()) is not grpc.aio.EOF:
                await call.write(handle(frame))


class OverNats:
    """Over NATS: a JetStream work queue, confirmed or not, or a core queue group. Results come by core NATS."""

    def __init__(self, receive: Receive, frame: int, client: Client, *, subject: str, confirmed: bool) -> None:
        self._receive = receive
        self.frame = frame
        self._client = client
        self._jetstream = client.jetstream()
        self._subject = subject
        self._confirmed = confirmed
        self._results = client.new_inbox()
        self._reply_to = field(2, self._results.encode())
        self.waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._turns = asyncio.Semaphore(UNCONFIRMED)
        self._publishing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        async def take(message: Msg) -> None:
            self._receive(message.data)

        self._subscription = await self._client.subscribe(self._results, cb=take)
        self._task = asyncio.create_task(self._publish())

    def send(self, leases: Encoded) -> None:
        self.waiting.extend(leases)
        self._wake.set()

    async def _publish(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.waiting:
                count = min(len(self.waiting), self.frame)
                frame = b"".join([self.waiting.popleft() for _ in range(count)]) + self._reply_to
                if self._confirmed:
                    await self._turns.acquire()
                    task = asyncio.create_task(self._confirm(frame))
                    self._publishing.add(task)
                    task.add_done_callback(self._publishing.discard)
                else:
                    await self._client.publish(self._subject, frame)

    async def _confirm(self, frame: bytes) -> None:
        try:
            await self._jetstream.publish(self._subject, frame)
        finally:
            self._turns.release()

    async def close(self) -> None:
        self._task.cancel()
        await self._subscription.unsubscribe()


async def declare(client: Client) -> None:
    """Declares the work queue, empty."""
    jetstream = client.jetstream()
    with suppress(nats.js.errors.NotFoundError):
        await jetstream.delete_stream(STREAM)
    config = StreamConfig(
        name=STREAM, subjects=["loop.work.>"], retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.FILE
    )
    await jetstream.add_stream(config)
    consumer = ConsumerConfig(durable_name="none", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=5_000)
    await jetstream.add_consumer(STREAM, consumer)


class Pull:
    """The worker's end of the work queue: requests that stand at the server, renewed before they are used up.

    `fetch` of nats-py may keep the first message until all it asked for are there, or its time is up.
    """

    def __init__(self, client: Client, handle: Callable[[bytes], tuple[str, bytes]]) -> None:
        self._client = client
        self._handle = handle
        self._inbox = client.new_inbox()
        #: Messages that the server may still send.
        self._asked = 0

    async def open(self) -> None:
        await self._client.subscribe(self._inbox, cb=self._take)
        await self._ask()

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        if "Status" in headers:
            self._asked -= int(headers.get("Nats-Pending-Messages", PULLED))
        else:
            self._asked -= 1
            # Taken: from here on the engine's lease says what becomes of it.
            await message.ack()
            await self._client.publish(*self._handle(message.data))
        if self._asked <= PULLED // 2:
            await self._ask()

    async def _ask(self) -> None:
        self._asked += PULLED
        request = json.dumps({"batch": PULLED, "expires": PULL_SECONDS * 10**9})
        await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.none", request.encode(), reply=self._inbox)


async def work_nats(client: Client, handle: Callable[[bytes], tuple[str, bytes]]) -> None:
    """The worker's end of all routes over NATS."""

    async def take(message: Msg) -> None:
        await client.publish(*handle(message.data))

    await client.subscribe(NOW, queue="none", cb=take)
    await Pull(client, handle).open()


class InProcess:
    """No worker at all: the handler runs on the engine's loop. The floor under the others."""

    def __init__(self, receive: Receive, frame: int, handle: Callable[[bytes], bytes]) -> None:
        self._receive = receive
        self.frame = frame
        self._handle = handle
        self.waiting: deque[bytes] = deque()

    def send(self, leases: Encoded) -> None:
        for first in range(0, len(leases), self.frame):
            frame = b"".join(leases[first : first + self.frame])
            asyncio.get_running_loop().call_soon(self._answer, frame)

    def _answer(self, frame: bytes) -> None:
        self._receive(self._handle(frame))

    async def close(self) -> None: ...
