"""Measures the ground floor: how long the mesh takes to start, what it weighs, and what a turn costs in it.

Run by `make bench-ground`; `BENCH_SHORT=1` gives the same figures in a minute. The mesh is the launcher's own, on free
ports; this process is the client, so nothing of the load's own cost counts as the mesh's.
"""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.launcher import background, status
from services.launcher.embedded.local_model import local_model_url, missing_wheels, prepare_local_model
from services.launcher.options import UpOptions
from services.launcher.record import Addresses
from tests.integration.conftest import free_port
from tests.support.mesh_databases import connected

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
UP_GOAL: Final = 12.0
PSS_GOAL: Final = 900.0
SINGLE_PSS_GOAL: Final = 450.0
REST_GOAL: Final = 8.0
TURN_GOAL: Final = 25.0
BATCH_GOAL: Final = 60_000

AGENTS: Final = ("Ada", "Boole")
REQUESTS: Final = 400 if SHORT else 4000
WARM_REQUESTS: Final = 100
#: Keeps one key below the rate that the contract allows it, half of its tenant's.
REST_PAUSE_SECONDS: Final = 0.02
TURNS_ALONE: Final = 30 if SHORT else 100
ROUNDS_OF_50: Final = 1 if SHORT else 4
ROUNDS_OF_16: Final = 4 if SHORT else 25
ROUNDS_OF_64: Final = 2 if SHORT else 8
IDLE_SECONDS: Final = 1.0 if SHORT else 5.0
_POLL_SECONDS: Final = 0.05
_LOAD_SECONDS: Final = 300.0


