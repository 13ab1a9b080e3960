"""One tenant cannot fill a server, whatever it leaves open."""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest

from comitia.cost.v1 import pricing_service_pb2 as pb
from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceStub, add_PricingServiceServicer_to_server
from comitia.guard_table import GUARDS
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.rate import LEASE_SECONDS, Slice
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.server import Server, serve
from services.meshkit.guard.call_limits import CallLimits
from services.meshkit.guard.concurrency import SeatGate
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.guard.rate import RateGate
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.support.price_door import PriceDoor


@dataclass
class Prices(PriceDoor):
    """Answers when the test says so."""

    inside: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def ListPrices(self, request: pb.ListPricesRequest, context: Any) -> pb.ListPricesResponse:
        self.inside += 1
        await self.go.wait()
        return pb.ListPricesResponse()

    async def entered(self, how_many: int) -> None:
        """Waits until so many calls are at work."""
        while self.inside < how_many:  # noqa: ASYNC110  # the servicer has nobody else to tell
            await asyncio.sleep(0.005)


async def plenty(asks: Any) -> list[Slice]:
    return [Slice(tokens=ask.tokens, seconds=LEASE_SECONDS, remaining=99, wait_seconds=0) for ask in asks]


async def test_a_tenant_has_its_share_in_progress_and_others_find_room(tmp_path: Path) -> None:
    clock = SystemClock()
    keys = MeshKeys.make(tmp_path, clock=clock)
    gate = RateGate(
        plenty,
        tenants=GuardFeed(clock=clock),
        addresses=ClientAddresses(),
        service="cost",
        clock=clock,
        dice=Random(1),
    )
    seats = SeatGate(9, service="cost")
    prices = Prices()
    server = Server(
        name="cost",
        listen="127.0.0.1:0",
        registrations=(partial(add_PricingServiceServicer_to_server, prices),),
        admission=keys.admission(GUARDS, limits=CallLimits(gate, seats)),
        background=gate.background,
        drain_seconds=0.5,
    )

    def who(tenant: int) -> Any:
        return call_metadata(keys.principal(tenant=TenantId(UUID(int=tenant))))

    async with serve(server) as running, asyncio.timeout(20):
        target = f"127.0.0.1:{running.port}"
        async with (
            grpc.aio.insecure_channel(target) as outside,
            channel(target, identity=keys.workload("inference")) as neighbour,
        ):
            stub: Any = PricingServiceStub(outside)
            inside: Any = PricingServiceStub(neighbour)
            waiting = [stub.ListPrices(pb.ListPricesRequest(), metadata=who(1)) for _ in range(6)]
            await prices.entered(6)
            one_more = stub.ListPrices(pb.ListPricesRequest(), metadata=who(1))
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await one_more
            refused = remote_error(raised.value)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (refused.reason, refused.metadata["most"]) == ("TOO_MANY_IN_PROGRESS", "6")
            assert dict(await one_more.initial_metadata())["retry-after"] == "1"
            waiting.append(stub.ListPrices(pb.ListPricesRequest(), metadata=who(2)))
            # A service that works for the tenant was let in before, and is let in here.
            waiting.append(inside.ListPrices(pb.ListPricesRequest(), metadata=who(1)))
            await prices.entered(8)
            prices.go.set()
            await asyncio.gather(*waiting)
            await stub.ListPrices(pb.ListPricesRequest(), metadata=who(1))
    assert seats.calls.taken == 0
