"""How long steps took is told once they are recorded, and how many rounds a session had once it has ended."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.ids import SystemIds
from services.meshkit.telemetry import names
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.run import OwnedRun, RunView, RunWrite, shard_of
from services.orchestrator.engine.step_times import StepTimes

RUN_ID = SystemIds().new("run")
RUN = OwnedRun(tenant=TENANT, run_id=RUN_ID, shard=shard_of(RUN_ID), grant_id="grant_1")


def shown(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def at(seconds: int, **fact: Any) -> journal_pb2.JournalEntry:
    entry = journal_pb2.JournalEntry(path="rounds/1/Ada", **fact)
    entry.record_time.seconds = seconds
    return entry


def written(*entries: journal_pb2.JournalEntry, view: RunView | None = None) -> RunWrite:
    return RunWrite(run=RUN, first_sequence=1, entries=entries, view=view)


def test_a_step_is_measured_from_its_first_fact_to_its_last() -> None:
    labels = {"program": "turn", "outcome": "failed"}
    name = names.STEP_DURATION_SECONDS
    before = shown(f"{name}_sum", **labels)
    times = StepTimes()
    times.recorded(written(at(10, step_started=journal_pb2.StepStarted(program="turn", agent="Ada@1"))))
    times.recorded(written(at(13, step_failed=journal_pb2.StepFailed(reason="BUDGET_EXHAUSTED"))))
    # It was begun by nobody here: another replica, or this one before it was started anew.
    times.recorded(written(at(99, step_completed=journal_pb2.StepCompleted())))
    assert shown(f"{name}_sum", **labels) - before == pytest.approx(3)


def test_a_step_that_is_tried_again_is_measured_from_its_first_attempt() -> None:
    labels = {"program": "turn", "outcome": "completed"}
    name = names.STEP_DURATION_SECONDS
    before = shown(f"{name}_sum", **labels)
    times = StepTimes()
    for seconds, attempt_group in ((10, 0), (300, 0), (310, 1), (320, 1)):
        begun = journal_pb2.StepStarted(program="turn", agent="Ada@1", attempt_group=attempt_group)
        times.recorded(written(at(seconds, step_started=begun)))
        if seconds in (300, 320):
            times.recorded(written(at(seconds + 1, step_completed=journal_pb2.StepCompleted())))
    assert shown(f"{name}_sum", **labels) - before == pytest.approx((301 - 10) + (321 - 310))


def test_a_run_that_belongs_to_another_replica_is_measured_no_further() -> None:
    labels = {"program": "turn", "outcome": "completed"}
    name = names.STEP_DURATION_SECONDS
    before = shown(f"{name}_count", **labels)
    times = StepTimes()
    times.recorded(written(at(10, step_started=journal_pb2.StepStarted(program="turn", agent="Ada@1"))))
    times.forget(RUN.shard)
    times.recorded(written(at(13, step_completed=journal_pb2.StepCompleted())))
    assert shown(f"{name}_count", **labels) == before


def test_rounds_are_counted_by_mode_and_by_whether_the_agents_converged() -> None:
    labels = {"mode": "debate", "converged": "true"}
    before = shown(f"{names.SESSION_ROUNDS}_sum", **labels)
    ended = session_pb2.Session(mode=session_pb2.SESSION_MODE_DEBATE, converged=True, rounds_executed=4)
    StepTimes().recorded(written(at(1, run_ended=journal_pb2.RunEnded(converged=True)), view=ended))
    assert shown(f"{names.SESSION_ROUNDS}_sum", **labels) - before == 4
