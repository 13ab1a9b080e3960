"""Sessions as pure programs: who speaks when, when they end, and that a journal always replays."""

import random

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from comitia.inference.v1 import inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.content import Integrity, Label
from services.meshkit.content.proto import label_from_proto, label_to_proto
from services.meshkit.core.errors import Exhausted, MeshError
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.engine.facts import Replay, advance
from services.orchestrator.programs.run import UnknownProgram
from services.orchestrator.programs.view import project
from tests.support.examples import examples
from tests.support.sessions import World, a_generation, a_start, an_agent, facts_of, play


class BudgetUsedUp(Exhausted):
    """What cost says through inference."""

    reason = "TEST_BUDGET_EXHAUSTED"


def turns_of(journal: list[journal_pb2.JournalEntry]) -> list[session_pb2.Turn]:
    return [entry.step_completed.turn for entry in facts_of(journal, "step_completed")]


def ending_of(journal: list[journal_pb2.JournalEntry]) -> journal_pb2.RunEnded:
    [ended] = facts_of(journal, "run_ended")
    return ended.run_ended


def test_agents_speak_one_after_the_other_and_hear_each_other() -> None:
    journal = play(a_start(max_rounds=2), World())
    turns = turns_of(journal)
    assert [(turn.round, turn.agent_name, turn.index) for turn in turns] == [
        (1, "Athena", 1),
        (1, "Apollo", 2),
        (2, "Athena", 3),
        (2, "Apollo", 4),
    ]
    assert turns[0].output.content in turns[1].input.prompt
    assert ending_of(journal).state == session_pb2.SESSION_STATE_SUCCEEDED


def test_parallel_agents_hear_the_rounds_before_only() -> None:
    journal = play(a_start(strategy=session_pb2.SESSION_STRATEGY_PARALLEL, max_rounds=2), World())
    first, second, third, fourth = sorted(turns_of(journal), key=lambda turn: turn.index)
    assert first.output.content not in second.input.prompt
    assert {first.round, second.round} == {1}
    for earlier in (first, second):
        assert earlier.output.content in third.input.prompt
        assert earlier.output.content in fourth.input.prompt


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
def test_each_mode_asks_in_its_own_words(mode: session_pb2.SessionMode.ValueType) -> None:
    prompts = {
        kind: turns_of(play(a_start(mode=kind, max_rounds=1), World()))[0].input.prompt
        for kind in session_pb2.SessionMode.values()
        if kind
    }
    assert len(set(prompts.values())) == len(prompts)
    assert "Should every service have its own database?" in prompts[mode]


def test_equal_words_converge_from_the_second_round_on() -> None:
    policy = session_pb2.ConvergencePolicy(enabled=True, jaccard_threshold=0.9)
    journal = play(a_start(max_rounds=9, convergence=policy), World(say=lambda _, __: "the very same statement"))
    assert ending_of(journal).converged
    assert [entry.round_scored.score.round for entry in facts_of(journal, "round_scored")] == [1, 2]


def test_meaning_is_measured_only_when_asked_for() -> None:
    plain = play(a_start(max_rounds=1), World())
    assert not facts_of(plain, "round_scored")[0].round_scored.score.HasField("semantic")
    policy = session_pb2.ConvergencePolicy(enabled=True, semantic_threshold=0.01)
    measured = play(a_start(max_rounds=5, convergence=policy), World())
    assert facts_of(measured, "round_scored")[0].round_scored.score.HasField("semantic")
    assert ending_of(measured).converged


def test_agents_that_repeat_themselves_end_the_session_as_stagnant() -> None:
    policy = session_pb2.ConvergencePolicy(enabled=True, jaccard_threshold=1.0)
    world = World(say=lambda path, _: f"always my opinion {path.rpartition('/')[2]}")
    journal = play(a_start(max_rounds=9, convergence=policy), world)
    assert ending_of(journal).reason == "STAGNANT"
    assert len(facts_of(journal, "round_scored")) == 2


def test_a_manual_session_waits_after_each_round() -> None:
    journal = play(a_start(manual_advance=True, max_rounds=3), World())
    assert not facts_of(journal, "run_ended")
    assert journal[-1].WhichOneof("fact") == "run_waiting"


