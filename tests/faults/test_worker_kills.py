"""The orchestrator dies around steps of workers, and workers die in them: every run ends, with one result a step."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from comitia.orchestrator.v1 import run_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import MeshUnavailable, TimedOut
from comitia_sdk.worker import Worker
from tests.faults.conftest import Stage
from tests.faults.crasher import Crasher
from tests.faults.failpoint_names import ON_STEPS
from tests.faults.workload import patiently
from tests.support.mesh import CHECKOUT

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("mesh-faults")]

RUNS = 12
WORKFLOW = """
name: sums
version: 1.0.0
input_schema: {type: object, properties: {number: {type: integer}}, required: [number]}
nodes:
  - {id: a, step: {name: add, pool: kills}, input: {number: {cel: input.number}}}
  - {id: b, step: {name: add, pool: kills}, input: {number: {cel: nodes.a.output}}, depends_on: [a]}
output: {sum: {cel: nodes.b.output}}
"""
WORKER = """
import asyncio
from comitia_sdk.worker import Worker

worker = Worker("mortal", pool="kills", concurrency=2)


@worker.step()
async def add(number: int) -> int:
    await asyncio.sleep(0.05)
    return number + 1
"""


async def test_runs_end_well_while_the_orchestrator_dies_around_their_steps(
    stage: Stage, client: AsyncClient, crasher: Crasher
) -> None:
    worker = Worker("lasting", pool="kills", concurrency=4)

    @worker.step()
    async def add(number: int) -> int:
        return number + 1

    stop = asyncio.Event()
    await client.workflows.create(WORKFLOW)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.work(stop, url=stage.mesh.url, api_key=stage.mesh.admin_key))
        runs = [group.create_task(_run(client, number)) for number in range(RUNS)]
        for name in ON_STEPS:
            runs += [group.create_task(_run(client, number)) for number in range(RUNS)]
            await crasher.at(name)
        await asyncio.gather(*runs)
        stop.set()
    assert crasher.reached == list(ON_STEPS)
    _check([run.result() for run in runs])


async def test_runs_end_well_while_workers_are_killed(stage: Stage, client: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(WORKER)
    await client.workflows.create(WORKFLOW)
    runs = [asyncio.create_task(_run(client, number)) for number in range(RUNS)]
    async with _worker(stage, tmp_path):
        for _ in range(3):
            async with _worker(stage, tmp_path) as mortal:
                await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED, timeout=20)
                mortal.send_signal(signal.SIGKILL)
                await mortal.wait()
            runs += [asyncio.create_task(_run(client, number)) for number in range(RUNS)]
        await asyncio.gather(*runs)
    _check([run.result() for run in runs])


@asynccontextmanager
async def _worker(stage: Stage, folder: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Runs a worker as a process of its own."""
    environment = {**stage.mesh.environment, "COMITIA_URL": stage.mesh.url, "COMITIA_API_KEY": stage.mesh.admin_key}
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("comitia")), "worker", "run", "mortal:worker"),
        env={**environment, "PYTHONPATH": os.pathsep.join((str(folder), str(CHECKOUT)))},
        cwd=folder,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _run(client: AsyncClient, number: int) -> tuple[int, run_pb2.Run]:
    """Runs the workflow once, as a patient client does."""
    request_id = str(uuid4())
    started = await patiently(lambda: client.runs.start("sums", {"number": number}, request_id=request_id))
    async with asyncio.timeout(100):
        while True:
            with suppress(MeshUnavailable, TimedOut):
                async for event in client.runs.watch(started.run_id):
                    if event.HasField("run") and event.run.HasField("end_time"):
                        return number, event.run
            await asyncio.sleep(0.1)


def _check(ended: list[tuple[int, run_pb2.Run]]) -> None:
    assert len(ended) >= 3 * RUNS
    for number, run in ended:
        assert run.state == run_pb2.RUN_STATE_SUCCEEDED, run
        assert run.output.struct_value.fields["sum"].number_value == number + 2
        assert run.steps.succeeded == 2
