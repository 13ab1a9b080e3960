"""What the facts of a run ask for, and who gets it to make."""

import asyncio
from contextvars import Context
from typing import cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.calls_in_flight import CallsInFlight
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.run import OwnedRun, shard_of
from services.orchestrator.engine.sub_runs import SubRuns
from tests.support.run_store import HeldCalls, LocalLive
from tests.support.sessions import a_start
from tests.support.step_workers import Bench
from tests.support.workflows import a_node, a_run, a_workflow

IDS = SystemIds()


@pytest.mark.parametrize(("project", "others"), [("claims", ("", "payroll")), ("", ("claims",))])
async def test_a_step_is_offered_to_those_who_serve_the_project_of_its_run(
    project: str, others: tuple[str, ...]
) -> None:
    started = a_run(a_workflow(a_node("only")))
    started.run.metadata["project"] = project
    bench, run_id = Bench(), IDS.new("run")
    live = LiveRun(OwnedRun(tenant=TENANT, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id)))
    begun = live.begin(started, Timestamp())
    live.recorded(begun)
    calls = CallsInFlight(
        calls=HeldCalls(),
        sub_runs=cast("SubRuns", None),
        steps=bench.pools,
        live=LocalLive(),
        clock=bench.clock,
        touch=lambda _: None,
    )
    async with asyncio.TaskGroup() as group:
        calls.open(group, Context())
        with bench.worker("work", projects=others, name="other") as other:
            calls.make(live, begun.entries)
            assert other.hears() == []
        with bench.worker("work", projects=(project,)) as worker:
            assert [(lease.run_id, lease.name) for lease in worker.hears()] == [(run_id, "work")]


def test_a_session_has_its_project_as_a_run_does() -> None:
    started = a_start()
    started.session.MergeFrom(session_pb2.Session(metadata={"project": "claims"}))
    run_id = IDS.new("run")
    live = LiveRun(OwnedRun(tenant=TENANT, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id)))
    live.begin(journal_pb2.RunStarted.FromString(started.SerializeToString()), Timestamp())
    assert live.project == "claims"
