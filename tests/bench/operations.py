"""Measures what those pay who run a mesh: for traces and metrics pages, until a service is back, a rollout, a hop.

Run by `make bench-operations`; `BENCH_SHORT=1` takes less time for each figure. What traces cost is told twice: by the
turns that are made, and by the processor time of one, which stands still when others use the machine, too.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final
from urllib.request import urlopen

import grpc
import psutil

from services.launcher import status
from services.launcher.health import grpc_serving
from services.launcher.layout import DataDir, read_state
from services.launcher.ports import metrics_port_name
from services.launcher.services import SERVICES
from tests.bench.operations_east_west import east_west
from tests.bench.operations_restart import restarts
from tests.bench.turn import Bench, Window, benches
from tests.bench.whole_mesh import SHORT, Report, until

SESSIONS: Final = 64
SECONDS: Final = 5.0 if SHORT else 20.0
#: Windows of that length, of meshes that were started for them, and how often such are started.
WINDOWS: Final = 8 if SHORT else 10
ROUNDS: Final = 1 if SHORT else 3
SCRAPES: Final = 5 if SHORT else 20
COST_GOAL: Final = 5.0
SCRAPE_GOAL: Final = 50.0
START_GOAL: Final = 3.0
#: Parts of all traces that are recorded: all of them, and what is usual.
RATIOS: Final = (1.0, 0.05)

figure: Final = Report("operations")


@dataclass(frozen=True, slots=True)
class Rate:
    """What a mesh makes of its time."""

    turns_per_s: float
    #: Processor time of all its parts for one turn, milliseconds.
    cpu_ms: float


class Sink(grpc.GenericRpcHandler):
    """Takes whatever it is sent and looks at none of it: it stands for a collector on another machine."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Answers every method with an empty message."""
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")


@contextmanager
def collector() -> Iterator[str]:
    """Gives the address of a sink that runs while the block does."""
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Sink()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


async def scrapes(bench: Bench) -> None:
    """Reads the metrics pages of a mesh under sessions, as Prometheus does."""
    ports = read_state(DataDir(bench.mesh.data_dir))["ports"]
    longest: dict[str, list[float]] = {service: [] for service in SERVICES}
    size = 0
    for _ in range(SCRAPES):
        for service, took in longest.items():
            began = time.perf_counter()
            size = max(size, await asyncio.to_thread(_read, ports[metrics_port_name(service)]))
            took.append((time.perf_counter() - began) * 1000)
    for service, took in longest.items():
        note = f"worst of {SCRAPES}, under {SESSIONS} sessions; mean {fmean(took):.1f}"
        figure(f"scrape_ms_{service}", max(took), "ms", goal=SCRAPE_GOAL, note=note)
    figure("largest_page_kb", size / 1000, "kB")


def _read(port: int) -> int:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return len(page.read())


async def starts(bench: Bench) -> None:
    """Ends each service in turn, and measures its next start from its first moment until it serves."""
    data = bench.mesh.data_dir
    ports = read_state(DataDir(data))["ports"]
    for service in SERVICES:
        before = _pid(data, service)
        os.kill(before, signal.SIGKILL)

        async def another(service: str = service, before: int = before) -> bool:
            found = _pid(data, service)
            return found not in (0, before) and psutil.pid_exists(found)

        await until(another)
        began = psutil.Process(_pid(data, service)).create_time()
        await until(grpc_serving(ports[service]))
        figure(f"start_s_{service}", time.time() - began, "s", goal=START_GOAL, note="from its process to SERVING")


def _pid(data: Any, service: str) -> int:
    return next((child.pid for child in status.status(data).children if child.name == service), 0)


async def costs_of_traces() -> None:
    """Measures meshes side by side that record none of their traces, some, and all.

    A machine is faster at one time than at another, by more than traces cost; so all have the same seconds.
    """
    rates: dict[float, list[Rate]] = {ratio: [] for ratio in (0.0, *RATIOS)}
    for _ in range(ROUNDS):
        async with AsyncExitStack() as running:
            url = running.enter_context(collector())
            meshes: dict[float, Bench] = {}
            for ratio in rates:
                on = {"COMITIA_OTLP_ENDPOINT": url, "COMITIA_OTLP_RATIO": str(ratio)}
                meshes[ratio] = await running.enter_async_context(benches(on if ratio else {}))
            await asyncio.gather(*(bench.start(SESSIONS) for bench in meshes.values()))
            for _ in range(WINDOWS):
                windows = await asyncio.gather(*(bench.window(SESSIONS, SECONDS) for bench in meshes.values()))
                for ratio, window in zip(meshes, windows, strict=True):
                    rates[ratio].append(_rate(window))
    off = rates[0.0]
    for ratio in RATIOS:
        goal = COST_GOAL if ratio < 1 else None
        name = f"{ratio * 100:.0f}_percent_of_traces"
        lost = (1 - fmean(on.turns_per_s for on in rates[ratio]) / fmean(without.turns_per_s for without in off)) * 100
        note = f"turns/s with: {_turns(rates[ratio])}; without: {_turns(off)}, side by side"
        figure(f"throughput_lost_to_{name}", lost, "%", goal=goal, note=note)
        # Not the mean of what each window says: the higher of two that differ by chance counts for more in that.
        more = (fmean(on.cpu_ms for on in rates[ratio]) / fmean(without.cpu_ms for without in off) - 1) * 100
        note = f"ms a turn with: {_cpu(rates[ratio])}; without: {_cpu(off)}, side by side"
        figure(f"cpu_spent_on_{name}", more, "%", goal=goal, note=note)


def _rate(window: Window) -> Rate:
    return Rate(window.turns / window.seconds, sum(window.cores.values()) * window.seconds / window.turns * 1000)


def _turns(rates: Sequence[Rate]) -> str:
    return ", ".join(f"{rate.turns_per_s:.0f}" for rate in rates)


def _cpu(rates: Sequence[Rate]) -> str:
    return ", ".join(f"{rate.cpu_ms:.2f}" for rate in rates)


async def main() -> None:
    """Measures what traces cost, then pages and starts."""
    await costs_of_traces()
    with collector() as url:
        async with benches({"COMITIA_OTLP_ENDPOINT": url, "COMITIA_OTLP_RATIO": "1"}) as bench:
            await bench.start(SESSIONS)
            await scrapes(bench)
    async with benches() as bench:
        await starts(bench)


if __name__ == "__main__":
    asyncio.run(main())
    restarts()
    east_west()
