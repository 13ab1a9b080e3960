"""Measures the coalesced batch stream between two services, each a process of its own.

Real protobuf items of `BudgetService.BatchSpend` with header, deadline, identity check and a status of their own. The
handler answers at once, so the figure is what meshkit and gRPC allow.
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from random import Random

import uvloop

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import budget_service_pb2_grpc as rpc
from comitia.cost.v1 import cost_pb2
from comitia.guard_table import GUARDS
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.batching.serve_batch import serve_batch
from services.meshkit.batching.stream_session import BatchItem
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.server import Server, serve
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.testing.mesh_keys import MeshKeys

SECONDS = 2.0 if os.environ.get("BENCH_SHORT") == "1" else 6.0
TENANTS = 8
GOAL = 60_000

SpendItem = BatchItem[pb.BatchSpendRequest.Item]
Spend = Coalescer[pb.BatchSpendRequest.Item, pb.BatchSpendResponse.Item]


class BudgetServicer(rpc.BudgetServiceServicer):
    """Answers at once with the hold that was named."""

    async def BatchSpend(
        self, request_iterator: AsyncIterator[pb.BatchSpendRequest], context: object
    ) -> AsyncIterator[pb.BatchSpendResponse]:
        async for frame in serve_batch(request_iterator, _mark_many, answers=pb.BatchSpendResponse):
            yield frame

    async def MarkDispatched(self, request: pb.MarkDispatchedRequest, context: object) -> pb.MarkDispatchedResponse:
        return pb.MarkDispatchedResponse(hold=cost_pb2.Hold(hold_id=request.hold_id))


async def _mark_many(items: Sequence[SpendItem]) -> Sequence[pb.BatchSpendResponse.Item | MeshError]:
    answers: list[pb.BatchSpendResponse.Item | MeshError] = []
    for item in items:
        answer = pb.BatchSpendResponse.Item()
        answer.hold.hold_id = item.message.mark_dispatched.hold_id
        answers.append(answer)
    return answers


async def serve_until_stdin_closes(folder: Path) -> None:
    """The server process: says its port, serves, then says how much processor time it took."""
    keys = MeshKeys.read(folder, clock=SystemClock())
    server = Server(
        name="cost",
        listen="127.0.0.1:0",
        registrations=[partial(rpc.add_BudgetServiceServicer_to_server, BudgetServicer())],  # pyright: ignore[reportAbstractUsage]
        admission=keys.admission(GUARDS),
        drain_seconds=1.0,
    )
    async with serve(server) as running:
        sys.stdout.write(f"{running.port}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
    used = resource.getrusage(resource.RUSAGE_SELF)
    sys.stdout.write(f"{used.ru_utime + used.ru_stime}\n")


async def drive(port: int, keys: MeshKeys) -> list[dict[str, object]]:
    """The client process: callers that each wait for their answer before they call again."""
    ids = SystemIds()
    principals = [keys.principal(tenant=TenantId(ids.uuid())) for _ in range(TENANTS)]
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
        await rate(spend, principals, callers=64, seconds=0.5)
        for callers in (1, 64, 1000):
            used = time.process_time()
            per_second = await rate(spend, principals, callers=callers, seconds=SECONDS)
            used = time.process_time() - used
            figures.append(
                figure(
                    f"coalesced_messages_per_s_{callers}_callers",
                    per_second,
                    "1/s",
                    goal=GOAL if callers == 1000 else None,
                    note=f"client processor time {used / (per_second * SECONDS) * 1e6:.1f} us a message; "
                    "two processes, one core each",
                )
            )
        stub = rpc.BudgetServiceStub(opened)
        metadata = call_metadata(principals[0])
        started, calls = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS / 3:
            await stub.MarkDispatched(pb.MarkDispatchedRequest(hold_id="hold_1"), metadata=metadata)
            calls += 1
        alone = (time.perf_counter() - started) / calls
        figures.append(figure("unary_call_seconds", alone, "s", better="lower", note="one caller, all layers on"))
    return figures


async def rate(spend: Spend, principals: list[Principal], *, callers: int, seconds: float) -> float:
    """Calls answered per second, each checked to be the caller's own."""
    ends = time.perf_counter() + seconds
    answered = 0

    async def call_on(number: int) -> None:
        nonlocal answered
        principal = principals[number % TENANTS]
        hold_id = f"hold_{number}"
        while time.perf_counter() < ends:
            item = pb.BatchSpendRequest.Item(mark_dispatched=pb.MarkDispatchedRequest(hold_id=hold_id))
            answer = await spend.call(item, principal=principal, timeout_seconds=10.0)
            if answer.hold.hold_id != hold_id:
                raise AssertionError("an answer went to another caller")
            answered += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(callers):
            tasks.create_task(call_on(number))
    return answered / seconds


def figure(
    name: str, value: float, unit: str, *, better: str = "higher", goal: float | None = None, note: str = ""
) -> dict[str, object]:
    """One line of the report, as DESIGN section 5 asks for."""
    rounded = round(value) if value > 100 else round(value, 6)
    return {
        "bench": "batching",
        "figure": name,
        "value": rounded,
        "unit": unit,
        "better": better,
        "goal": goal,
        "peers": {},
        "note": note,
    }


async def main() -> None:
    """Starts the server process, drives it and prints the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = MeshKeys.make(folder, clock=SystemClock())
        server = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.batching",
            name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert server.stdout is not None
        figures = await drive(int(await server.stdout.readline()), keys)
        output, _ = await server.communicate(b"\n")
    for line in figures:
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stderr.write(f"server processor time {output.decode().strip()} s\n")


if __name__ == "__main__":
    setup_logs("warning")
    uvloop.run(serve_until_stdin_closes(Path(sys.argv[1])) if len(sys.argv) > 1 else main())
