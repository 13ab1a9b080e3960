"""Every way into a mesh: the edge and, around it, each service by its own port. For tests that knock everywhere."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from services.meshkit.grpc.errors import remote_error
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import Rpc

EDGE: Final = "edge"
_SECONDS: Final = 15.0
#: Calls beyond the rate are made again so often before the test gives up.
_TRIES: Final = 20

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


@dataclass(frozen=True, slots=True)
class Doors:
    """Open channels to all doors."""

    channels: Mapping[str, grpc.aio.Channel]

    def of(self, rpc: Rpc) -> tuple[str, str]:
        """Names the two doors through which an RPC is reached."""
        return EDGE, rpc.path.split(".")[1]

    async def knock(self, door: str, rpc: Rpc, request: Message | bytes, headers: Headers) -> Answer:
        """Makes a call; waits and tries again where only the rate was too high."""
        answer = await self._call(door, rpc, request, headers)
        for _ in range(_TRIES):
            if answer.reason not in ("RATE_LIMITED", "TOO_MANY_IN_PROGRESS"):
                break
            await asyncio.sleep(0.3)
            answer = await self._call(door, rpc, request, headers)
        return answer

    async def _call(
        self, door: str, rpc: Rpc, request: Message | bytes, headers: tuple[tuple[str, str], ...]
    ) -> Answer:
        channel: Any = self.channels[door]
        kind = channel.unary_stream if rpc.streams else channel.unary_unary
        if rpc.method.client_streaming:
            kind = channel.stream_stream
        start = kind(rpc.path, request_serializer=_written, response_deserializer=bytes)
        try:
            # Nothing is written to a stream of requests: who may not open one is told so without.
            asked = () if rpc.method.client_streaming else (request,)
            call = start(*asked, metadata=headers, timeout=_SECONDS)
            if not rpc.streams:
                return Answer("OK", body=await call)
            # A stream that has nothing to say yet has let its caller in, too.
            body = await asyncio.wait_for(call.read(), 0.5)
            if body is grpc.aio.EOF:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
                body = b""
            call.cancel()
            return Answer("OK", body=body)
        except TimeoutError:
            return Answer("OK")
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name, remote_error(error).reason, error.details() or "")


def _written(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


@asynccontextmanager
async def open_doors(mesh: RunningMesh) -> AsyncGenerator[Doors]:
    """Opens a channel to the edge and to each service."""
    targets = {EDGE: mesh.target, **mesh.addresses.services}
    async with AsyncExitStack() as stack:
        yield Doors(
            {
                name: await stack.enter_async_context(grpc.aio.insecure_channel(target))
                for name, target in targets.items()
            }
        )


def bearer(token: str) -> Headers:
    """Gives the header that carries a token."""
    return (("authorization", f"Bearer {token}"),)


async def at_once(most: int, work: Iterable[Any]) -> list[Any]:
    """Awaits many things, so many at once; gives what they gave, in order."""
    seats = asyncio.Semaphore(most)

    async def one(thing: Any) -> Any:
        async with seats:
            return await thing

    return await asyncio.gather(*(one(thing) for thing in work))
