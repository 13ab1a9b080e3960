"""gRPC face of the step pools: one stream for each worker."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any, Final

import grpc
from grpc.aio import ServicerContext

from comitia.orchestrator.v1 import worker_service_pb2 as pb
from comitia.orchestrator.v1 import worker_service_pb2_grpc
from services.meshkit.core.errors import Internal
from services.meshkit.core.failpoints import failpoint
from services.meshkit.grpc.call import caller_of, current_call
from services.meshkit.grpc.limits import begin_watch
from services.orchestrator.domain.errors import WorkerMalformed
from services.orchestrator.engine.leases import Desk
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.transport import worker_messages

#: Time to say hello, and between being told to open another stream and the end of this one, seconds.
_HELLO_SECONDS: Final = 10.0
_LAST_SECONDS: Final = 300.0
#: Refusals that a worker has not read, before nothing more is read of it.
_MOST_UNTOLD: Final = 1_000
_SERVICE: Final = "comitia.orchestrator.v1.WorkerService"


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Reads what workers say, and writes what they are told, frame by frame."""

    def __init__(self, pools: StepPools) -> None:
        self._pools = pools

    def registration(self, server: Any) -> None:
        """Adds the service to a server. Its answers are encoded already: see `Desk.frames`."""
        make: Any = grpc.stream_stream_rpc_method_handler
        handlers = {"Work": make(self.Work, request_deserializer=pb.WorkRequest.FromString)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        server.add_registered_method_handlers(_SERVICE, handlers)

    async def Work(  # pyright: ignore[reportIncompatibleMethodOverride]  # its answers are encoded already
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: ServicerContext[pb.WorkRequest, bytes]
    ) -> AsyncGenerator[bytes]:
        """See the contract."""
        call = current_call()
        if call is None:
            raise Internal("a worker's stream is served outside of an RPC")
        stream = _Stream(self._pools, request_iterator)
        hello = await stream.hello()
        desk = worker_messages.desk_of(hello, caller_of(context).principal, wake=stream.wake)
        drain = partial(self._pools.drain, desk)
        ageing = asyncio.get_running_loop().call_at(call.expires - _LAST_SECONDS, drain)
        with self._pools.connected(desk, credits_=hello.credits, held=hello.held), call.drain.notify(drain):
            try:
                await begin_watch(context)
                async for frame in stream.frames(desk):
                    yield frame
            finally:
                ageing.cancel()
                await stream.close()


class _Stream:
    """The two directions of one stream."""

    def __init__(self, pools: StepPools, requests: AsyncIterator[pb.WorkRequest]) -> None:
        self._pools = pools
        self._requests = requests
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self.wake = self._news.set

    async def hello(self) -> pb.WorkerHello:
        """Reads the first message. Raises: WorkerMalformed."""
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                first = await anext(self._requests, None)
        except TimeoutError:
            first = None
        if first is None or not first.HasField("hello"):
            raise WorkerMalformed("the first message of a stream must be `hello`, and soon")
        return first.hello

    async def frames(self, desk: Desk) -> AsyncGenerator[bytes]:
        """Gives what the worker is to be told, until it has said all or has nothing left to do.

        Raises: Invalid, WorkerMalformed, and what the bytes of a message are refused for.
        """
        self._reading = reading = asyncio.create_task(self._read(desk), name="worker-reader")
        reading.add_done_callback(lambda _: self._news.set())
        while not reading.done() and (not desk.finished or self._news.is_set()):
            await self._news.wait()
            self._news.clear()
            await failpoint("orchestrator.before_lease")
            for frame in self._pools.frames(desk):
                yield frame
            self._told.set()
        if reading.done():
            reading.result()

    async def close(self) -> None:
        """Ends the reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, desk: Desk) -> None:
        async for request in self._requests:
            match request.WhichOneof("message"):
                case "outcomes":
                    worker_messages.check_outcomes(request.outcomes)
                    self._pools.outcomes(desk, request.outcomes.outcomes)
                    await failpoint("orchestrator.after_outcome")
                case "heartbeats":
                    worker_messages.check_heartbeats(request.heartbeats)
                    self._pools.heard(desk, request.heartbeats.lease_ids)
                case "credits":
                    self._pools.add_credits(desk, worker_messages.credits_of(request.credits, desk))
                case "draining":
                    self._pools.drain(desk)
                case "hello":
                    raise WorkerMalformed(
                        "a stream begins with `hello` and has no other; open a stream for each worker"
                    )
                case _:
                    raise WorkerMalformed("a message holds one of hello, credits, outcomes, heartbeats and draining")
            while desk.untold > _MOST_UNTOLD:
                self._told.clear()
                await self._told.wait()
            if desk.finished:
                self._news.set()
