"""Sessions from start to end: who speaks, what they are shown, when they stop, what is remembered and charged."""

import asyncio
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from comitia.common.v1 import content_pb2
from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.errors import Conflict, FailedPrecondition
from comitia_sdk.worker import Worker
from tests.e2e.conftest import Tenant, until
from tests.support.mesh import RunningMesh

#: What only the prompt of a mode says.
ASKED = {
    "debate": "Argue in favour",
    "brainstorm": "Give up to three ideas",
    "consensus": "Propose one clear statement",
    "dialogue": "Go on with the conversation",
}
SUCCEEDED = session_pb2.SESSION_STATE_SUCCEEDED
WAITING = session_pb2.SESSION_STATE_WAITING


def speaker(name: str) -> tuple[str, ...]:
    """What a prompt to an agent holds and no other."""
    return (f"You are {name}.",)


@pytest.mark.parametrize("strategy", ["round_robin", "parallel"])
@pytest.mark.parametrize("mode", list(ASKED))
async def test_every_mode_runs_in_both_strategies(tenant: Tenant, mode: str, strategy: str) -> None:
    await tenant.cast("Ada", "Bob")
    for name in ("Ada", "Bob"):
        tenant.says(f"First word of {name}", f"Second word of {name}", match=speaker(name))
    session = await tenant.start("Ada", "Bob", mode=mode, strategy=strategy, max_rounds=2)

    ended = await tenant.ended(session.session_id)
    turns = sorted(await tenant.turns(session.session_id), key=lambda turn: turn.index)

    assert (ended.state, ended.rounds_executed, ended.turn_count) == (SUCCEEDED, 2, 4)
    assert [(turn.round, turn.index, turn.agent_name) for turn in turns] == [
        *((1, 1, "Ada"), (1, 2, "Bob"), (2, 3, "Ada"), (2, 4, "Bob")),
    ]
    assert [turn.output.content for turn in turns] == [
        *("First word of Ada", "First word of Bob", "Second word of Ada", "Second word of Bob"),
    ]
    assert ASKED[mode] in turns[0].input.prompt
    hears_the_same_round = strategy == "round_robin"
    assert ("First word of Ada" in turns[1].input.prompt) == hears_the_same_round
    assert "First word of Bob" in turns[2].input.prompt
    assert ("Second word of Ada" in turns[3].input.prompt) == hears_the_same_round


