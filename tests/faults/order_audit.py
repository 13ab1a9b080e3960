"""What must hold of orders after any fault: enough of them end, and what they did was done once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.json_format import MessageToDict

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from comitia_sdk.aio import AsyncClient
from services.orchestrator.programs.run_view import RunProjection
from tests.faults.journals import Journals, journals
from tests.faults.order_effects import effect_of
from tests.faults.orders import PARCEL_STEP, Order
from tests.support.mesh import RunningMesh
from tests.support.mesh_databases import connected

#: Share of orders that end well, however much dies meanwhile.
FLOOR: Final = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFindings:
    """How much there was to check; a test states a floor, or it could pass on nothing."""

    orders: int
    finished: int
    #: Steps of workers that were recorded, their effects, and attempts that failed on the way.
    steps: int
    effects: int
    failed_attempts: int
    #: Rows of the tool's calls.
    tool_calls: int


async def audit_orders(
    mesh: RunningMesh, client: AsyncClient, orders: Sequence[Order], effects: Path, *, floor: float = 1.0
) -> OrderFindings:
    """Checks all orders once they are over.

    Args:
        floor: share of them that has to have ended well.
    Raises: AssertionError: too few did, or something was lost, doubled, or not paid for.
    """
    finished = [order for order in orders if order.finished]
    unfinished = [order.run for order in orders if not order.finished]
    assert len(finished) >= floor * len(orders), f"{len(unfinished)} of {len(orders)} did not end well: {unfinished}"
    steps = failed = 0
    recorded = set[str]()
    async with journals(mesh) as opened:
        for order in finished:
            answers, lost = await _check_order(client, opened, order, effects)
            steps, failed = steps + len(answers), failed + lost
            recorded |= answers
    unknown = _names(effects) - recorded
    assert not unknown or unfinished, f"effects of steps that nobody recorded: {sorted(unknown)}"
    return OrderFindings(
        orders=len(orders),
        finished=len(finished),
        steps=steps,
        effects=len(recorded),
        failed_attempts=failed,
        tool_calls=await _check_tool_calls(mesh, finished),
    )


async def _check_order(client: AsyncClient, opened: Journals, order: Order, effects: Path) -> tuple[set[str], int]:
    """Returns: files of what workers did for it, and attempts that failed."""
    run = order.run
    assert MessageToDict(run.output) == order.due
    seen = {step.path: step async for step in client.runs.steps(run.run_id, page_size=100)}
    assert run.cost_nano_usd == sum(step.cost_nano_usd for step in seen.values()) > 0
    parcel = seen["nodes/parcel"].started_run_id
    answers, failed = await _check_run(opened, run, order.steps, effects)
    of_parcel = await _check_run(opened, await client.runs.get(parcel), {PARCEL_STEP}, effects)
    return answers | of_parcel[0], failed + of_parcel[1]


async def _check_run(opened: Journals, run: run_pb2.Run, steps: set[str], effects: Path) -> tuple[set[str], int]:
    """Replays a run, and compares what it has recorded of its workers' steps with what they did to the world."""
    assert run.state == run_pb2.RUN_STATE_SUCCEEDED, run
    projection, answers = RunProjection(), Counter[str]()
    failed = 0
    for sequence, entry in enumerate(await opened.replayed(run.run_id), start=1):
        projection.take(entry, sequence)
        if entry.path in steps and entry.HasField("call_answered"):
            answers[entry.path] += 1
            file = effect_of(effects, f"{run.run_id}/{entry.path}")
            assert file.read_text(encoding="utf-8") == _receipt(entry.call_answered)
        failed += entry.path in steps and entry.HasField("call_failed")
    assert projection.run == run
    assert answers == dict.fromkeys(steps, 1)
    return {effect_of(effects, f"{run.run_id}/{path}").name for path in steps}, failed


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def _receipt(answered: journal_pb2.CallAnswered) -> str:
    result = journal_pb2.StepResult.FromString(answered.response)
    receipt: str = MessageToDict(result.output)["receipt"]
    return receipt


async def _check_tool_calls(mesh: RunningMesh, orders: Sequence[Order]) -> int:
    """One effect a call: the node's own, and that of the agent's turn."""
    runs = [order.run.run_id for order in orders]
    async with connected(mesh.data_dir, "tools") as connection:
        rows = await connection.fetch("SELECT run_id, path, attempt_group, state FROM invocation")
    mine = [row for row in rows if row["run_id"] in set(runs)]
    of_nodes = Counter((row["run_id"], row["path"]) for row in mine if row["path"] == "nodes/price")
    assert of_nodes == dict.fromkeys(((run, "nodes/price") for run in runs), 1)
    assert {row["state"] for row in mine} == {"confirmed"}
    return len(mine)
