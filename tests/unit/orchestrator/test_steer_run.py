"""Signals that only a person can send, and what can be resumed."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from comitia.orchestrator.v1 import run_pb2
from services.meshkit.core.audit import AuditDraft, pending_draft
from services.meshkit.core.identity import Caller, Principal, Role
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import PersonRequired, RunNotPaused, RunStandsStill
from services.orchestrator.usecases.steer import Steering
from services.orchestrator.usecases.steer_run import PauseRun, ResumeRun, SignalRun


class Steered:
    """Takes every command, and keeps what the audit trail will say of it."""

    def __init__(self) -> None:
        self.drafts: list[AuditDraft | None] = []

    async def __call__(self, *_: object, **__: object) -> run_pb2.Run:
        self.drafts.append(pending_draft())
        return run_pb2.Run(run_id="run_1")


def a_caller(subject: str, *, run_id: str | None = None) -> Caller:
    roles = frozenset({Role.TENANT_USER})
    return Caller(principal=Principal(tenant=TENANT, subject=subject, roles=roles, run_id=run_id))


async def signalled(caller: Caller, name: str, steered: Steered | None = None) -> str:
    signal_run = SignalRun(cast(Steering[run_pb2.Run], steered or Steered()))
    payload: Any = {"digest": "00", "allowed": True}
    return (await signal_run(caller, "run_1", name, payload)).run_id


@pytest.mark.parametrize("caller", [a_caller("key_1"), a_caller("svc_1"), a_caller("user_1", run_id="run_2")])
async def test_no_program_says_that_a_person_has_read_a_text(caller: Caller) -> None:
    with pytest.raises(PersonRequired):
        await signalled(caller, "plan.read")
    assert await signalled(caller, "go") == "run_1"


async def test_a_person_says_what_they_have_read() -> None:
    assert await signalled(a_caller("user_1"), "plan.read") == "run_1"


async def test_the_audit_trail_tells_who_let_which_text_pass() -> None:
    steered = Steered()
    await signalled(a_caller("user_1"), "plan.read", steered)
    await signalled(a_caller("user_1"), "go", steered)
    [draft, none] = steered.drafts
    assert none is None
    assert draft is not None
    assert (draft.action, draft.tenant, draft.actor, draft.target) == ("runs.endorse", TENANT, "user_1", "run_1")
    assert draft.details == {"digest": "00", "allowed": "True"}


def parked_with(reason: str) -> Steering[run_pb2.Run]:
    """Steers a run that is parked as a whole."""

    async def judged(_: object, run_id: str, kind: str, judge: Callable[[run_pb2.Run], Awaitable[bool]]) -> run_pb2.Run:
        run = run_pb2.Run(run_id=run_id, state=run_pb2.RUN_STATE_PARKED, state_reason=reason)
        await judge(run)
        return run

    return cast(Steering[run_pb2.Run], judged)


@pytest.mark.parametrize(
    ("reason", "resumed"), [("ENGINE_FAULT", True), ("UNAVAILABLE", False), ("RUN_DIVERGED", False)]
)
async def test_of_runs_that_are_parked_as_a_whole_those_go_on_that_failed_by_a_fault(
    reason: str, resumed: bool
) -> None:
    async def no_steps(*_: object) -> Sequence[run_pb2.RunStep]:
        return ()

    resume_run = ResumeRun(parked_with(reason), steps=no_steps)
    if resumed:
        assert (await resume_run(a_caller("key_1"), "run_1")).state_reason == reason
    else:
        with pytest.raises(RunNotPaused, match="by itself, or with another release, or with CancelRun"):
            await resume_run(a_caller("key_1"), "run_1")


@pytest.mark.parametrize("reason", ["UNAVAILABLE", "STEP_PARKED", "TENANT_SUSPENDED", "ENGINE_FAULT"])
async def test_a_parked_run_that_can_go_on_is_paused(reason: str) -> None:
    assert (await PauseRun(parked_with(reason))(a_caller("key_1"), "run_1")).state_reason == reason


@pytest.mark.parametrize(
    "reason",
    ["RUN_DIVERGED", "PROGRAM_UNKNOWN", "JOURNAL_UNKNOWN", "KEY_DESTROYED", "SEAL_BROKEN", "BLOB_MISSING"],
)
async def test_a_pause_that_no_engine_could_keep_is_refused(reason: str) -> None:
    with pytest.raises(RunStandsStill, match=reason):
        await PauseRun(parked_with(reason))(a_caller("key_1"), "run_1")