async def test_agents_that_say_the_same_converge_by_words(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    tenant.says("Upstream", "Downstream", *["Rivers need their meadows"] * 2)
    session = await tenant.start("Ada", "Bob", mode="consensus", max_rounds=5, convergence=True)
    ended = await tenant.ended(session.session_id)
    assert (ended.state, ended.state_reason, ended.converged) == (SUCCEEDED, "CONVERGED", True)
    assert (ended.rounds_executed, ended.topic_final) == (2, "Rivers need their meadows")
    assert [(score.jaccard, score.converged) for score in ended.scores] == [(0.0, False), (1.0, True)]


async def test_agents_that_mean_the_same_converge_by_embeddings(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    tenant.says(*(f"{word} is their opinion here" for word in ("Alder", "Birch", "Cedar", "Douglas")))
    policy = session_pb2.ConvergencePolicy(enabled=True, semantic_threshold=0.9)
    session = await tenant.start("Ada", "Bob", strategy="parallel", max_rounds=4, convergence=policy)
    ended = await tenant.ended(session.session_id)
    assert (ended.state_reason, ended.rounds_executed) == ("CONVERGED", 2)
    assert all(score.jaccard < 0.8 and score.semantic > 0.9 for score in ended.scores)


async def test_agents_that_repeat_themselves_are_stagnant(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    for name, text in (("Ada", "Dams everywhere forever"), ("Bob", "No concrete at all")):
        tenant.says(text, text, match=speaker(name))
    session = await tenant.start("Ada", "Bob", max_rounds=5, convergence=True)
    ended = await tenant.ended(session.session_id)
    assert (ended.state, ended.state_reason, ended.converged) == (SUCCEEDED, "STAGNANT", False)
    assert (ended.rounds_executed, ended.scores[-1].stagnation, ended.scores[-1].stagnant) == (2, 1.0, True)


async def test_a_turn_by_rest_tells_all_that_happened(tenant: Tenant) -> None:
    await tenant.client.agents.create("Ada", "1.2.0", instructions="Think.", style={"logic": 0.9, "humour": 0.1})
    tenant.says("Perhaps rivers meet, and argue.", prompt_tokens=324, completion_tokens=51)
    session = await tenant.start("Ada", max_rounds=1)
    await tenant.ended(session.session_id)

    answer = await tenant.rest.ask("GET", f"/sessions/{session.session_id}/turns")

    [turn] = answer.body["turns"]
    assert answer.status == 200
    assert (turn["session_id"], turn["round"], turn["index"]) == (session.session_id, 1, 1)
    assert (turn["agent_name"], turn["agent_version"]) == ("Ada", "1.2.0")
    assert tenant.mark in turn["input"]["prompt"]
    assert (turn["input"]["short_term"], turn["input"]["semantic_refs"], turn["input"]["episodic_refs"]) == ([], [], [])
    assert turn["output"]["content"] == "Perhaps rivers meet, and argue."
    assert 0 < turn["output"]["confidence"] < 0.9
    assert turn["output"]["style_insights"] == ["Applying rigorous logical validation"]
    assert (turn["output"]["usage"]["input_tokens"], turn["output"]["usage"]["output_tokens"]) == ("324", "51")
    assert (turn["output"]["stop_reason"], turn["output"]["stub"]) == ("stop", False)
    assert turn["cost"] == {"provider": "openai", "model": "gpt-4o-mini", "cost_nano_usd": str(324 * 150 + 51 * 600)}
    assert {"before", "after"} <= {monitor["stage"] for monitor in turn["monitors"]}
    assert all(monitor["status"] == "pass" and monitor["elapsed_ms"] >= 0 for monitor in turn["monitors"])
    assert turn["timing"]["start_time"] < turn["timing"]["end_time"]
    assert float(turn["timing"]["latency"].removesuffix("s")) > 0
    assert len(turn["verdict_ids"]) >= 3
    assert all(found.startswith("verdict_") for found in turn["verdict_ids"])
    assert (len(turn["bundle_digest"]), turn["without_recall"]) == (64, False)
    assert turn["hold_ids"][0].startswith("hold_")
    assert turn["memory_id"].startswith("memory_")


async def test_what_a_session_says_is_never_trusted_more_than_its_user(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    session = await tenant.start("Ada", "Bob", max_rounds=2)
    await tenant.ended(session.session_id)
    labels = [part.label for turn in await tenant.turns(session.session_id) for part in turn.output.parts]
    assert len(labels) == 4
    for label in labels:
        assert label.integrity in (content_pb2.INTEGRITY_USER, content_pb2.INTEGRITY_UNTRUSTED)
        assert label.confidentiality >= content_pb2.CONFIDENTIALITY_TENANT
    remembered = [memory async for memory in tenant.client.memories.list(session_id=session.session_id)]
    assert len(remembered) == 4
    assert all(part.label.integrity >= content_pb2.INTEGRITY_USER for memory in remembered for part in memory.parts)


async def test_a_session_that_is_advanced_by_hand_waits_after_each_round(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    session_id = (await tenant.start("Ada", max_rounds=3, manual_advance=True)).session_id
    for done in (1, 2):
        waiting = await tenant.until_state(session_id, WAITING)
        assert (waiting.rounds_executed, waiting.turn_count) == (done, done)
        await tenant.client.sessions.advance(session_id)
        await until(lambda done=done: more_turns(tenant, session_id, done))
    assert (await tenant.ended(session_id)).rounds_executed == 3
    with pytest.raises(FailedPrecondition) as refused:
        await tenant.client.sessions.advance(session_id)
    assert refused.value.reason == "SESSION_NOT_WAITING"


async def more_turns(tenant: Tenant, session_id: str, than: int) -> bool:
    return (await tenant.client.sessions.get(session_id)).turn_count > than


async def test_a_cancel_reaches_the_provider(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    tenant.says("Never said", wait=60)
    session_id = (await tenant.start("Ada", max_rounds=3)).session_id

    async def asked() -> bool:
        return bool(tenant.provider.meter(tenant.mark)["calls"])

    async def abandoned() -> bool:
        return tenant.provider.meter(tenant.mark)["calls"][0]["abandoned"]

    await until(asked)
    await tenant.client.sessions.cancel(session_id)
    ended = await tenant.ended(session_id)
    await until(abandoned)
    assert (ended.state, ended.state_reason) == (session_pb2.SESSION_STATE_CANCELLED, "CANCELLED")
    assert ended.turn_count == 0
    with pytest.raises(FailedPrecondition) as refused:
        await tenant.client.sessions.cancel(session_id)
    assert refused.value.reason == "SESSION_ALREADY_TERMINAL"
    [call] = tenant.provider.meter(tenant.mark)["calls"]
    assert not call["confirmed"]


async def test_a_turn_calls_a_tool_and_goes_on_with_its_result(tenant: Tenant) -> None:
    await tenant.cast("Ada", tools=["calculator"])
    arguments = '{"expression": "6 * 7"}'
    tenant.says("", tool_calls=[["call_1", "calculator", arguments]])
    tenant.says("It is 42, as I said.")
    session = await tenant.start("Ada", max_rounds=1)
    ended = await tenant.ended(session.session_id)
    [turn] = await tenant.turns(session.session_id)

    assert (ended.state, turn.output.content) == (SUCCEEDED, "It is 42, as I said.")
    [use] = turn.tool_uses
    assert (use.name, use.arguments_json, use.result, use.failed) == ("calculator", arguments, "42", False)
    assert len(turn.hold_ids) >= 2
    assert turn.output.parts[0].label.integrity >= content_pb2.INTEGRITY_USER
    first, second = (call["body"] for call in tenant.provider.meter(tenant.mark)["calls"] if "messages" in call["body"])
    assert [tool["function"]["name"] for tool in first["tools"]] == ["calculator"]
    result = second["messages"][-1]
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "call_1", "42")


async def test_an_agent_remembers_in_its_second_session_what_it_said_in_the_first(tenant: Tenant) -> None:
    await tenant.cast("Ada", semantic_matches=3)
    said = f"The heron of {tenant.mark} nests in the reeds."
    tenant.says(said)
    first = await tenant.start("Ada", max_rounds=1)
    await tenant.ended(first.session_id)
    [turn] = await tenant.turns(first.session_id)

    async def found() -> bool:
        recalled = await tenant.client.memories.recall(first.topic_start, agent_name="Ada")
        return [match.memory.memory_id for match in recalled.semantic] == [turn.memory_id]

    await until(found)
    second = await tenant.start("Ada", max_rounds=1)
    await tenant.ended(second.session_id)

    [again] = await tenant.turns(second.session_id)
    [reference] = again.input.semantic_refs
    assert (reference.memory_id, again.without_recall) == (turn.memory_id, False)
    assert 0.3 < reference.score <= 1.001
    assert f"What you remember:\n- {said}" in again.input.prompt
    asked = [call["body"] for call in tenant.provider.meter(tenant.mark)["calls"] if "messages" in call["body"]]
    assert said in asked[-1]["messages"][-1]["content"]


async def test_the_ledger_equals_the_meter_of_the_provider(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    numbers = count(100)
    for _ in range(4):
        tenant.says(f"Said {next(numbers)} {tenant.mark}", completion_tokens=next(numbers), cached_tokens=7)
    session = await tenant.start("Ada", "Bob", max_rounds=2)
    ended = await tenant.ended(session.session_id)

    async def all_embedded() -> bool:
        memories = [memory async for memory in tenant.client.memories.list()]
        return len(memories) == 4 and all(memory.embedded for memory in memories)

    await until(all_embedded)
    meter = tenant.provider.meter(tenant.mark)
    summary = await tenant.client.costs.summary(by="kind")
    used = {line.key: line for line in summary.lines}
    generated = next(line for key, line in used.items() if "GENERATE" in key.upper())
    answered = [call for call in meter["calls"] if call["completion_tokens"]]
    prompts = sum(call["prompt_tokens"] for call in answered)
    assert meter["confirmed"] == len(meter["calls"]) == summary.event_count
    assert (
        sum(line.usage.input_tokens + line.usage.cache_read_tokens for line in summary.lines) == meter["prompt_tokens"]
    )
    assert generated.usage.output_tokens == meter["completion_tokens"]
    assert (generated.event_count, generated.usage.cache_read_tokens) == (4, 28)
    assert generated.cost_nano_usd == (prompts - 28) * 150 + 28 * 75 + meter["completion_tokens"] * 600
    assert (summary.assumed_nano_usd, ended.cost_nano_usd) == (0, generated.cost_nano_usd)

    of_the_run = await tenant.client.costs.summary(by="agent", run_id=session.session_id)
    assert {line.key for line in of_the_run.lines} >= {"Ada", "Bob"}
    whole = await tenant.client.costs.budget()
    assert (whole.spent_nano_usd, whole.held_nano_usd) == (summary.total_nano_usd, 0)
    of_the_session = await tenant.client.costs.budget(ended.budget_id)
    assert of_the_session.spent_nano_usd == of_the_run.total_nano_usd


async def test_a_repeated_start_gives_the_first_session(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    once = str(uuid4())
    first = await tenant.start("Ada", max_rounds=1, request_id=once)
    assert (await tenant.start("Ada", max_rounds=1, request_id=once)).session_id == first.session_id
    with pytest.raises(Conflict) as refused:
        await tenant.start("Ada", max_rounds=2, request_id=once)
    assert refused.value.reason == "REQUEST_ID_REUSED"
    await tenant.ended(first.session_id)
    assert [session.session_id async for session in tenant.client.sessions.list()] == [first.session_id]


async def test_the_stub_answers_by_name_only_and_says_so(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    session = await tenant.start("Ada", max_rounds=1, model="stub")
    await tenant.ended(session.session_id)
    [turn] = await tenant.turns(session.session_id)
    assert (turn.output.stub, turn.cost.provider) == (True, "stub")
    assert not [call for call in tenant.provider.meter(tenant.mark)["calls"] if "messages" in call["body"]]


async def test_an_agent_is_shown_as_many_recent_turns_as_it_asks_for(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob", recent_turns=1)
    tenant.says("one", "two", "three", "four")
    session = await tenant.start("Ada", "Bob", max_rounds=2)
    await tenant.ended(session.session_id)
    turns = await tenant.turns(session.session_id)
    assert [list(turn.input.short_term) for turn in turns] == [[], ["Ada: one"], ["Bob: two"], ["Ada: three"]]


async def test_an_agent_that_moderates_picks_who_speaks_and_ends_the_session(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob", "Eve")
    tenant.says("Bob", "Bob, go on", "END", match=("You moderate.",))
    tenant.says("Meadows first", "Then the dams", match=speaker("Bob"))
    session = await tenant.start("Ada", "Bob", strategy="moderated", moderator="Eve", max_rounds=3)
    ended = await tenant.ended(session.session_id)
    assert (ended.state, ended.state_reason, ended.moderator) == (SUCCEEDED, "ENDED_BY_STRATEGY", "Eve@1.0.0")
    turns = sorted(await tenant.turns(session.session_id), key=lambda turn: turn.index)
    assert [(turn.agent_name, turn.output.content) for turn in turns] == [
        *(("Eve", "Bob"), ("Bob", "Meadows first"), ("Eve", "Bob, go on"), ("Bob", "Then the dams"), ("Eve", "END")),
    ]
    assert ended.cost_nano_usd == sum(turn.cost.cost_nano_usd for turn in turns) > 0
    assert (await tenant.client.records.replay(session.session_id)).same


async def test_a_moderator_that_names_nobody_is_no_end_of_a_session(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob", "Eve")
    wishes: dict[str, Any] = {"strategy": "moderated", "moderator": "Eve", "max_rounds": 1, "model": "stub"}
    ended = await tenant.ended((await tenant.start("Ada", "Bob", **wishes)).session_id)
    assert (ended.state, ended.rounds_executed, ended.turn_count) == (SUCCEEDED, 1, 4)


async def test_a_step_of_a_worker_says_who_speaks(tenant: Tenant, mesh: RunningMesh) -> None:
    worker, told = Worker("stage-hand", pool="stage"), list[tuple[int, list[str]]]()

    @worker.step("who.next")
    async def who_next(**given: Any) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        told.append((given["round"], [turn["speaker"] for turn in given["turns"]]))
        return {"end": True} if given["round"] == 3 else {"speakers": ["Bob", "Ada", "Bob"]}

    await tenant.cast("Ada", "Bob")
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.work(stop, url=mesh.url, api_key=tenant.key))
        session = await tenant.start("Ada", "Bob", strategy="step:who.next", pool="stage", max_rounds=5)
        ended = await tenant.ended(session.session_id)
        stop.set()
    assert (ended.state, ended.state_reason, ended.rounds_executed) == (SUCCEEDED, "ENDED_BY_STRATEGY", 2)
    turns = sorted(await tenant.turns(session.session_id), key=lambda turn: turn.index)
    assert [turn.agent_name for turn in turns] == ["Bob", "Ada", "Bob"] * 2
    assert told == [(1, []), (2, ["Bob", "Ada", "Bob"]), (3, ["Bob", "Ada", "Bob"] * 2)]
    assert (await tenant.client.records.replay(session.session_id)).same


async def test_one_agent_is_asked_and_answers(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    question = f"Why rivers? {tenant.mark}"
    tenant.says("Because of the meadows", match=("Why rivers?",))
    asked = {"prompt": question, "request_id": str(uuid4())}
    answer = (await tenant.rest.ask("POST", "/v1/agents/Ada@1.0.0:infer", asked)).body
    turn = answer["turn"]
    assert turn["output"]["content"] == "Because of the meadows"
    assert turn["input"]["prompt"] == question
    assert answer["session"]["state"] == "SESSION_STATE_SUCCEEDED"
    assert answer["session"]["cost_nano_usd"] == turn["cost"]["cost_nano_usd"]
    again = await tenant.rest.ask("POST", "/agents/Ada@1.0.0/infer", asked)
    assert (again.status, again.body) == (200, answer)
    listed = [one.session_id async for one in tenant.client.sessions.list()]
    assert listed == [answer["session"]["session_id"]]


async def test_a_turn_that_failed_is_an_answer_that_says_why(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    answer = await tenant.client.agents.ask("Ada", f"Why rivers? {tenant.mark}", max_cost_nano_usd=1)
    assert not answer.HasField("turn")
    assert answer.session.state_reason == "BUDGET_EXHAUSTED"
