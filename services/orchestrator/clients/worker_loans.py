"""Lends the workers of this replica to the others, for steps of the runs that those drive."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

import grpc.aio

from comitia.orchestrator.v1 import worker_loan_service_pb2 as pb
from comitia.orchestrator.v1 import worker_loan_service_pb2_grpc, worker_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import from_uuid
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.leases import Desk
from services.orchestrator.engine.loans import Loan
from services.orchestrator.engine.step_pools import StepPools

log = logger(__name__)

#: Time between two looks at who is there, and between two tries at one that does not answer.
_LOOK_SECONDS: Final = 1.0
#: Time for a replica to say what a worker held of it; its stream is opened anew after.
_BEGIN_SECONDS: Final = 5.0
#: Time for the last outcomes to go out when the worker leaves.
_LAST_SECONDS: Final = 2.0


class Replicas(Protocol):
    """Knows which replicas are alive, and where."""

    async def others(self) -> Mapping[str, str]:
        """Says where this replica is, and gives the addresses of the others, by owner. Raises: MeshError."""
        ...


#: Opens a channel to an address.
Connect = Callable[[str], AbstractAsyncContextManager[grpc.aio.Channel]]


class WorkerLoans:
    """Keeps a stream to each other replica for each worker of this one."""

    def __init__(self, pools: StepPools, *, replicas: Replicas, connect: Connect, clock: Clock) -> None:
        self._pools = pools
        self._replicas = replicas
        self._connect = connect
        self._clock = clock
        #: Other replicas, by owner.
        self._peers: dict[str, _Peer] = {}
        #: Told when there are others.
        self._watchers: set[asyncio.Event] = set()

    @property
    def possible(self) -> bool:
        """See `Lending.possible`."""
        return bool(self._peers)

    async def keep(self) -> None:
        """Looks who is there, until cancelled."""
        try:
            while True:
                try:
                    await self._look(await self._replicas.others())
                except MeshError as error:
                    log.warning("cannot look for other replicas", cause=str(error))
                await self._clock.sleep(_LOOK_SECONDS)
        finally:
            await self._look({})

    async def _look(self, found: Mapping[str, str]) -> None:
        gone = [peer for owner, peer in self._peers.items() if found.get(owner) != peer.address]
        for peer in gone:
            del self._peers[peer.owner]
        for owner, address in found.items():
            if owner not in self._peers:
                self._peers[owner] = await _Peer.open(owner, address, self._connect)
        for watcher in self._watchers:
            watcher.set()
        for peer in gone:
            await peer.close()

    @asynccontextmanager
    async def lend(self, desk: Desk, hello: worker_service_pb2.WorkerHello) -> AsyncGenerator[None]:
        """See `Lending.lend`."""
        closing, changed = asyncio.Event(), asyncio.Event()
        self._watchers.add(changed)
        lending = asyncio.create_task(self._lend_to_all(desk, hello, changed, closing), name="worker-loans")
        try:
            yield
        finally:
            self._watchers.discard(changed)
            closing.set()
            changed.set()
            await asyncio.gather(lending, return_exceptions=True)

    async def _lend_to_all(
        self, desk: Desk, hello: worker_service_pb2.WorkerHello, changed: asyncio.Event, closing: asyncio.Event
    ) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}
        begun: set[asyncio.Event] = set()
        try:
            while not closing.is_set():
                changed.clear()
                for owner in [owner for owner, task in tasks.items() if task.done()]:
                    del tasks[owner]
                for owner, peer in self._peers.items():
                    if owner not in tasks:
                        first = asyncio.Event()
                        begun.add(first)
                        tasks[owner] = asyncio.create_task(
                            self._lend_to(peer, desk, hello, first, closing), name=f"loan to {owner}"
                        )
                if desk.reserved:
                    await asyncio.gather(*(first.wait() for first in begun))
                    self._pools.unreserve(desk)
                begun.clear()
                await changed.wait()
            if tasks:
                await asyncio.wait(tasks.values(), timeout=_LAST_SECONDS)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _lend_to(
        self,
        peer: "_Peer",
        desk: Desk,
        hello: worker_service_pb2.WorkerHello,
        begun: asyncio.Event,
        closing: asyncio.Event,
    ) -> None:
        """Lends a worker to one replica, for as long as that is there."""
        # A replica that was found later leases what was held for credits, like anything else.
        held = list(hello.held) if desk.reserved else []
        while not closing.is_set() and self._peers.get(peer.owner) is peer:
            try:
                await self._one_loan(peer, desk, hello, held, begun, closing)
            except grpc.aio.AioRpcError as error:
                log.info("a worker cannot be lent", to=peer.owner, cause=error.details())
            except (ValueError, TimeoutError) as error:
                log.warning("a loan makes no sense", to=peer.owner, cause=str(error) or "no answer")
            finally:
                begun.set()
            held = []
            if not closing.is_set():
                await self._clock.sleep(_LOOK_SECONDS)

    async def _one_loan(
        self,
        peer: "_Peer",
        desk: Desk,
        hello: worker_service_pb2.WorkerHello,
        held: list[worker_service_pb2.HeldStep],
        begun: asyncio.Event,
        closing: asyncio.Event,
    ) -> None:
        """Raises: AioRpcError, TimeoutError; ValueError: the borrower says what makes no sense."""
        news = asyncio.Event()
        with self._pools.lent(desk, wake=news.set) as loan:
            worker = pb.LentWorker(
                tenant_id=from_uuid("tenant", desk.tenant),
                subject=desk.owner[1],
                hello=hello,
                lease_ids_after=loan.last_id,
            )
            del worker.hello.held[:]
            worker.hello.held.extend(held)
            call: Any = peer.stub.LendWorker(_said(worker, desk, loan, news, closing))
            leaving = asyncio.create_task(_set_with(closing, news))
            try:
                async with asyncio.timeout(_BEGIN_SECONDS):
                    told = await call.read()
                while isinstance(told, pb.LendWorkerResponse):
                    self._pools.borrowed(desk, loan, told)
                    begun.set()
                    told = await call.read()
            finally:
                leaving.cancel()
                call.cancel()


async def _said(
    worker: pb.LentWorker, desk: Desk, loan: Loan, news: asyncio.Event, closing: asyncio.Event
) -> AsyncIterator[pb.LendWorkerRequest]:
    yield pb.LendWorkerRequest(worker=worker)
    while True:
        for message in loan.messages():
            yield message
        if closing.is_set():
            if not desk.draining:
                yield pb.LendWorkerRequest(lost=pb.WorkerLost())
            return
        await news.wait()
        news.clear()


async def _set_with(closing: asyncio.Event, news: asyncio.Event) -> None:
    await closing.wait()
    news.set()


class _Peer:
    """Another replica."""

    def __init__(self, owner: str, address: str, channel: grpc.aio.Channel, stack: AsyncExitStack) -> None:
        self.owner = owner
        self.address = address
        self.stub = worker_loan_service_pb2_grpc.WorkerLoanServiceStub(channel)
        self._stack = stack

    @classmethod
    async def open(cls, owner: str, address: str, connect: Connect) -> "_Peer":
        """Opens a channel to it."""
        stack = AsyncExitStack()
        return cls(owner, address, await stack.enter_async_context(connect(address)), stack)

    async def close(self) -> None:
        """Closes the channel."""
        await self._stack.aclose()