def test_two_who_advance_at_the_same_moment_begin_one_round() -> None:
    waiting = play(a_start(manual_advance=True, max_rounds=3), World())
    replay = Replay("run")
    for entry in waiting:
        replay.feed(entry)
    both = [journal_pb2.JournalEntry(run_advanced=journal_pb2.RunAdvanced(by=by)) for by in ("Ada", "Bob")]
    _, facts = advance(replay.state, both, Timestamp(seconds=99))
    assert [entry.step_started.round for entry in facts_of(facts, "step_started")] == [2]


def test_consensus_ends_on_the_last_statement() -> None:
    journal = play(a_start(mode=session_pb2.SESSION_MODE_CONSENSUS, max_rounds=1), World())
    assert ending_of(journal).topic_final == turns_of(journal)[-1].output.content


def test_a_used_up_budget_ends_the_session_with_its_reason() -> None:
    world = World(generations={"rounds/1/Apollo": [BudgetUsedUp("the budget is used up; raise it")]})
    ending = ending_of(play(a_start(), world))
    assert (ending.state, ending.reason) == (session_pb2.SESSION_STATE_FAILED, "TEST_BUDGET_EXHAUSTED")
    assert "raise it" in ending.message


def test_a_turn_goes_on_without_memory_and_says_so() -> None:
    turns = turns_of(play(a_start(max_rounds=1), World(memory_down=True)))
    assert all(turn.without_recall and not turn.memory_id for turn in turns)
    assert turns[0].output.content in turns[1].input.prompt


@pytest.mark.parametrize("strategy", [1, 2])
def test_without_memory_too_a_prompt_is_labelled_by_what_it_shows(
    strategy: session_pb2.SessionStrategy.ValueType,
) -> None:
    tainted = a_generation("the page says so")
    tainted.parts[0].label.CopyFrom(
        label_to_proto(Label(integrity=Integrity.UNTRUSTED, sources=frozenset({"tool:web"})))
    )
    world = World(memory_down=True, generations={"rounds/1/Athena": [tainted]})
    play(a_start(strategy=strategy, max_rounds=2), world)
    asked = {
        entry.path: inference_service_pb2.StreamGenerateRequest.FromString(entry.call_intended.request)
        for entry in world.requests
        if entry.call_intended.kind == journal_pb2.CALL_KIND_GENERATE
    }
    label = label_from_proto(asked["rounds/2/Apollo"].messages[-1].parts[0].label)
    assert label.integrity is Integrity.UNTRUSTED
    assert "tool:web" in label.sources


def test_an_agent_that_requires_memory_fails_without_it() -> None:
    agent = an_agent("Mnemosyne")
    agent.memory.required = True
    ending = ending_of(play(a_start(agent), World(memory_down=True)))
    assert ending.state == session_pb2.SESSION_STATE_FAILED


def test_a_tool_result_reaches_the_model_and_taints_what_follows() -> None:
    agent = an_agent("Hephaestus", tools=["calculator"], max_tool_calls=1)
    wish = a_generation("", tool="calculator", arguments={"expression": "6*7"})
    world = World(generations={"rounds/1/Hephaestus": [wish, a_generation("It is 42.")]})
    journal = play(a_start(agent, max_rounds=1), world)
    [turn] = turns_of(journal)
    assert [(use.name, use.result) for use in turn.tool_uses] == [("calculator", "42")]
    assert turn.cost.cost_nano_usd == 2 * 1_000 + 7
    last = [entry for entry in world.requests if entry.call_intended.kind == journal_pb2.CALL_KIND_GENERATE][-1]
    asked = inference_service_pb2.StreamGenerateRequest.FromString(last.call_intended.request)
    assert asked.tools, "a conversation with tool calls keeps their definitions"
    assert asked.messages[-1].parts[0].tool_result.text == "42"


def test_tool_calls_beyond_the_limit_are_answered_with_a_refusal() -> None:
    agent = an_agent("Hephaestus", tools=["calculator"], max_tool_calls=1)
    wish = a_generation("", tool="calculator")
    wish.parts.append(wish.parts[0])
    world = World(generations={"rounds/1/Hephaestus": [wish, a_generation("done")]})
    journal = play(a_start(agent, max_rounds=1), world)
    [turn] = turns_of(journal)
    assert len(turn.tool_uses) == 1
    assert turn.output.content == "done"