def figure(
    name: str, value: float, unit: str, *, better: str = "lower", goal: float | None = None, note: str = ""
) -> None:
    """Prints one line of the report, as DESIGN section 5 asks for."""
    line = {
        "bench": "ground",
        "figure": name,
        "value": round(value) if value > 1000 else round(value, 2),
        "unit": unit,
        "better": better,
        "goal": goal,
        "peers": {},
        "note": note,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchMesh:
    """A mesh that answers from the stub alone."""

    options: UpOptions
    addresses: Addresses
    #: From the start of the launcher's process until every part is healthy and the edge finds it.
    up_seconds: float
    #: The longest steps of that start.
    steps: Mapping[str, float]

    @property
    def data_dir(self) -> Path:
        """What it keeps."""
        assert self.options.data_dir is not None
        return self.options.data_dir

    def client(self) -> AsyncClient:
        """Opens a client of its administrator."""
        assert self.addresses.edge_url is not None
        return AsyncClient(self.addresses.edge_url, api_key=Path(self.addresses.admin_key_path).read_text().strip())


@asynccontextmanager
async def up(options: UpOptions) -> AsyncGenerator[BenchMesh]:
    """Runs a mesh on the data of the options while the block runs."""
    steps: dict[str, float] = {}
    began = time.monotonic()
    addresses = await background.start(options, lambda step: steps.update({step.step: step.seconds}))
    try:
        yield BenchMesh(options=options, addresses=addresses, up_seconds=time.monotonic() - began, steps=dict(steps))
    finally:
        await asyncio.to_thread(status.down, options.data_dir)


@contextmanager
def data_dir() -> Iterator[UpOptions]:
    """Gives options with a data directory that Postgres can enter as another user."""
    folder = Path(tempfile.mkdtemp(prefix="comitia-bench-"))
    folder.chmod(0o755)
    try:
        yield UpOptions(
            data_dir=folder,
            detach=True,
            random_ports=True,
            edge_port=0,
            local_model=False,
            environment={"COMITIA_INFERENCE_STUB_ENABLED": "true"},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Load:
    """Sessions on the stub model, and what they cost each part of the mesh."""

    def __init__(self, mesh: BenchMesh, client: AsyncClient) -> None:
        self._mesh = mesh
        self._client = client

    async def prepare(self) -> None:
        """Makes the agents and lets every part do everything once."""
        for name in AGENTS:
            await self._client.agents.create(name, instructions="Be brief.", model="stub")
        await self.run(sessions=2, rounds=2)

    async def run(self, *, sessions: int, rounds: int, agents: Sequence[str] = AGENTS) -> tuple[int, float]:
        """Runs sessions at the same time. Returns the turns that were made, and the seconds."""
        began = time.perf_counter()
        started = await asyncio.gather(*(self._start(rounds, agents) for _ in range(sessions)))
        await self._until_all_ended()
        took = time.perf_counter() - began
        ended = [await self._client.sessions.get(session_id) for session_id in started]
        if any(session.state != session_pb2.SESSION_STATE_SUCCEEDED for session in ended):
            raise RuntimeError(f"a session did not succeed: {[session.state_message for session in ended]}")
        return sum(session.turn_count for session in ended), took

    async def latencies(self, *, turns: int, watched: bool) -> list[float]:
        """Runs one session alone. Returns the milliseconds of each turn, from its first fact to its last."""
        session_id = await self._start(turns, AGENTS[:1])
        if watched:
            async for _ in self._client.sessions.watch(session_id):
                pass
        await self._until_all_ended()
        made = [turn async for turn in self._client.sessions.turns(session_id, page_size=500)]
        return [turn.timing.latency.ToMicroseconds() / 1000 for turn in made]

    async def a_session(self) -> str:
        """Gives a session that has ended."""
        session_id = await self._start(1, AGENTS)
        async for _ in self._client.sessions.watch(session_id):
            pass
        return session_id

    async def _until_all_ended(self) -> None:
        # Asked of Postgres, once for all: asking the API for each session would be part of the load.
        async with connected(self._mesh.data_dir, "orchestrator") as connection:

            async def all_ended() -> bool:
                return await connection.fetchval("SELECT NOT EXISTS (SELECT FROM run WHERE state < 5)")

            await until(all_ended)

    async def _start(self, rounds: int, agents: Sequence[str]) -> str:
        session = await self._client.sessions.start(
            "Where do rivers argue?", agents=agents, max_rounds=rounds, mode="dialogue"
        )
        return session.session_id


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition. Raises: TimeoutError."""
    async with asyncio.timeout(_LOAD_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(_POLL_SECONDS)


def processor_seconds(data: Path) -> dict[str, float]:
    """Gives the processor time of each part so far, that of its own children included."""
    used: dict[str, float] = {}
    for child in status.status(data).children:
        process = psutil.Process(child.pid)
        total = 0.0
        for member in (process, *(process.children(recursive=True) if child.name != "launcher" else ())):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                # Connections end, and with them the processes that served them.
                ended = 0.0 if child.name == "launcher" else times.children_user + times.children_system
                total += times.user + times.system + ended
        used[child.name] = total
    return used


def weigh(data: Path, name: str, *, goal: float) -> None:
    """Prints the memory of a whole mesh."""
    found = status.status(data)
    parts = sorted(((child.pss_bytes or 0) / 1e6, child.name) for child in found.children)
    note = "PSS: " + ", ".join(f"{part} {size:.0f}" for size, part in reversed(parts))
    figure(name, found.pss_bytes / 1e6, "MB", goal=goal, note=note)


def percentile(values: Sequence[float], percent: int) -> float:
    """Gives a percentile, 1 to 99."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def measure_rest(mesh: BenchMesh, client: AsyncClient, session_id: str) -> None:
    """Reads one session again and again, one request after the other, from a process of its own."""
    assert mesh.addresses.edge_target is not None
    order = {
        "target": mesh.addresses.edge_target,
        "path": f"/v1/sessions/{session_id}",
        "token": await client.identity.token(),
    }
    driver = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.ground", "rest"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await driver.communicate(json.dumps(order).encode())
    took: list[float] = json.loads(output)
    note = "GetSession through Envoy (token check, transcoding) and the orchestrator's Postgres, one caller"
    figure("rest_get_p50", percentile(took, 50), "ms", goal=REST_GOAL, note=note)
    note = f"{len(took)} requests on one kept connection, at most {1 / REST_PAUSE_SECONDS:.0f}/s"
    figure("rest_get_p99", percentile(took, 99), "ms", note=note)


def drive_rest() -> None:
    """The driver's process: reads its order, writes the milliseconds of each request."""
    order: dict[str, str] = json.loads(sys.stdin.read())
    connection = http.client.HTTPConnection(order["target"])
    headers = {"authorization": f"Bearer {order['token']}"}
    took: list[float] = []
    for _ in range(WARM_REQUESTS + REQUESTS):
        time.sleep(REST_PAUSE_SECONDS)
        began = time.perf_counter()
        connection.request("GET", order["path"], headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        took.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {body.decode()}")
    sys.stdout.write(json.dumps(took[WARM_REQUESTS:]))


async def measure_turns(mesh: BenchMesh, load: Load) -> None:
    """Turns of one session alone, then of many at once with what they cost each part."""
    took = await load.latencies(turns=TURNS_ALONE, watched=False)
    note = "one session alone, from a turn's first fact to its last; the stub takes no time"
    figure("turn_added_p50", percentile(took, 50), "ms", goal=TURN_GOAL, note=note)
    figure("turn_added_p99", percentile(took, 99), "ms", note=f"{len(took)} turns; the first {took[0]:.0f} ms")
    took = await load.latencies(turns=TURNS_ALONE, watched=True)
    figure("turn_added_watched_p50", percentile(took, 50), "ms", note="the same with one client that watches it live")
    for sessions, rounds in ((16, ROUNDS_OF_16), (64, ROUNDS_OF_64)):
        before = processor_seconds(mesh.data_dir)
        turns, seconds = await load.run(sessions=sessions, rounds=rounds)
        after = processor_seconds(mesh.data_dir)
        busy = {part: after[part] - before.get(part, 0.0) for part in after}
        cores = sum(busy.values()) / seconds
        note = f"{turns} turns; the mesh used {cores:.2f} of {os.cpu_count()} cores"
        figure(f"turns_per_s_{sessions}_sessions", turns / seconds, "1/s", better="higher", note=note)
        if sessions == 64:
            figure("cpu_us_per_turn", sum(busy.values()) / turns * 1e6, "us", note="all parts together")
            for part, used in sorted(busy.items(), key=lambda item: -item[1]):
                if used / turns > 20e-6:
                    figure(f"cpu_us_per_turn_{part.replace('-', '_')}", used / turns * 1e6, "us")


async def measure_mesh() -> None:
    """One process for each service."""
    with data_dir() as options:
        async with up(options) as mesh:
            longest = sorted(mesh.steps.items(), key=lambda item: -item[1])[1:4]
            note = "makes cluster and databases; " + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in longest)
            figure("up_first_seconds", mesh.up_seconds, "s", goal=UP_GOAL, note=note)
            await asyncio.sleep(IDLE_SECONDS)
            weigh(mesh.data_dir, "pss_idle", goal=PSS_GOAL)
            async with mesh.client() as client:
                load = Load(mesh, client)
                await load.prepare()
                await load.run(sessions=50, rounds=ROUNDS_OF_50)
                weigh(mesh.data_dir, "pss_after_50_sessions", goal=PSS_GOAL)
                await measure_rest(mesh, client, await load.a_session())
                await measure_turns(mesh, load)
        async with up(options) as again:
            figure("up_again_seconds", again.up_seconds, "s", goal=UP_GOAL, note="on the same data")


async def measure_single_process() -> None:
    """All services in one process."""
    with data_dir() as options:
        async with up(replace(options, single_process=True)) as mesh:
            figure("single_process_up_first_seconds", mesh.up_seconds, "s", goal=UP_GOAL)
            await asyncio.sleep(IDLE_SECONDS)
            weigh(mesh.data_dir, "single_process_pss_idle", goal=SINGLE_PSS_GOAL)
            async with mesh.client() as client:
                load = Load(mesh, client)
                await load.prepare()
                turns, seconds = await load.run(sessions=50, rounds=ROUNDS_OF_50)
                weigh(mesh.data_dir, "single_process_pss_after_50_sessions", goal=SINGLE_PSS_GOAL)
                note = "one loop on one core serves all seven"
                rate = turns / seconds
                figure("single_process_turns_per_s_50_sessions", rate, "1/s", better="higher", note=note)


async def measure_batching() -> None:
    """The stream between two services, by its own bench."""
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.batching"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await bench.communicate()
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    rate = next(line for line in lines if line["figure"] == "coalesced_messages_per_s_1000_callers")
    figure("batch_stream_messages_per_s", rate["value"], "1/s", better="higher", goal=BATCH_GOAL, note=rate["note"])


async def measure_local_model() -> None:
    """The local model and embedder, after each has answered once."""
    if missing_wheels():
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as folder:
        spec = prepare_local_model(
            port=port, log=Path(folder, "log"), environment=dict(os.environ), user={}, directory=Path.cwd()
        )
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *spec.command,
            env=dict(spec.environment),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await until(spec.probe)
            figure("local_model_up_seconds", time.monotonic() - began, "s")
            await asyncio.to_thread(_ask_local_model, port)
            pss = psutil.Process(process.pid).memory_full_info().pss / 1e6
            figure("local_model_and_embedder_pss", pss, "MB", note=f"{local_model_url(port)}; the weights are mapped")
        finally:
            process.terminate()
            await process.wait()


def _ask_local_model(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/json"}
    question = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 8}
    for path, body in (("/v1/chat/completions", question), ("/v1/embeddings", {"input": "rivers"})):
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {text}")


async def main() -> None:
    """Measures everything, one after the other."""
    sys.stderr.write(f"load of this machine before: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores\n")
    await measure_mesh()
    await measure_single_process()
    await measure_batching()
    await measure_local_model()


if __name__ == "__main__":
    if sys.argv[1:] == ["rest"]:
        drive_rest()
    else:
        asyncio.run(main())
