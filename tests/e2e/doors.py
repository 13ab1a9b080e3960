"""Every way into a mesh: the edge and, around it, each service by its own port. For tests that knock everywhere."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import grpc
import grpc.aio
from google.protobuf.message import Message
from yarl import URL

from services.launcher.layout import DataDir
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.signed_token import SigningKey
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import RestCall, Rpc

EDGE: Final = "edge"
_SECONDS: Final = 15.0
#: Calls beyond the rate are made again so often before the test gives up.
_TRIES: Final = 20
#: For what is heard of a watch that has begun. There may be nothing.
_SILENCE_SECONDS: Final = 0.5
#: What gRPC makes of a stream that was refused before its first request was written; why is told to who writes none.
_ENDED_BEFORE: Final = "Internal error from Core"
_NAMES: Final[Mapping[int, str]] = {int(code.value[0]): code.name for code in grpc.StatusCode}

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended."""

    code: str
    reason: str = ""
    message: str = ""
    #: Of a call that succeeded; the first message of a stream.
    body: bytes = b""

    @property
    def short(self) -> str:
        """For lists of what went wrong."""
        return f"{self.code}/{self.reason} {self.message[:120]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Open channels to all doors."""

    channels: Mapping[str, grpc.aio.Channel]
    session: aiohttp.ClientSession
    #: Address of the edge.
    url: str

    def of(self, rpc: Rpc) -> tuple[str, str]:
        """Names the two doors through which an RPC is reached."""
        return EDGE, rpc.path.split(".")[1]

    async def knock(self, door: str, rpc: Rpc, request: Message | bytes, headers: Headers) -> Answer:
        """Makes a call; waits and tries again where only the rate was too high."""
        return await _patiently(lambda: self._call(door, rpc, request, headers))

    async def knock_by_rest(self, call: RestCall, headers: Headers) -> Answer:
        """Makes a call through the edge by REST, as patiently."""
        return await _patiently(lambda: self._ask(call, headers))

    async def _call(
        self, door: str, rpc: Rpc, request: Message | bytes, headers: Headers, *, silent: bool = False
    ) -> Answer:
        channel: Any = self.channels[door]
        kind = channel.unary_stream if rpc.streams else channel.unary_unary
        if rpc.method.client_streaming:
            kind = channel.stream_stream
        start = kind(rpc.path, request_serializer=_written, response_deserializer=bytes)
        try:
            asked = _alone(request, silent) if rpc.method.client_streaming else request
            call = start(asked, metadata=headers, timeout=_SECONDS)
            if not rpc.streams:
                return Answer("OK", body=await call)
            # One that is fed ends with what it is fed by. A watch says that it has begun, or is refused, before it says
            # anything else: however long that takes, silence after it means that its caller was let in.
            silence = _SECONDS
            if not rpc.method.client_streaming:
                await call.initial_metadata()
                silence = _SILENCE_SECONDS
            body = await asyncio.wait_for(call.read(), silence)
            if body is grpc.aio.EOF:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
                body = b""
            call.cancel()
            return Answer("OK", body=body)
        except TimeoutError:
            return Answer("OK")
        except grpc.aio.AioRpcError as error:
            if error.details() == _ENDED_BEFORE and not silent:
                return await self._call(door, rpc, request, headers, silent=True)
            return Answer(error.code().name, remote_error(error).reason, error.details() or "")

    async def _ask(self, call: RestCall, headers: Headers) -> Answer:
        address = URL(f"{self.url}{call.path}", encoded=True)
        async with self.session.request(call.verb, address, json=call.body, headers=headers) as answer:
            if answer.status == 200:
                return Answer("OK", body=await _beginning(answer))
            text = await answer.text()
        try:
            told: Any = json.loads(text)
        except ValueError:
            # Of the edge itself, which knows no such path.
            return Answer(f"HTTP {answer.status}", message=text)
        reasons = [detail["reason"] for detail in told.get("details", []) if "reason" in detail]
        return Answer(_NAMES[told["code"]], reasons[0] if reasons else "", told["message"])


async def _patiently(make: Callable[[], Awaitable[Answer]]) -> Answer:
    answer = await make()
    for _ in range(_TRIES):
        if answer.reason not in ("RATE_LIMITED", "TOO_MANY_IN_PROGRESS"):
            break
        await asyncio.sleep(0.3)
        answer = await make()
    return answer


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """Reads an answer; of a stream what it says at once."""
    if answer.content_type != "text/event-stream":
        return await answer.read()
    try:
        return await asyncio.wait_for(answer.content.readline(), _SILENCE_SECONDS)
    except TimeoutError:
        return b""


async def _alone(request: Message | bytes, silent: bool) -> AsyncGenerator[Message | bytes]:
    """A stream of one request, or of none."""
    if not silent:
        yield request


def _written(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


@asynccontextmanager
async def open_doors(mesh: RunningMesh) -> AsyncGenerator[Doors]:
    """Opens a channel to the edge and to each service."""
    targets = {EDGE: mesh.target, **mesh.addresses.services}
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with AsyncExitStack() as stack:
        yield Doors(
            channels={
                name: await stack.enter_async_context(grpc.aio.insecure_channel(target))
                for name, target in targets.items()
            },
            session=await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout)),
            url=mesh.url,
        )


def bearer(token: str) -> Headers:
    """Gives the header that carries a token."""
    return (("authorization", f"Bearer {token}"),)


def shown_by(mesh: RunningMesh, service: str) -> Headers:
    """Gives what a service of this mesh proves its name with."""
    key = SigningKey.read(DataDir(mesh.data_dir).workload_key(service))
    return (("comitia-workload", WorkloadSigner(service, key, clock=SystemClock()).assertion()),)


async def at_once(most: int, work: Iterable[Any]) -> list[Any]:
    """Awaits many things, so many at once; gives what they gave, in order."""
    seats = asyncio.Semaphore(most)

    async def one(thing: Any) -> Any:
        async with seats:
            return await thing

    return await asyncio.gather(*(one(thing) for thing in work))
