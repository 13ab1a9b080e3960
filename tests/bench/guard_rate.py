"""Measures rate limits: deciding a call locally, leasing at Postgres, and what counting adds to a call.

One process and one Postgres, whose buckets are not logged; the calls go over the loopback.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

from grpc.aio import insecure_channel

from comitia.cost.v1 import pricing_service_pb2 as pb
from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceStub, add_PricingServiceServicer_to_server
from comitia.guard_table import GUARDS, Guard
from services.gateway.storage.rate_buckets import SqlRateBuckets
from services.gateway.usecases.lease_rate import LeaseRate
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.rate import LEASE_SECONDS, Ask, LeaseSlices, Slice
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.limits import RateLimited
from services.meshkit.grpc.server import Server, serve
from services.meshkit.guard.call_limits import CallLimits
from services.meshkit.guard.concurrency import SeatGate
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.guard.rate import RateGate
from services.meshkit.sql.engine import sql_engine
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.bench.guard_audit import database
from tests.support.price_door import PriceDoor

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
DECISIONS: Final = 50_000 if SHORT else 300_000
CALLS: Final = 1_000 if SHORT else 5_000
LEASES: Final = 200 if SHORT else 2_000
GOAL_MICROSECONDS: Final = 20.0
#: How many decisions are timed together, between two turns of the loop.
_RUN: Final = 100
_METHOD: Final = "/comitia.tools.v1.ToolService/InvokeTool"

Figure = Callable[..., None]


async def measure(figure: Figure) -> None:
    """Measures all parts."""
    for tenants in (1, 1000):
        micros, high = await _decisions(tenants)
        figure(
            f"rate_decision_{tenants}_tenants",
            micros,
            "us",
            better="lower",
            goal=GOAL_MICROSECONDS,
            note=f"two buckets each, leased ahead; the slowest of 100 runs of {_RUN}: {high:.1f}",
        )
    figure("rate_refusal", await _refusals(), "us", better="lower", note="of a caller whose bucket is empty")
    await _calls(figure)
    await _leases(figure)


def a_gate(lease: LeaseSlices) -> RateGate:
    """Makes a gate that knows no tenant's quotas."""
    clock = SystemClock()
    return RateGate(
        lease,
        tenants=GuardFeed(clock=clock),
        addresses=ClientAddresses(),
        service="bench",
        clock=clock,
        dice=Random(1),
    )


async def _decisions(tenants: int) -> tuple[float, float]:
    async def lease(asks: Sequence[Ask]) -> list[Slice]:
        await asyncio.sleep(0.001)
        return [Slice(tokens=ask.tokens, seconds=LEASE_SECONDS, remaining=ask.burst, wait_seconds=0) for ask in asks]

    gate = a_gate(lease)
    route = gate.route(_METHOD, Guard("x", 4_000_000, 5, False, frozenset(), per_subject_per_second=4_000_000))
    callers = [_caller(n) for n in range(tenants)]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_run(work)) for work in gate.background]
        runs: list[float] = []
        place = 0
        for _ in range(DECISIONS // _RUN):
            began = time.perf_counter()
            for _ in range(_RUN):
                place = (place + 1) % tenants
                await route.count(callers[place], None)
            runs.append((time.perf_counter() - began) / _RUN * 1e6)
            await asyncio.sleep(0)
        for task in running:
            task.cancel()
    return statistics.median(runs), statistics.quantiles(runs, n=100)[-1]


async def _refusals() -> float:
    async def lease(asks: Sequence[Ask]) -> list[Slice]:
        return [Slice(tokens=0, seconds=LEASE_SECONDS, remaining=-1e6, wait_seconds=60) for _ in asks]

    gate = a_gate(lease)
    route = gate.route(_METHOD, Guard("x", 1, 5, False, frozenset()))
    caller = _caller(1)
    await route.count(caller, None)
    await gate.lessee.once()
    began = time.perf_counter()
    for _ in range(DECISIONS // 10):
        try:
            await route.count(caller, None)
        except RateLimited:
            continue
    return (time.perf_counter() - began) / (DECISIONS // 10) * 1e6


async def _leases(figure: Figure) -> None:
    async with (
        database() as urls,
        sql_engine(urls.maintenance, pool_size=2, application_name="bench") as engine,
    ):
        lease = LeaseRate(buckets=SqlRateBuckets(engine))
        for buckets in (1, 100):
            milliseconds = await _leased(lease, buckets) * 1000
            note = "one trip to Postgres; a busy bucket of 100/s is leased about six times a second"
            figure(f"rate_lease_{buckets}_buckets", milliseconds, "ms", better="lower", note=note)


async def _calls(figure: Figure) -> None:
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as folder:
        keys = MeshKeys.make(Path(folder), clock=SystemClock())
        metadata = call_metadata(keys.principal())
        plain, counted = await _p50(keys, metadata, counting=False), await _p50(keys, metadata, counting=True)
    figure("rate_unary_call_uncounted", plain, "us", better="lower", note="p50 of a call that does nothing")
    figure("rate_unary_call_counted", counted, "us", better="lower", note="the same with limits and their headers")


async def _p50(keys: MeshKeys, metadata: Any, *, counting: bool) -> float:
    async def lease(asks: Sequence[Ask]) -> list[Slice]:
        return [Slice(tokens=ask.tokens, seconds=LEASE_SECONDS, remaining=ask.burst, wait_seconds=0) for ask in asks]

    gate = a_gate(lease)
    gate.factor = 1e4
    limits = CallLimits(gate, SeatGate(2000, service="bench")) if counting else None
    server = Server(
        name="cost",
        listen="127.0.0.1:0",
        registrations=(partial(add_PricingServiceServicer_to_server, PriceDoor()),),
        admission=keys.admission(GUARDS, limits=limits),
        background=gate.background,
        drain_seconds=0,
    )
    times: list[float] = []
    async with serve(server) as running, insecure_channel(f"127.0.0.1:{running.port}") as channel:
        stub: Any = PricingServiceStub(channel)
        for _ in range(CALLS):
            began = time.perf_counter()
            await stub.ListPrices(pb.ListPricesRequest(), metadata=metadata)
            times.append(time.perf_counter() - began)
    return statistics.median(times[len(times) // 10 :]) * 1e6


async def _leased(lease: LeaseSlices, buckets: int) -> float:
    times: list[float] = []
    for turn in range(LEASES):
        asks = [
            Ask(bucket=f"tenant/{(turn * buckets + n) % 5000}/{_METHOD}", per_second=1e6, burst=2e6, tokens=25)
            for n in range(buckets)
        ]
        began = time.perf_counter()
        await lease(asks)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _caller(number: int) -> Principal:
    return Principal(tenant=TenantId(UUID(int=number)), subject="key_a", roles=frozenset())


async def _run(work: Callable[[], Any]) -> None:
    await work()
