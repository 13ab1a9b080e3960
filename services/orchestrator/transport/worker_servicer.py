"""gRPC face of the step pools: one stream for each worker, of this replica or lent by another."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol

import grpc
from grpc.aio import ServicerContext

from comitia.orchestrator.v1 import worker_loan_service_pb2 as loan_pb
from comitia.orchestrator.v1 import worker_loan_service_pb2_grpc, worker_service_pb2_grpc
from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.grpc.call import Call, caller_of, current_call
from services.meshkit.grpc.decoding import InParts
from services.meshkit.grpc.limits import begin_watch
from services.orchestrator.domain.errors import WorkerMalformed
from services.orchestrator.engine.leases import Desk
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.transport import worker_messages
from services.orchestrator.transport.worker_stream import WorkerStream
from services.orchestrator.usecases.run_access import RunAccess

#: Time between being told to open another stream and the end of this one, seconds.
_LAST_SECONDS: Final = 300.0
#: Time between two looks whether a worker may still serve its projects, seconds.
_LOOK_SECONDS: Final = 60.0
_SERVICE: Final = "comitia.orchestrator.v1.WorkerService"
_LOAN_SERVICE: Final = "comitia.orchestrator.v1.WorkerLoanService"
_TENANT: Final = "tenant"


class Lending(Protocol):
    """Lends workers to other replicas."""

    def lend(self, desk: Desk, hello: pb.WorkerHello) -> AbstractAsyncContextManager[None]:
        """Lends a worker while the block runs."""
        ...

    @property
    def possible(self) -> bool:
        """True when there are other replicas."""
        ...


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Reads what workers say, and writes what they are told, frame by frame."""

    def __init__(self, pools: StepPools, lending: Lending, *, access: RunAccess, clock: Clock) -> None:
        self._pools = pools
        self._lending = lending
        self._access = access
        self._clock = clock

    def registration(self, server: Any) -> None:
        """Adds the service to a server."""
        _register(server, _SERVICE, "Work", self.Work, InParts(pb.WorkRequest))

    async def Work(  # pyright: ignore[reportIncompatibleMethodOverride]  # its answers are encoded already
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: ServicerContext[pb.WorkRequest, bytes]
    ) -> AsyncGenerator[bytes]:
        """See the contract."""
        call = _current()
        stream = WorkerStream(self._pools, request_iterator)
        first = await stream.first()
        if first is None or not first.HasField("hello"):
            raise WorkerMalformed("the first message of a stream must be `hello`, and soon")
        hello, caller = first.hello, caller_of(context)
        worker_messages.check_hello(hello)
        projects = await self._access.to_work(caller, worker_messages.projects_of(hello))
        # Other replicas are told the same.
        del hello.projects[:]
        hello.projects.extend(projects)
        who = caller.principal
        desk = worker_messages.desk_of(hello, who.tenant, who.subject, wake=stream.wake)
        drain = partial(self._pools.drain, desk)
        loop = asyncio.get_running_loop()
        left = call.expires - loop.time()
        ageing = loop.call_later(left - min(_LAST_SECONDS, left / 2), drain)
        connected = self._pools.connected(desk, credits_=hello.credits, held=hello.held, lend=self._lending.possible)
        with connected, call.drain.notify(drain):
            try:
                await begin_watch(context)
                async with self._lending.lend(desk, hello):
                    async for frame in stream.frames(desk, partial(self._look, caller, projects)):
                        yield frame
            finally:
                ageing.cancel()
                await stream.close()

    async def _look(self, caller: Caller, projects: Sequence[str]) -> None:
        """Looks on whether a worker may serve its projects. Raises: RelationMissing, Unavailable."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            await self._access.to_work(caller, projects, last_known=True)


class WorkerLoanServicer(worker_loan_service_pb2_grpc.WorkerLoanServiceServicer):
    """Gives steps of this replica's runs to workers of others."""

    def __init__(self, pools: StepPools) -> None:
        self._pools = pools

    def registration(self, server: Any) -> None:
        """Adds the service to a server."""
        _register(server, _LOAN_SERVICE, "LendWorker", self.LendWorker, loan_pb.LendWorkerRequest.FromString)

    async def LendWorker(  # pyright: ignore[reportIncompatibleMethodOverride]  # its answers are encoded already
        self,
        request_iterator: AsyncIterator[loan_pb.LendWorkerRequest],
        context: ServicerContext[loan_pb.LendWorkerRequest, bytes],
    ) -> AsyncGenerator[bytes]:
        """See the contract."""
        call = _current()
        stream = WorkerStream(self._pools, request_iterator)
        first = await stream.first()
        if first is None or not first.HasField("worker"):
            raise WorkerMalformed("the first message of a stream must be `worker`, and soon")
        lent = first.worker
        worker_messages.check_hello(lent.hello)
        tenant = TenantId(to_uuid(lent.tenant_id, _TENANT, field="worker.tenant_id"))
        desk = worker_messages.desk_of(
            lent.hello, tenant, lent.subject, wake=stream.wake, lent=True, ids_after=lent.lease_ids_after
        )
        with (
            self._pools.connected(desk, credits_=0, held=lent.hello.held),
            call.drain.notify(partial(self._pools.drain, desk)),
        ):
            try:
                # The first frame says that what the worker held was looked for, whether there is anything in it or not.
                for frame in list(self._pools.frames(desk)) or [b""]:
                    yield frame
                async for frame in stream.frames(desk):
                    yield frame
            finally:
                await stream.close()


def _register(server: Any, service: str, method: str, serve: Any, read: Callable[[bytes], Any]) -> None:
    """Adds a stream to a server. Its answers are encoded already: see `Desk.frames`."""
    make: Any = grpc.stream_stream_rpc_method_handler
    handlers = {method: make(serve, request_deserializer=read)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_registered_method_handlers(service, handlers)


def _current() -> Call:
    call = current_call()
    if call is None:
        raise Internal("a worker's stream is served outside of an RPC")
    return call
