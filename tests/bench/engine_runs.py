"""The workflows of `tests.bench.engine`: steps that do nothing, in a row or side by side."""

from functools import cache

from comitia.orchestrator.v1 import journal_pb2, run_pb2, workflow_pb2
from services.orchestrator.programs import graph
from services.orchestrator.programs.values import to_value
from services.orchestrator.prompts import load_prompts

#: Name of the step.
STEP = "nothing"
#: Read once, as the service does.
_PROMPTS = load_prompts()


@cache
def workflow(steps: int, shape: str) -> workflow_pb2.Workflow:
    """Gives a workflow of so many steps.

    Args:
        shape: `chain` (one after the other), `fan` (one, then all the others side by side, then one), `long` (one after
            the other, without a node for each) or `waiting` (they wait for a signal).
    """
    made = workflow_pb2.Workflow(name=f"{shape}-{steps}", version="1.0.0")
    if shape == "chain":
        for number in range(steps):
            node = made.nodes.add(id=f"n{number}")
            node.step.name = STEP
            if number:
                node.depends_on.add(node=f"n{number - 1}")
    elif shape == "waiting":
        made.nodes.add(id="wait").wait.signal = "go"
    else:
        if shape == "fan":
            made.nodes.add(id="first").step.name = STEP
        items = made.nodes.add(id="items")
        items.map.items.literal.CopyFrom(to_value(list[int](range(steps))))
        items.map.body.step.name = STEP
        items.map.max_items, items.map.max_parallel = steps, 1 if shape == "long" else 1_000
        if shape == "fan":
            items.depends_on.add(node="first")
            last = made.nodes.add(id="last")
            last.step.name = STEP
            last.depends_on.add(node="items")
    return made


def started(run_id: str, steps: int, shape: str) -> journal_pb2.RunStarted:
    """Gives the first fact of a run."""
    definition = workflow(steps, shape)
    run = run_pb2.Run(
        run_id=run_id,
        program=graph.NAME,
        program_version=graph.VERSION,
        workflow=f"{definition.name}@{definition.version}",
    )
    return journal_pb2.RunStarted(
        program=graph.NAME, program_version=graph.VERSION, workflow=definition, run=run, prompts=_PROMPTS
    )
