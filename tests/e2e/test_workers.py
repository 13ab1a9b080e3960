"""Workers make the steps of runs: those of the SDK, of the command line and of Node, on a mesh of two orchestrators.

It does not matter with which orchestrator a run or a worker is: the edge gives each to either.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from comitia.orchestrator.v1 import run_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import MeshUnavailable
from comitia_sdk.worker import GiveBack, Step, StepFailed, Worker
from tests.support.mesh import CHECKOUT, RunningMesh, running_mesh
from tests.support.node import installed, node_environment, node_folder

NODE: Final = Path(__file__).parent / "node"
ENDED: Final = (run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED)
CLAIMS: Final = """
name: claims
version: 1.0.0
input_schema: {type: object, properties: {amount: {type: integer}}, required: [amount]}
nodes:
  - {id: check, step: {name: check}, input: {amount: {cel: input.amount}}}
  - {id: charge, step: {name: charge}, input: {amount: {cel: nodes.check.output.amount}}, depends_on: [check]}
output: {receipt: {cel: nodes.charge.output.receipt}}
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[RunningMesh]:
    """Gives a mesh with two orchestrators."""
    with running_mesh(orchestrators=2) as running:
        yield running


@pytest.fixture
async def client(pair: RunningMesh) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(pair.url, api_key=pair.admin_key) as opened:
        yield opened


@asynccontextmanager
async def at_work(mesh: RunningMesh, *workers: Worker) -> AsyncGenerator[None]:
    """Has workers work while the block runs."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.work(stop, url=mesh.url, api_key=mesh.admin_key))
        try:
            yield
        finally:
            stop.set()


async def run_of(client: AsyncClient, workflow: str, given: Mapping[str, Any]) -> run_pb2.Run:
    """Runs a workflow to its end."""
    run = await client.runs.start(workflow, given)
    return await ended(client, run.run_id)


async def ended(client: AsyncClient, run_id: str) -> run_pb2.Run:
    """Waits until a run has ended."""
    async with asyncio.timeout(30):
        while True:
            # An orchestrator that stops may not be missed at the edge yet.
            with suppress(MeshUnavailable):
                async for event in client.runs.watch(run_id):
                    if event.HasField("run") and event.run.state in ENDED:
                        return event.run


def text_of(run: run_pb2.Run) -> str:
    """Gives the text of a run's output."""
    return run.output.struct_value.fields["said"].string_value


async def test_functions_make_the_steps_of_many_runs(pair: RunningMesh, client: AsyncClient) -> None:
    await client.workflows.create(CLAIMS)
    worker, made = Worker("claims", concurrency=8), list[str]()

    @worker.step()
    async def check(amount: int) -> dict[str, int]:
        return {"amount": amount}

    @worker.step()
    def charge(step: Step, amount: int) -> dict[str, str]:
        made.append(step.key)
        return {"receipt": f"receipt for {amount}"}

    async with at_work(pair, worker):
        runs = await asyncio.gather(*(run_of(client, "claims", {"amount": number}) for number in range(24)))
    assert {run.state for run in runs} == {run_pb2.RUN_STATE_SUCCEEDED}
    receipts = [run.output.struct_value.fields["receipt"].string_value for run in runs]
    assert receipts == [f"receipt for {number}" for number in range(24)]
    assert len(made) == len(set(made)) == 24


