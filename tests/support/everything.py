"""A service that serves every RPC there is, and a call of any RPC with nothing in it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.call import peer_of
from services.meshkit.grpc.errors import remote_error
from tests.support.public_rpcs import INTERNAL, PUBLIC, Rpc


@dataclass
class Everything:
    """Answers every RPC of the contracts with an empty message, and remembers who asked."""

    peer: str | None = None
    #: Calls that came this far.
    calls: int = 0
    #: Streams that are open.
    streams: int = 0
    #: What calls are refused with.
    refuses: MeshError | None = None
    #: Metadata of the last call.
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    #: Certificates that callers showed.
    shown: set[bytes] = field(default_factory=set[bytes])
    #: Streams wait for it between two messages.
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    #: Other calls wait for it.
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.goes_on.set()
        self.answers.set()

    def _remember(self, context: Any) -> None:
        self.peer = peer_of(context)
        self.calls += 1
        self.metadata = tuple(context.invocation_metadata())
        self.shown.update(context.auth_context().get("x509_pem_cert", ()))

    def register(self, server: Any) -> None:
        services: dict[str, dict[str, Any]] = {}
        for rpc in (*INTERNAL, *PUBLIC):
            _, service, name = rpc.path.split("/")
            services.setdefault(service, {})[name] = self._handler(rpc)
        for service, handlers in services.items():
            server.add_registered_method_handlers(service, handlers)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    def _handler(self, rpc: Rpc) -> Any:
        async def one(request: Any, context: Any) -> Any:
            self._remember(context)
            if self.refuses is not None:
                raise self.refuses
            await self.answers.wait()
            return rpc.response_class()

        async def several(request: Any, context: Any) -> AsyncGenerator[Any]:
            self._remember(context)
            self.streams += 1
            try:
                yield rpc.response_class()
                await self.goes_on.wait()
                yield rpc.response_class()
            finally:
                self.streams -= 1

        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[rpc.method.client_streaming, rpc.streams]
        return make(
            several if rpc.streams else one,
            request_deserializer=rpc.request_class.FromString,
            response_serializer=rpc.response_class.SerializeToString,
        )


async def refusal(rpc: Rpc, opened: grpc.aio.Channel, metadata: Any, *, timeout: float = 5) -> MeshError | None:
    """Calls with an empty request and gives what it was refused with, None for an answer."""
    kind: Any = {
        (False, False): opened.unary_unary,
        (False, True): opened.unary_stream,
        (True, False): opened.stream_unary,
        (True, True): opened.stream_stream,
    }[rpc.method.client_streaming, rpc.streams]
    start = kind(
        rpc.path,
        request_serializer=rpc.request_class.SerializeToString,
        response_deserializer=rpc.response_class.FromString,
    )
    empty = rpc.request_class()
    try:
        if rpc.method.client_streaming:
            # Nothing is written: who may not open a stream is told so without.
            call = start(metadata=metadata, timeout=timeout)
            await call.done_writing()
        else:
            call = start(empty, metadata=metadata, timeout=timeout)
        if not rpc.streams:
            await call
        else:
            await call.read()
            call.cancel()
    except grpc.aio.AioRpcError as error:
        return remote_error(error)
    return None
