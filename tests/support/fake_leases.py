"""A gateway that leases rate limits and has no other news."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from comitia.gateway.v1.guard_feed_service_pb2_grpc import (
    GuardFeedServiceServicer,
    add_GuardFeedServiceServicer_to_server,
)
from comitia.guard_table import GUARDS
from services.meshkit.core.rate import LEASE_SECONDS
from services.meshkit.grpc.server import Server, serve
from services.meshkit.testing.mesh_keys import MeshKeys


@dataclass
class FakeLeases(GuardFeedServiceServicer):
    """Keeps buckets in memory, by the rules of the real ones."""

    target: str = ""
    #: Tokens of each bucket, and when they were counted.
    levels: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    async def LeaseRate(self, request: pb.LeaseRateRequest, context: Any) -> pb.LeaseRateResponse:
        return pb.LeaseRateResponse(slices=[self._lease(ask) for ask in request.asks])

    async def WatchGuard(self, request: pb.WatchGuardRequest, context: Any) -> AsyncIterator[pb.WatchGuardResponse]:
        await asyncio.get_running_loop().create_future()
        yield pb.WatchGuardResponse()

    def _lease(self, ask: pb.LeaseRateRequest.Ask) -> pb.LeaseRateResponse.Slice:
        now = time.monotonic()
        level, at = self.levels.get(ask.bucket, (ask.burst, now))
        level = min(ask.burst, level + ask.unused + (now - at) * ask.per_second) - ask.spent
        given = max(0, min(ask.tokens, int(level)))
        level -= given
        self.levels[ask.bucket] = (level, now)
        wait = 0.0 if level >= 1 else (1.0 - level) / ask.per_second
        return pb.LeaseRateResponse.Slice(tokens=given, seconds=LEASE_SECONDS, remaining=level, wait_seconds=wait)


@asynccontextmanager
async def fake_leases(keys: MeshKeys) -> AsyncGenerator[FakeLeases]:
    """Serves while the block runs."""
    leases = FakeLeases()
    server = Server(
        name="gateway",
        listen="127.0.0.1:0",
        registrations=(partial(add_GuardFeedServiceServicer_to_server, leases),),
        admission=keys.admission(GUARDS),
        drain_seconds=0.2,
    )
    async with serve(server) as running:
        leases.target = f"127.0.0.1:{running.port}"
        yield leases
