"""Measures the ground floor: how long the mesh takes to start, what it weighs, and how soon it answers.

Run by `make bench-ground`; `BENCH_SHORT=1` gives the same figures in a minute. The mesh is the launcher's own, on free
ports; this process is the client, so nothing of the load's own cost counts as the mesh's.
"""

import asyncio
import http.client
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.launcher import status
from services.launcher.embedded.local_model import local_model_url, missing_wheels, prepare_local_model
from tests.bench.whole_mesh import SHORT, BenchMesh, Report, data_dir, percentile, until, up
from tests.integration.conftest import free_port
from tests.support.mesh_databases import connected

UP_GOAL: Final = 12.0
PSS_GOAL: Final = 900.0
SINGLE_PSS_GOAL: Final = 450.0
REST_GOAL: Final = 8.0
BATCH_GOAL: Final = 60_000

AGENTS: Final = ("Ada", "Boole")
REQUESTS: Final = 400 if SHORT else 4000
WARM_REQUESTS: Final = 100
#: Keeps one key below the rate that the contract allows it, half of its tenant's.
REST_PAUSE_SECONDS: Final = 0.02
ROUNDS_OF_50: Final = 1 if SHORT else 4
IDLE_SECONDS: Final = 1.0 if SHORT else 5.0

figure: Final = Report("ground")


class Load:
    """Sessions on the stub model."""

    def __init__(self, mesh: BenchMesh, client: AsyncClient) -> None:
        self._mesh = mesh
        self._client = client

    async def prepare(self) -> None:
        """Makes the agents and lets every part do everything once."""
        for name in AGENTS:
            await self._client.agents.create(name, instructions="Be brief.", model="stub")
        await self.run(sessions=2, rounds=2)

    async def run(self, *, sessions: int, rounds: int) -> tuple[int, float]:
        """Runs sessions at the same time. Returns the turns that were made, and the seconds."""
        began = time.perf_counter()
        started = await asyncio.gather(*(self._start(rounds) for _ in range(sessions)))
        await self._until_all_ended()
        took = time.perf_counter() - began
        ended = [await self._client.sessions.get(session_id) for session_id in started]
        if any(session.state != session_pb2.SESSION_STATE_SUCCEEDED for session in ended):
            raise RuntimeError(f"a session did not succeed: {[session.state_message for session in ended]}")
        return sum(session.turn_count for session in ended), took

    async def a_session(self) -> str:
        """Gives a session that has ended."""
        session_id = await self._start(1)
        async for _ in self._client.sessions.watch(session_id):
            pass
        return session_id

    async def _until_all_ended(self) -> None:
        # Asked of Postgres, once for all: asking the API for each session would be part of the load.
        async with connected(self._mesh.data_dir, "orchestrator") as connection:

            async def all_ended() -> bool:
                return await connection.fetchval("SELECT NOT EXISTS (SELECT FROM run WHERE state < 5)")

            await until(all_ended)

    async def _start(self, rounds: int) -> str:
        session = await self._client.sessions.start(
            "Where do rivers argue?", agents=AGENTS, max_rounds=rounds, mode="dialogue"
        )
        return session.session_id


def weigh(data: Path, name: str, *, goal: float) -> None:
    """Prints the memory of a whole mesh."""
    found = status.status(data)
    parts = sorted(((child.pss_bytes or 0) / 1e6, child.name) for child in found.children)
    note = "PSS: " + ", ".join(f"{part} {size:.0f}" for size, part in reversed(parts))
    figure(name, found.pss_bytes / 1e6, "MB", goal=goal, note=note)


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
