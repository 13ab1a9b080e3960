"""The tenant's law in sessions: it warns, redacts and stops, and every match is on the record."""

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia.policy.v1 import policy_pb2
from comitia_sdk.errors import PermissionDenied
from tests.e2e.conftest import Tenant, until

SUCCEEDED = session_pb2.SESSION_STATE_SUCCEEDED
SECRET = "AKIA" + "ABCDEFGHIJKLMNOP"


def rule(action: str, *, name: str = "no_swords", stages: str = "[before, during, after]") -> str:
    return f"rules: [{{name: {name}, type: keyword, keywords: [sword], action: {action}, stages: {stages}}}]"


async def violations(tenant: Tenant, session_id: str = "") -> list[policy_pb2.Violation]:
    return [one async for one in tenant.client.policies.violations(run_id=session_id)]


async def test_a_warning_lets_the_session_go_on_and_is_on_the_record(tenant: Tenant) -> None:
    bundle = await tenant.client.policies.apply(rule("warn"), name="arms", version="1.0.0")
    await tenant.cast("Ada")
    tenant.says("I draw my sword.")
    session = await tenant.start("Ada", max_rounds=1)
    ended = await tenant.ended(session.session_id)
    [turn] = await tenant.turns(session.session_id)

    assert (ended.state, turn.output.content) == (SUCCEEDED, "I draw my sword.")
    assert turn.bundle_digest == bundle.digest
    assert {(one.name, one.status) for one in turn.monitors if one.stage == "after"} == {("no_swords", "warn")}
    found = await violations(tenant, session.session_id)
    after = [one for one in found if one.stage == policy_pb2.STAGE_AFTER and one.operation == 1]
    assert [(one.rule, one.action, one.bundle) for one in after] == [
        ("no_swords", policy_pb2.ACTION_WARN, "arms@1.0.0"),
    ]
    assert (after[0].path, after[0].agent_name) == ("rounds/1/Ada", "Ada")
    assert after[0].verdict_id in turn.verdict_ids
    assert "sword" not in after[0].rationale

    async def listed_alike() -> bool:
        """What remembers the turn is judged after the session has ended, so the record may still grow."""
        found = await violations(tenant, session.session_id)
        listed = await tenant.rest.ask("GET", f"/violations?run_id={session.session_id}&rule=no_swords")
        return {one["violation_id"] for one in listed.body["violations"]} == {one.violation_id for one in found}

    await until(listed_alike)


async def test_a_topic_that_the_law_blocks_never_reaches_the_provider(tenant: Tenant) -> None:
    await tenant.client.policies.apply(rule("block"), name="arms", version="1.0.0")
    await tenant.cast("Ada")
    session = await tenant.start("Ada", about="A sword", max_rounds=2)
    ended = await tenant.ended(session.session_id)
    assert (ended.state, ended.state_reason) == (session_pb2.SESSION_STATE_FAILED, "LAW_BLOCKED")
    assert "no_swords" in ended.state_message
    assert (ended.turn_count, ended.cost_nano_usd) == (0, 0)
    assert [call for call in tenant.provider.meter(tenant.mark)["calls"] if "messages" in call["body"]] == []
    [found] = [one for one in await violations(tenant, session.session_id) if one.operation == 1]
    assert (found.stage, found.action) == (policy_pb2.STAGE_BEFORE, policy_pb2.ACTION_BLOCK)
    budget = await tenant.client.costs.budget(ended.budget_id)
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (0, 0)


async def test_an_answer_that_the_law_blocks_is_paid_for_and_never_shown(tenant: Tenant) -> None:
    await tenant.client.policies.apply(rule("block", stages="[after]"), name="arms", version="1.0.0")
    await tenant.cast("Ada")
    tenant.says("A sword it is")
    session = await tenant.start("Ada", max_rounds=1)
    shown = [event async for event in tenant.client.sessions.watch(session.session_id)]
    ended = shown[-1].session_ended
    assert (ended.state, ended.state_reason) == (session_pb2.SESSION_STATE_FAILED, "LAW_BLOCKED")
    assert await tenant.turns(session.session_id) == []
    spent = await tenant.client.costs.summary(by="agent", run_id=session.session_id)
    assert (spent.event_count, spent.assumed_nano_usd) == (1, 0)
    assert [memory async for memory in tenant.client.memories.list()] == []


async def test_what_the_law_redacts_is_neither_sent_nor_shown_nor_remembered(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    tenant.says(f"Your key is {SECRET}, keep it.")
    session = await tenant.start("Ada", about=f"My key is {SECRET}.", max_rounds=1)
    shown = [event async for event in tenant.client.sessions.watch(session.session_id)]
    [turn] = await tenant.turns(session.session_id)

    assert turn.output.content == "Your key is [redacted:api_key], keep it."
    live = "".join(event.text_delta.text for event in shown)
    assert SECRET not in live
    asked = [call["body"] for call in tenant.provider.meter(tenant.mark)["calls"]]
    assert asked
    assert SECRET not in str(asked)
    assert "[redacted:api_key]" in str(asked)
    remembered = [part.text.text async for memory in tenant.client.memories.list() for part in memory.parts]
    assert remembered == ["Your key is [redacted:api_key], keep it."]
    assert {"redact"} == {one.status for one in turn.monitors if one.name == "api_key"}
    assert {one.action for one in await violations(tenant)} == {policy_pb2.ACTION_REDACT}


async def test_the_law_of_the_next_call_is_the_bundle_that_was_activated_last(tenant: Tenant) -> None:
    policies = tenant.client.policies
    strict = await policies.apply(rule("block"), name="arms", version="1.0.0")
    with pytest.raises(PermissionDenied) as refused:
        await tenant.client.models.generate(f"A sword {tenant.mark}")
    assert (refused.value.reason, refused.value.metadata["rules"]) == ("LAW_BLOCKED", "no_swords")
    assert refused.value.metadata["stage"] == "before"
    await policies.apply(rule("warn"), name="arms", version="1.1.0", keep_inactive=True)
    with pytest.raises(PermissionDenied):
        await tenant.client.models.generate(f"A sword {tenant.mark}")
    lax = await policies.activate("arms@1.1.0")
    assert lax.active
    allowed = await tenant.client.models.generate(f"A sword {tenant.mark}")
    assert allowed.bundle_digest == lax.digest != strict.digest
    assert [(one.name, one.version) async for one in policies.list() if one.active] == [("arms", "1.1.0")]
    await policies.activate("ground@1.0.0")
    again = await tenant.client.models.generate(f"A sword {tenant.mark}")
    assert again.bundle_digest not in (lax.digest, strict.digest)


async def test_the_law_judges_tools_and_memories_too(tenant: Tenant) -> None:
    await tenant.client.policies.apply(rule("block"), name="arms", version="1.0.0")
    with pytest.raises(PermissionDenied) as refused:
        await tenant.client.memories.remember("A sword lies in the lake.")
    assert refused.value.reason == "LAW_BLOCKED"
    assert [memory async for memory in tenant.client.memories.list()] == []
    with pytest.raises(PermissionDenied) as refused:
        await tenant.client.tools.invoke("calculator", {"expression": "sword"})
    assert refused.value.reason == "LAW_BLOCKED"
    assert {one.operation for one in await violations(tenant)} == {
        policy_pb2.OPERATION_REMEMBER,
        policy_pb2.OPERATION_INVOKE_TOOL,
    }
