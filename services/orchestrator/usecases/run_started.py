"""Writes the first fact of a run of a workflow."""

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.orchestrator.programs import graph
from services.orchestrator.usecases.pin_workflow import PinnedWorkflow


def run_started(asked: run_pb2.Run, pinned: PinnedWorkflow, *, grant_id: str, model: str) -> journal_pb2.RunStarted:
    """Writes it.

    Args:
        asked: what is asked for, with its defaults filled in; what follows from the workflow is added.
        model: for every agent in place of its own; empty means each agent's own.
    """
    started = journal_pb2.RunStarted(
        program=graph.NAME,
        program_version=graph.VERSION,
        workflow=pinned.workflow,
        run=asked,
        agents=pinned.agents,
        prompts=pinned.prompts,
        grant_id=grant_id,
        model_override=model,
    )
    started.run.program, started.run.program_version = graph.NAME, graph.VERSION
    started.run.workflow = f"{pinned.workflow.name}@{pinned.workflow.version}"
    return started
