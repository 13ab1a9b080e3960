"""An agent that plans, from the plan that its model writes to the turn that the session records."""

import json

import pytest

from comitia.common.v1 import content_pb2
from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.errors import PermissionDenied
from tests.e2e.conftest import Tenant, until


async def test_a_plan_is_carried_out_by_tools_and_a_model_that_reads(tenant: Tenant) -> None:
    await tenant.client.agents.create("Planner", tools=["calculator"], plans=True)
    plan = [
        {"as": "product", "call": "calculator", "with": {"expression": "6 * 7"}},
        # The mark is how the provider knows whose prompt it is.
        {"as": "size", "choose": ["small", "large"], "by": f"How large? {tenant.mark}", "reading": ["$product"]},
        {"answer": "It is ${product}, which is ${size}."},
    ]
    tenant.says("Let me see.", json.dumps(plan), match=("You answer this with a plan",))
    tenant.says("1", match=("pick one option",))
    session = await tenant.start("Planner", max_rounds=1)
    ended = await tenant.ended(session.session_id)
    assert ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    [turn] = await tenant.turns(session.session_id)
    assert turn.output.content == "It is 42, which is large."
    assert [part.label.integrity for part in turn.output.parts] == [content_pb2.INTEGRITY_USER]
    assert [(use.name, use.result) for use in turn.tool_uses] == [("calculator", "42")]
    assert len(turn.hold_ids) >= 3
    replay = await tenant.client.records.replay(session.session_id)
    assert replay.same


async def test_a_key_cannot_say_that_a_person_has_read_a_text(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    tenant.says("Upstream", "Downstream")
    session = await tenant.start("Ada", max_rounds=2, manual_advance=True)
    waiting = await tenant.until_state(session.session_id, session_pb2.SESSION_STATE_WAITING)
    read = {"digest": "00" * 32, "allowed": True}
    with pytest.raises(PermissionDenied) as refused:
        await tenant.client.runs.signal(session.session_id, "plan.read", read)
    assert refused.value.reason == "PERSON_REQUIRED"
    await tenant.client.runs.signal(session.session_id, "somebody.else", read)

    async def taken() -> bool:
        return (await tenant.client.sessions.get(session.session_id)).sequence > waiting.sequence

    await until(taken)
    await tenant.client.sessions.advance(session.session_id)
    ended = await tenant.ended(session.session_id)
    assert ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    assert (await tenant.client.records.replay(session.session_id)).same
