"""gRPC of the experiment: every RPC as a unary call, and as an item of a batch stream. Both run the same handler.

A handler answers with a message, or with an awaitable of one; the stream answers the first kind in the same tick.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_tools import protoc
from identity import Caller, TokenVerifier, Unauthenticated

OPTIONS = [("grpc.max_receive_message_length", 4 << 20), ("grpc.so_reuseport", 0)]
CALL_SECONDS = 30
#: Items in one frame, both ways; what is left goes into the next.
FRAME_BOUND = 500

Handler = Callable[[Any, Caller], Message | Awaitable[Message]]


def compile_proto() -> ModuleType:
    """Compiles seams.proto into a temporary directory and imports it."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as out:
        if protoc.main(["protoc", f"-I{here}", f"--python_out={out}", str(here / "seams.proto")]) != 0:
            raise SystemExit("seams.proto does not compile")
        sys.path.insert(0, out)
        import seams_pb2

        sys.path.remove(out)
    return seams_pb2


pb = compile_proto()
Frame, Item = pb.Frame, pb.Item
#: "Cost.Reserve" -> its request and response classes.
METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    f"{service.name}.{method.name}": (
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def _path(method: str) -> str:
    return f"/seams.{method.replace('.', '/')}"


class Stream:
    """Client side of a batch stream: calls that are made in one loop tick leave as one frame."""

    def __init__(self, open_stream: Callable[[], Any]) -> None:
        self._call = open_stream()
        self._items: list[Any] = []
        self._new_tokens: list[str] = []
        self._identities: dict[str, int] = {}
        self._answers: dict[int, tuple[asyncio.Future[Message], type[Message]]] = {}
        self._next_id = 0
        self._wake = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    def call(self, method: str, request: Message, token: str) -> asyncio.Future[Message]:
        identity = self._identities.get(token)
        if identity is None:
            identity = self._identities[token] = len(self._identities)
            self._new_tokens.append(token)
        self._next_id += 1
        deadline = int((time.time() + CALL_SECONDS) * 1000)
        body = request.SerializeToString()
        self._items.append(
            Item(id=self._next_id, identity=identity, method=method, deadline_unix_ms=deadline, body=body)
        )
        self._wake.set()
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[self._next_id] = (future, METHODS[method][1])
        return future

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            frame = Frame(items=self._items[:FRAME_BOUND], tokens=self._new_tokens)
            self._items, self._new_tokens = self._items[FRAME_BOUND:], []
            if not self._items:
                self._wake.clear()
            await self._call.write(frame)

    async def _read(self) -> None:
        while (frame := await self._call.read()) is not grpc.aio.EOF:
            for item in frame.items:
                future, answer = self._answers.pop(item.id)
                if item.error:
                    future.set_exception(RuntimeError(item.error))
                else:
                    future.set_result(answer.FromString(item.body))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._call.cancel()


class Peer:
    """One neighbour. `call` goes by itself or in a frame; the answer is the same."""

    def __init__(self, service: str, target: str, workload: str) -> None:
        self._workload = ("comitia-workload", workload)
        self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        self._unary = {
            method: self._channel.unary_unary(
                _path(method),
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for method, (request, response) in METHODS.items()
            if method.startswith((f"{service}.", "Control."))
        }
        self._open = partial(
            self._channel.stream_stream(
                _path(f"{service}.Batch"),
                request_serializer=Frame.SerializeToString,
                response_deserializer=Frame.FromString,
            ),
            metadata=(self._workload,),
        )
        self._stream: Stream | None = None

    def call(self, method: str, request: Message, token: str, *, framed: bool) -> Awaitable[Any]:
        if not framed:
            metadata = (("authorization", f"Bearer {token}"), self._workload)
            return self._unary[method](request, metadata=metadata, timeout=CALL_SECONDS)
        if self._stream is None:
            self._stream = Stream(self._open)
        return self._stream.call(method, request, token)

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        await self._channel.close()


class Replies:
    """Server side of a batch stream: answers that are ready in one loop tick leave as one frame."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._items: list[Any] = []
        self._wake = asyncio.Event()

    def add(self, item_id: int, answer: Message) -> None:
        self._items.append(Item(id=item_id, body=answer.SerializeToString()))
        self._wake.set()

    def add_done(self, item_id: int, future: asyncio.Future[Message]) -> None:
        if (error := future.exception()) is None:
            self.add(item_id, future.result())
        else:
            self._items.append(Item(id=item_id, error=repr(error)))
            self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            items, self._items = self._items[:FRAME_BOUND], self._items[FRAME_BOUND:]
            if not self._items:
                self._wake.clear()
            await self._context.write(Frame(items=items))


class Node:
    """Server of one service: checks both tokens, then runs the handler."""

    def __init__(self, service: str, tokens: TokenVerifier, workloads: TokenVerifier) -> None:
        self._service, self._tokens, self._workloads = service, tokens, workloads

    def register(self, server: grpc.aio.Server, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        for service in {method.partition(".")[0] for method in handlers}:
            methods = {
                method.partition(".")[2]: grpc.unary_unary_rpc_method_handler(
                    partial(self._unary, handler, service == "Control"),
                    request_deserializer=METHODS[method][0].FromString,
                    response_serializer=METHODS[method][1].SerializeToString,
                )
                for method, handler in handlers.items()
                if method.startswith(f"{service}.")
            }
            if service == self._service:
                methods["Batch"] = grpc.stream_stream_rpc_method_handler(
                    self._batch, request_deserializer=Frame.FromString, response_serializer=Frame.SerializeToString
                )
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"seams.{service}", methods),))

    async def _unary(
        self, handler: Handler, control: bool, request: Message, context: grpc.aio.ServicerContext
    ) -> Message:
        caller = None if control else await self._caller(context)
        answer = handler(request, caller)
        return answer if isinstance(answer, Message) else await answer

    async def _caller(self, context: grpc.aio.ServicerContext) -> Caller:
        metadata = dict(context.invocation_metadata())
        try:
            self._workloads.verify(metadata["comitia-workload"])
            return self._tokens.verify(metadata["authorization"].removeprefix("Bearer "))
        except Unauthenticated as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    async def _batch(self, _: Any, context: grpc.aio.ServicerContext) -> None:
        self._workloads.verify(dict(context.invocation_metadata())["comitia-workload"])
        callers: list[Caller] = []
        replies = Replies(context)
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(replies.run())
            while (frame := await context.read()) is not grpc.aio.EOF:
                callers += map(self._tokens.verify, frame.tokens)
                now = time.time()
                for item in frame.items:
                    caller = callers[item.identity]
                    if caller.expires <= now:
                        raise Unauthenticated("token has expired")
                    answer = self._handlers[item.method](METHODS[item.method][0].FromString(item.body), caller)
                    if isinstance(answer, Message):
                        replies.add(item.id, answer)
                    else:
                        asyncio.ensure_future(answer).add_done_callback(partial(replies.add_done, item.id))
            writer.cancel()
