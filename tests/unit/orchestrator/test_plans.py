"""Large workflows are compiled on a thread, and what was compiled is kept for the loop."""

import threading
from unittest.mock import AsyncMock
from uuid import UUID

import pytest

from comitia.orchestrator.v1 import journal_pb2, workflow_pb2
from services.meshkit.core.identity import Caller, Principal, TenantId
from services.orchestrator.engine import plans
from services.orchestrator.programs import graph, graph_plan
from services.orchestrator.programs.expressions import Expressions
from services.orchestrator.programs.run import PROGRAMS
from services.orchestrator.usecases.recorded_runs import RecordedRun
from services.orchestrator.usecases.replay_run import ReplayRun
from tests.support.workflows import a_node, a_workflow


def a_started(nodes: int) -> journal_pb2.RunStarted:
    workflow = a_workflow(*(a_node(f"node_{number}") for number in range(nodes)))
    return journal_pb2.RunStarted(workflow=workflow)


def counted(threads: list[threading.Thread]) -> graph.Plans:
    """Makes a store of plans that notes which threads compile."""

    def language(workflow: workflow_pb2.Workflow) -> graph_plan.Language:
        threads.append(threading.current_thread())
        return Expressions(workflow)

    return graph.Plans(language)


async def test_a_large_workflow_is_compiled_on_a_thread_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    kept = counted(threads)
    monkeypatch.setattr(plans, "PLANS", kept)
    await plans.prepare(a_started(2))
    assert threads == []
    large = a_started(2_000)
    await plans.prepare(large)
    plan = kept.of(large.workflow)
    assert kept.of(large.workflow) is plan
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_a_replay_has_a_large_workflow_compiled_on_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    monkeypatch.setattr(plans, "PLANS", counted(threads))
    tenant, run_id = TenantId(UUID(int=1)), "run_01jd0000000000000000000000"
    records = AsyncMock(rows=AsyncMock(return_value=()), archived=AsyncMock(return_value=None))
    run = RecordedRun(tenant=tenant, run_id=run_id, last_sequence=0, started=a_started(1_500), _records=records)
    opened = AsyncMock(open=AsyncMock(return_value=run))
    caller = Caller(principal=Principal(tenant=tenant, subject="user_1", roles=frozenset()))
    await ReplayRun(runs=opened, programs=PROGRAMS)(caller, run_id)
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_plans_are_kept_by_what_they_take_and_not_by_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_PLANS_BYTES", 1_000_000)
    kept = counted([])
    for number in range(10):
        started = a_started(100)
        started.workflow.nodes[0].id = f"other_{number}"
        kept.of(started.workflow)
    # A node takes about 2 KB, whatever is written of it.
    assert len(kept) == 4