async def test_a_step_that_nobody_has_begun_waits_while_its_run_is_paused(
    pair: RunningMesh, client: AsyncClient
) -> None:
    await client.workflows.create(
        """
name: held
version: 1.0.0
nodes:
  - {id: one, step: {name: note, pool: held}, input: {text: {cel: input.text}}}
"""
    )
    worker, made = Worker("held", pool="held", concurrency=1), list[str]()

    @worker.step()
    async def note(text: str) -> str:
        made.append(text)
        return text

    paused = await client.runs.start("held", {"text": "first"})
    await client.runs.pause(paused.run_id)
    async with at_work(pair, worker):
        # The worker takes what was asked for later, so it would have taken the first if that had been on offer.
        assert (await run_of(client, "held", {"text": "second"})).state == run_pb2.RUN_STATE_SUCCEEDED
        assert made == ["second"]
        await client.runs.resume(paused.run_id)
        assert (await ended(client, paused.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert made == ["second", "first"]


async def test_a_step_that_fails_is_tried_again_unless_its_worker_says_that_it_is_for_good(
    pair: RunningMesh, client: AsyncClient
) -> None:
    await client.workflows.create(
        """
name: stubborn
version: 1.0.0
nodes:
  - id: try
    step: {name: stubborn, pool: stubborn}
    policy: {retries: {max_attempts: 3, first_backoff: 10ms, jitter: 0}}
output: {said: {cel: nodes.try.output}}
"""
    )
    await client.workflows.create(
        """
name: hopeless
version: 1.0.0
nodes:
  - {id: try, step: {name: hopeless, pool: stubborn}, policy: {retries: {max_attempts: 3, first_backoff: 10ms}}}
"""
    )
    worker, attempts = Worker("stubborn", pool="stubborn"), list[int]()

    @worker.step()
    async def stubborn(step: Step) -> str:
        attempts.append(step.attempt)
        if len(attempts) == 1:
            raise GiveBack
        if step.attempt < 3:
            raise ConnectionError("not yet")
        return "at last"

    @worker.step()
    async def hopeless(step: Step) -> str:
        attempts.append(step.attempt)
        raise StepFailed("there is no such card", reason="CARD_UNKNOWN", permanent=True)

    async with at_work(pair, worker):
        run = await run_of(client, "stubborn", {})
        assert (run.state, text_of(run)) == (run_pb2.RUN_STATE_SUCCEEDED, "at last")
        assert attempts == [1, 1, 2, 3]
        attempts.clear()
        run = await run_of(client, "hopeless", {})
        assert (run.state, attempts) == (run_pb2.RUN_STATE_FAILED, [1])
        assert "CARD_UNKNOWN" in str(run)


async def test_a_cancelled_run_stops_its_function(pair: RunningMesh, client: AsyncClient) -> None:
    await client.workflows.create(
        "{name: patient, version: 1.0.0, nodes: [{id: wait, step: {name: patient, pool: patient}}]}"
    )
    worker, began, stopped = Worker("patient", pool="patient"), asyncio.Event(), asyncio.Event()

    @worker.step()
    async def patient() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with at_work(pair, worker), asyncio.timeout(20):
        run = await client.runs.start("patient", {})
        await began.wait()
        await client.runs.cancel(run.run_id)
        await stopped.wait()
        assert (await ended(client, run.run_id)).state == run_pb2.RUN_STATE_CANCELLED


async def test_the_command_line_runs_a_worker_until_it_is_told_to_stop(
    pair: RunningMesh, client: AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "greetings.py").write_text(
        """
from comitia_sdk.errors import MeshUnavailable
from comitia_sdk.worker import Worker

worker = Worker("greeter", pool="greetings")


@worker.step()
async def greet(name: str) -> str:
    return f"Hello {name}"
""",
        encoding="utf-8",
    )
    await client.workflows.create(
        """
name: greetings
version: 1.0.0
nodes: [{id: greet, step: {name: greet, pool: greetings}, input: {name: {cel: input.name}}}]
output: {said: {cel: nodes.greet.output}}
"""
    )
    variables = {**os.environ, "COMITIA_URL": pair.url, "COMITIA_API_KEY": pair.admin_key}
    command = [
        str(Path(sys.executable).with_name("comitia")),
        "worker",
        "run",
        "greetings:worker",
        "--concurrency",
        "2",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        run = await run_of(client, "greetings", {"name": "Ada"})
        assert text_of(run) == "Hello Ada"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err
    lines = out.decode().splitlines()
    assert lines[0] == "greeter makes greet of pool greetings, 2 at once"
    said = [line.split()[1] for line in lines[1:]]
    assert said == ["connected", "began", "done", "draining", "stopped"]
    assert f"greet {run.run_id} nodes/greet" in lines[2]


async def test_a_worker_in_node_needs_the_contract_alone(pair: RunningMesh, client: AsyncClient) -> None:
    folder, node = installed(NODE), node_folder()
    assert node is not None
    await client.workflows.create(
        """
name: loud
version: 1.0.0
input_schema: {type: object, properties: {texts: {type: array, items: {type: string}}}, required: [texts]}
nodes:
  - id: shout
    map: {items: {cel: input.texts}, body: {step: {name: shout, pool: node}, input: {text: {cel: item}}}}
output: {all: {cel: nodes.shout.output}}
"""
    )
    await client.workflows.create(
        """
name: quiet
version: 1.0.0
nodes: [{id: fail, step: {name: fail, pool: node}, input: {text: whisper}}]
"""
    )
    await client.workflows.create(
        """
name: vast
version: 1.0.0
nodes: [{id: swell, step: {name: swell, pool: node}, input: {text: tide}}]
"""
    )
    async with AsyncExitStack() as stack:
        process = await asyncio.create_subprocess_exec(
            *("node", "worker.mjs", pair.target, f"{CHECKOUT}/protos", f"{CHECKOUT}/third_party/protos", "node"),
            cwd=folder,
            env={**node_environment(node), "COMITIA_TOKEN": await client.identity.token()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stack.callback(lambda: process.returncode is None and process.kill())
        texts = [f"text {number}" for number in range(12)]
        run = await run_of(client, "loud", {"texts": texts})
        shouted = [item.struct_value for item in run.output.struct_value.fields["all"].list_value.values]
        assert [item["text"] for item in shouted] == [text.upper() for text in texts]
        assert all(item["by"] == "node" for item in shouted)
        run = await run_of(client, "quiet", {})
        assert run.state == run_pb2.RUN_STATE_FAILED
        assert "NODE_SAYS_NO" in str(run)
        assert "OUTPUT_TOO_LARGE" in str(await run_of(client, "vast", {}))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    assert process.returncode == 0, err
    ready, *lines = out.decode().splitlines()
    assert ready == "ready"
    assert sorted({json.loads(line)["step"] for line in lines}) == ["fail", "shout", "swell"]


async def test_both_orchestrators_use_a_worker_and_one_that_restarts_costs_no_run(
    pair: RunningMesh, client: AsyncClient
) -> None:
    """Runs are driven by either; one worker, at one of them, makes the steps of all."""
    await client.workflows.create(
        """
name: shared
version: 1.0.0
nodes:
  - {id: one, step: {name: shared, pool: shared}}
  - {id: two, step: {name: shared, pool: shared}, depends_on: [one]}
"""
    )
    worker, made = Worker("shared", pool="shared", concurrency=2), 0

    @worker.step()
    async def shared() -> None:
        nonlocal made
        made += 1

    async with at_work(pair, worker):
        runs = await asyncio.gather(*(run_of(client, "shared", {}) for _ in range(16)))
        assert {run.state for run in runs} == {run_pb2.RUN_STATE_SUCCEEDED}
        assert made == 32
        started = [await client.runs.start("shared", {}) for _ in range(8)]
        os.kill(pair.pids()["orchestrator-2"], signal.SIGTERM)
        runs = await asyncio.gather(*(ended(client, run.run_id) for run in started))
        assert {run.state for run in runs} == {run_pb2.RUN_STATE_SUCCEEDED}