def test_a_model_that_only_wants_tools_is_told_once_and_then_fails_its_turn() -> None:
    agent = an_agent("Hephaestus", tools=["calculator"], max_tool_calls=1)
    wishes = [a_generation("", tool="calculator") for _ in range(3)]
    world = World(generations={"rounds/1/Hephaestus": list(wishes)})
    ending = ending_of(play(a_start(agent, max_rounds=1), world))
    assert (ending.state, ending.reason) == (session_pb2.SESSION_STATE_FAILED, "TOOL_CALLS_EXHAUSTED")
    asked = [entry for entry in world.requests if entry.call_intended.kind == journal_pb2.CALL_KIND_GENERATE]
    last = inference_service_pb2.StreamGenerateRequest.FromString(asked[-1].call_intended.request)
    assert last.messages[-1].parts[0].tool_result.failed


def test_what_is_remembered_carries_the_labels_of_the_answer() -> None:
    world = World()
    play(a_start(max_rounds=1), world)
    [first, _] = [
        memory_service_pb2.RememberRequest.FromString(entry.call_intended.request)
        for entry in world.requests
        if entry.call_intended.kind == journal_pb2.CALL_KIND_REMEMBER
    ]
    assert first.parts[0].label.integrity
    assert list(first.tags) == ["round:1"]


@settings(max_examples=examples())
@given(
    agents=st.integers(1, 4),
    rounds=st.integers(1, 4),
    strategy=st.sampled_from([1, 2]),
    enabled=st.booleans(),
    semantic=st.sampled_from([0.0, 0.5, 1.0]),
    down=st.booleans(),
    words=st.lists(st.sampled_from(["yes", "no", "maybe", "sure"]), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_every_journal_replays_to_the_same_decisions(
    agents: int,
    rounds: int,
    strategy: session_pb2.SessionStrategy.ValueType,
    enabled: bool,
    semantic: float,
    down: bool,
    words: list[str],
    order: random.Random,
) -> None:
    """INV-4, with any order of answers; and a session ends exactly once, with all its turns numbered once."""
    policy = session_pb2.ConvergencePolicy(enabled=enabled, semantic_threshold=semantic)
    cast = [an_agent(f"Agent{number}") for number in range(agents)]
    world = World(say=lambda _, count: words[count % len(words)], memory_down=down)
    started = a_start(*cast, strategy=strategy, max_rounds=rounds, convergence=policy)
    journal = play(started, world, order=order.randrange)
    replay = Replay("run_x")
    view = session_pb2.Session()
    for sequence, entry in enumerate(journal, 1):
        replay.feed(entry)
        project(view, entry, sequence)
    replay.finish()
    assert len(facts_of(journal, "run_ended")) == 1
    assert view.state == session_pb2.SESSION_STATE_SUCCEEDED
    numbers = sorted(turn.index for turn in turns_of(journal))
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == view.rounds_executed * agents


def test_a_journal_that_does_not_follow_is_refused() -> None:
    journal = play(a_start(max_rounds=1), World())
    tampered = facts_of(journal, "step_completed")[0]
    tampered.step_completed.turn.output.content = "never said"
    replay = Replay("run_x")
    with pytest.raises(RunDiverged):
        for entry in journal:
            replay.feed(entry)


def test_a_journal_that_stops_short_is_refused() -> None:
    journal = play(a_start(max_rounds=1), World())
    replay = Replay("run_x")
    for entry in journal[:-1]:
        replay.feed(entry)
    with pytest.raises(RunDiverged):
        replay.finish()


def test_an_unknown_program_version_is_refused_not_guessed() -> None:
    started = a_start()
    started.program_version = 99
    with pytest.raises(UnknownProgram, match="version 99"):
        play(started, World())


def test_a_failing_score_measurement_leaves_the_words() -> None:
    policy = session_pb2.ConvergencePolicy(enabled=True, semantic_threshold=0.9)

    class NoEmbedder(World):
        def answer(self, intended: journal_pb2.JournalEntry) -> object:  # type: ignore[override]
            if intended.call_intended.kind == journal_pb2.CALL_KIND_EMBED:
                raise MeshError("no embedder")
            return super().answer(intended)

    journal = play(a_start(max_rounds=1, convergence=policy), NoEmbedder())
    assert not facts_of(journal, "round_scored")[0].round_scored.score.HasField("semantic")
    assert ending_of(journal).state == session_pb2.SESSION_STATE_SUCCEEDED
