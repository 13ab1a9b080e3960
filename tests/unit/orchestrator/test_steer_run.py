"""Signals that only a person can send."""

from typing import Any, cast

import pytest

from comitia.orchestrator.v1 import run_pb2
from services.meshkit.core.audit import AuditDraft, pending_draft
from services.meshkit.core.identity import Caller, Principal, Role
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import PersonRequired
from services.orchestrator.usecases.steer import Steering
from services.orchestrator.usecases.steer_run import SignalRun


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
