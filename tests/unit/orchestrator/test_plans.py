"""Large workflows are compiled on a thread, and what was compiled is kept for the loop."""

import threading

import pytest

from comitia.orchestrator.v1 import journal_pb2, workflow_pb2
from services.orchestrator.engine import plans
from services.orchestrator.programs import graph, graph_plan
from services.orchestrator.programs.expressions import Expressions
from tests.support.workflows import a_node, a_workflow


def a_started(nodes: int) -> journal_pb2.RunStarted:
    workflow = a_workflow(*(a_node(f"node_{number}") for number in range(nodes)))
    return journal_pb2.RunStarted(workflow=workflow)


async def test_a_large_workflow_is_compiled_on_a_thread_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def language(workflow: workflow_pb2.Workflow) -> graph_plan.Language:
        threads.append(threading.current_thread())
        return Expressions(workflow)

    kept = graph.Plans(language)
    monkeypatch.setattr(plans, "PLANS", kept)
    await plans.prepare(a_started(2))
    assert threads == []
    large = a_started(2_000)
    await plans.prepare(large)
    plan = kept.of(large.workflow)
    assert kept.of(large.workflow) is plan
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
