"""Items of a batch stream count for their own callers, unless a service sends them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import grpc.aio

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import budget_service_pb2_grpc as rpc
from comitia.guard_table import GUARDS, Guard
from services.meshkit.batching.serve_batch import serve_batch
from services.meshkit.batching.stream_session import BatchItem
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.rate import LEASE_SECONDS, Ask, Slice
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.errors import from_status
from services.meshkit.grpc.server import Server, serve
from services.meshkit.guard.call_limits import CallLimits
from services.meshkit.guard.concurrency import SeatGate
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.guard.rate import RateGate
from services.meshkit.testing.mesh_keys import MeshKeys

METHOD = "/comitia.cost.v1.BudgetService/BatchSpend"


class Ledger(rpc.BudgetServiceServicer):
    """Marks what it is asked to."""

    async def BatchSpend(
        self, request_iterator: AsyncIterator[pb.BatchSpendRequest], context: Any
    ) -> AsyncIterator[pb.BatchSpendResponse]:
        async for frame in serve_batch(request_iterator, self._mark, answers=pb.BatchSpendResponse):
            yield frame

    async def _mark(self, items: Sequence[BatchItem[pb.BatchSpendRequest.Item]]) -> list[pb.BatchSpendResponse.Item]:
        return [pb.BatchSpendResponse.Item() for _ in items]


class LittleBuckets:
    """Gives three tokens of each bucket, and no more for a minute."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}

    async def __call__(self, asks: Sequence[Ask]) -> list[Slice]:
        return [self._lease(ask) for ask in asks]

    def _lease(self, ask: Ask) -> Slice:
        left = self.left.get(ask.bucket, 3) - ask.spent
        given = max(0, min(ask.tokens, left))
        self.left[ask.bucket] = left - given
        wait = 60 if left - given < 1 else 0
        return Slice(tokens=given, seconds=LEASE_SECONDS, remaining=left - given, wait_seconds=wait)


async def reasons(opened: grpc.aio.Channel, keys: MeshKeys) -> list[list[str]]:
    """Sends ten items of each of two callers in one frame; gives how those of each ended."""
    callers = [keys.principal(tenant=TenantId(UUID(int=n + 1))) for n in range(2)]
    frame = pb.BatchSpendRequest()
    frame.identities.access_tokens.extend(call_metadata(caller)[0][1].removeprefix("Bearer ") for caller in callers)
    for number in range(20):
        header = frame.items.add().header
        header.item_id, header.identity_index = number + 1, number % 2
    stub: Any = rpc.BudgetServiceStub(opened)
    call = stub.BatchSpend(metadata=call_metadata(callers[0]))
    await call.write(frame)
    await call.done_writing()
    ended: list[list[str]] = [[], []]
    async for answer in call:
        for item in answer.items:
            status = item.status
            reason = from_status(status.error).reason if status.HasField("error") else "done"
            ended[(status.item_id - 1) % 2].append(reason)
    return ended


async def test_each_item_counts_for_its_own_caller_and_those_of_services_do_not(tmp_path: Path) -> None:
    clock = SystemClock()
    keys = MeshKeys.make(tmp_path, clock=clock)
    gate = RateGate(
        LittleBuckets(),
        tenants=GuardFeed(clock=clock),
        addresses=ClientAddresses(),
        service="cost",
        clock=clock,
        dice=Random(1),
    )
    ledger: Any = Ledger()  # pyright: ignore[reportAbstractUsage]  # the stream is all that is called
    server = Server(
        name="cost",
        listen="127.0.0.1:0",
        registrations=(partial(rpc.add_BudgetServiceServicer_to_server, ledger),),
        admission=keys.admission(
            GUARDS | {METHOD: Guard("prices.read", 1, 60, False, frozenset())},
            limits=CallLimits(gate, SeatGate(100, service="cost")),
        ),
        background=gate.background,
        drain_seconds=0.5,
    )
    async with serve(server) as running, asyncio.timeout(20):
        target = f"127.0.0.1:{running.port}"
        async with grpc.aio.insecure_channel(target) as outside:
            for ended in await reasons(outside, keys):
                assert sorted(ended) == ["RATE_LIMITED"] * 7 + ["done"] * 3
        async with channel(target, identity=keys.workload("tools")) as inside:
            assert await reasons(inside, keys) == [["done"] * 10] * 2
