"""A tenant finds nothing of another: not by id, not in lists, sums, recalls or watches (INV-12)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.errors import NotFound
from tests.e2e.conftest import MakeTenant, Tenant, until


@pytest.fixture
async def owner(tenant: Tenant) -> Tenant:
    """Gives a tenant that has one of everything."""
    await tenant.cast("Ada", semantic_matches=3)
    await tenant.client.policies.apply(
        "rules: [{name: no_swords, type: keyword, keywords: [sword], action: warn}]", name="arms", version="1.0.0"
    )
    tenant.says("The sword of Ada is in the lake.")
    return tenant


async def of(generator: Any) -> list[Any]:
    return [one async for one in generator]


Attempt = Callable[[], Awaitable[Any]]


async def test_ids_of_another_tenant_do_not_exist(owner: Tenant, make_tenant: MakeTenant) -> None:
    stranger = await make_tenant()
    session = await owner.start("Ada", max_rounds=2, manual_advance=True)
    await owner.until_state(session.session_id, session_pb2.SESSION_STATE_WAITING)
    run, budget = session.session_id, session.budget_id
    [memory, *_] = await of(owner.client.memories.list())
    [key] = await of(owner.client.identity.list_keys())
    mine = {"name": "own_tool", "description": "Computes.", "builtin": "calculator", "input_schema": {"type": "object"}}
    body = {"tool": {**mine, "execution_mode": "EXECUTION_MODE_BUILTIN"}}
    assert (await owner.rest.ask("POST", "/v1/tools", body)).status == 200
    client = stranger.client
    attempts: list[tuple[str, Attempt]] = [
        ("AGENT_NOT_FOUND", lambda: client.agents.get("Ada")),
        ("AGENT_NOT_FOUND", lambda: stranger.start("Ada")),
        ("SESSION_NOT_FOUND", lambda: client.sessions.get(run)),
        ("SESSION_NOT_FOUND", lambda: of(client.sessions.turns(run))),
        ("SESSION_NOT_FOUND", lambda: of(client.sessions.watch(run))),
        ("SESSION_NOT_FOUND", lambda: client.sessions.advance(run)),
        ("SESSION_NOT_FOUND", lambda: client.sessions.cancel(run)),
        ("MEMORY_NOT_FOUND", lambda: client.memories.get(memory.memory_id)),
        ("MEMORY_NOT_FOUND", lambda: client.memories.forget(memory.memory_id)),
        ("BUNDLE_NOT_FOUND", lambda: client.policies.get("arms@1.0.0")),
        ("BUNDLE_NOT_FOUND", lambda: client.policies.activate("arms@1.0.0")),
        ("TOOL_NOT_FOUND", lambda: client.tools.get("own_tool")),
        ("TOOL_NOT_FOUND", lambda: client.tools.invoke("own_tool", {})),
        ("BUDGET_NOT_FOUND", lambda: client.costs.budget(budget)),
        ("BUDGET_NOT_FOUND", lambda: client.costs.set_limit(0, budget_id=budget)),
        ("NOT_FOUND", lambda: client.identity.revoke_key(key.api_key_id)),
    ]
    for reason, attempt in attempts:
        with pytest.raises(NotFound) as refused:
            await attempt()
        assert refused.value.reason == reason
    for path in (f"/v1/sessions/{run}", f"/v1/memories/{memory.memory_id}", f"/v1/budgets/{budget}", "/v1/agents/Ada"):
        assert (await stranger.rest.ask("GET", path)).status == 404
        assert (await owner.rest.ask("GET", path)).status == 200
    # Nothing of it was changed by the attempts.
    assert (await owner.client.sessions.get(run)).state == session_pb2.SESSION_STATE_WAITING
    assert (await owner.client.costs.budget(budget)).limit_nano_usd == session.max_cost_nano_usd
    assert (await owner.client.identity.whoami()).subject == key.api_key_id
    await owner.client.sessions.cancel(run)


async def test_lists_sums_and_recalls_hold_nothing_of_another_tenant(owner: Tenant, make_tenant: MakeTenant) -> None:
    stranger = await make_tenant()
    session = await owner.start("Ada", max_rounds=1)
    await owner.ended(session.session_id)
    run, topic = session.session_id, session.topic_start

    async def found(by: Tenant) -> bool:
        return bool((await by.client.memories.recall(topic, agent_name="Ada")).semantic)

    await until(lambda: found(owner))
    client = stranger.client
    recalled = await client.memories.recall(topic, session_id=run, recent_turns=10, semantic_matches=10)
    assert (list(recalled.recent), list(recalled.semantic), recalled.semantic_skipped) == ([], [], False)
    for whole in (
        client.agents.list(),
        client.sessions.list(),
        client.memories.list(),
        client.memories.list(session_id=run),
        client.costs.events(run_id=run),
        client.policies.violations(),
        client.policies.violations(run_id=run),
    ):
        assert await of(whole) == []
    assert [bundle.name for bundle in await of(client.policies.list())] == ["ground"]
    assert {tool.name for tool in await of(client.tools.list())} == {"calculator", "http_get"}
    assert len(await of(client.identity.list_keys())) == 1
    budgets = (await stranger.rest.ask("GET", "/v1/budgets")).body["budgets"]
    assert {budget["scope"] for budget in budgets} <= {"BUDGET_SCOPE_TENANT"}
    assert (await client.costs.summary(run_id=run)).total_nano_usd == 0
    # The stranger's own recall was paid; the owner's turn was not added to it.
    assert (await client.costs.summary()).total_nano_usd < (await owner.client.costs.summary()).total_nano_usd


async def all_embedded(tenant: Tenant) -> bool:
    return all(memory.embedded for memory in await of(tenant.client.memories.list()))


async def test_a_watch_of_violations_shows_only_ones_own(owner: Tenant, make_tenant: MakeTenant) -> None:
    stranger = await make_tenant()
    await stranger.client.policies.apply(
        "rules: [{name: no_bows, type: keyword, keywords: [bow], action: warn}]", name="arms", version="1.0.0"
    )

    async def watch() -> list[str]:
        async for one in stranger.client.policies.watch_violations():
            return [one.rule, one.run_id]
        return []

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        session = await owner.start("Ada", max_rounds=1)
        await owner.ended(session.session_id)
        await stranger.client.memories.remember("A bow.")
    assert watching.result()[0] == "no_bows"
    assert await of(owner.client.policies.violations(rule="no_bows")) == []


async def test_nobody_spends_from_the_budget_of_a_run(owner: Tenant, make_tenant: MakeTenant) -> None:
    stranger = await make_tenant()
    session = await owner.start("Ada", max_rounds=1)
    await owner.ended(session.session_id)
    await until(lambda: all_embedded(owner))
    spent = (await owner.client.costs.budget(session.budget_id)).spent_nano_usd
    prompt = {"role": "MESSAGE_ROLE_USER", "parts": [{"text": {"text": "Hello"}}]}
    body = {"messages": [prompt], "context": {"budget_ids": [session.budget_id]}}
    for tenant in (stranger, owner):
        answer = await tenant.rest.ask("POST", "/v1/generate", body)
        assert (answer.status, answer.reason) == (400, "INVALID_FIELD")
    assert (await owner.client.costs.budget(session.budget_id)).spent_nano_usd == spent


async def test_a_call_id_of_another_tenant_is_ones_own_call(owner: Tenant, make_tenant: MakeTenant) -> None:
    stranger = await make_tenant()
    call = {"call_id": {"run_id": "essay_1", "path": "rounds/1/Ada"}}
    answers: list[str] = []
    for tenant, text in ((owner, "of the owner"), (stranger, "of the stranger")):
        tenant.says(f"Answer {text}")
        part = {"text": {"text": f"Hello {tenant.mark}"}}
        body = {"messages": [{"role": "MESSAGE_ROLE_USER", "parts": [part]}], "context": call}
        for _ in range(2):
            answer = await tenant.rest.ask("POST", "/v1/generate", body)
            assert answer.status == 200, answer.body
            answers.append(answer.body["generation"]["parts"][0]["text"]["text"])
    assert answers[2:] == ["Answer of the stranger"] * 2
    assert answers[0] == answers[1] != answers[2]


async def test_a_page_token_of_another_tenant_shows_only_ones_own(owner: Tenant, make_tenant: MakeTenant) -> None:
    stranger = await make_tenant()
    await owner.cast("Bob", "Cyd")
    await stranger.cast("Zoe")
    first = await owner.rest.ask("GET", "/v1/agents?page_size=1")
    token = first.body["next_page_token"]
    answer = await stranger.rest.ask("GET", f"/v1/agents?page_size=10&page_token={token}")
    assert {agent["name"] for agent in answer.body["agents"]} <= {"Zoe"}
