"""Sessions in which somebody else says who speaks: an agent that moderates, or a worker's step."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, inference_service_pb2
from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.content import Integrity, Label
from services.meshkit.content.proto import label_to_proto
from services.meshkit.core.errors import Invalid
from services.orchestrator.domain.session import Mode, SessionSpec, Strategy
from services.orchestrator.engine.facts import Replay, advance
from services.orchestrator.programs.dialogue_speakers import END, picked_by_moderator
from services.orchestrator.programs.run import RunState
from services.orchestrator.programs.values import from_value, to_value
from services.orchestrator.programs.view import project
from services.orchestrator.record.pins import AgentChange, Changes, changed
from tests.support.examples import examples
from tests.support.sessions import World, a_start, an_agent, facts_of, outcome_of, play

Journal = list[journal_pb2.JournalEntry]
NAMES = ("Athena@1.0.0", "Apollo@1.0.0", "Hera@1.0.0")


def a_moderated_start(max_rounds: int = 2) -> journal_pb2.RunStarted:
    cast = [an_agent(name, description=f"{name} of the Greeks") for name in ("Athena", "Apollo", "Hera", "Hermes")]
    started = a_start(*cast, strategy=session_pb2.SESSION_STRATEGY_MODERATED, max_rounds=max_rounds)
    del started.session.agents[3]
    started.session.moderator = "Hermes@1.0.0"
    return started


def moderated(picks: Sequence[str]) -> Callable[[str, int], str]:
    """Lets the moderator answer from a list, and all others say where they are."""
    waiting = list(picks)
    return lambda path, _: waiting.pop(0) if path.endswith("Hermes") and waiting else f"I speak at {path}"


def spoke(journal: Journal) -> list[str]:
    turns = [entry.step_completed.turn for entry in facts_of(journal, "step_completed")]
    return [turn.agent_name for turn in turns if turn.agent_name != "Hermes"]


def replays(journal: Journal) -> bool:
    replay = Replay("run_x")
    for entry in journal:
        replay.feed(entry)
    replay.finish()
    return True


def test_those_speak_whom_the_moderator_picks_one_after_the_other() -> None:
    picks = ["Hera", "I would say Athena.", "Hera", "apollo? No: Apollo", "Hera@1.0.0", "Athena"]
    journal = play(a_moderated_start(), World(say=moderated(picks)))
    assert spoke(journal) == ["Hera", "Athena", "Hera", "Apollo", "Hera", "Athena"]
    turns = [entry.step_completed.turn for entry in facts_of(journal, "step_completed")]
    assert [turn.index for turn in turns] == list(range(1, 13))
    assert len({entry.path for entry in facts_of(journal, "step_started")}) == 12
    assert [entry.round_scored.score.round for entry in facts_of(journal, "round_scored")] == [1, 2]
    assert replays(journal)


def test_a_moderator_sees_who_takes_part_and_what_they_said_but_not_what_it_said_itself() -> None:
    journal = play(a_moderated_start(max_rounds=1), World(say=moderated(["Hera"] * 3)))
    moderations = [
        entry.step_completed.turn.input.prompt
        for entry in facts_of(journal, "step_completed")
        if entry.step_completed.turn.agent_name == "Hermes"
    ]
    assert "- Athena: Athena of the Greeks" in moderations[0]
    assert "END" not in moderations[0]
    assert "Hera: I speak at rounds/1/1/Hera" in moderations[1]
    assert "END" in moderations[1]
    heard = [entry.step_completed.turn for entry in facts_of(journal, "step_completed")][-1].input.prompt
    assert "I speak at rounds/1/2/Hera" in heard
    assert "Hermes: " not in heard


def test_a_moderator_ends_the_session() -> None:
    journal = play(a_moderated_start(max_rounds=9), World(say=moderated(["Hera", "END"])))
    [ended] = facts_of(journal, "run_ended")
    assert ended.run_ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    assert ended.run_ended.reason == "ENDED_BY_STRATEGY"
    assert spoke(journal) == ["Hera"]
    assert replays(journal)


def test_a_moderator_that_names_nobody_lets_the_one_speak_who_has_spoken_least() -> None:
    journal = play(a_moderated_start(max_rounds=1), World(say=moderated(["END", "Athena or Hera", "whoever"])))
    assert spoke(journal) == ["Athena", "Apollo", "Hera"]


@pytest.mark.parametrize(
    ("text", "picked"),
    [
        ("Athena", "Athena@1.0.0"),
        ("**Athena**", "Athena@1.0.0"),
        ("Athena@1.0.0", "Athena@1.0.0"),
        ("Athenaeum", ""),
        ("Athena and Hera", ""),
        ("END", END),
        ("The END is near, Hera", "Hera@1.0.0"),
        ("the end", ""),
        ("", ""),
    ],
)
def test_a_moderators_words_mean_one_agent_or_nobody(text: str, picked: str) -> None:
    assert picked_by_moderator(text, NAMES, may_end=True) == picked


def test_two_versions_of_one_agent_are_told_apart_by_version_only() -> None:
    names = ("Athena@1.0.0", "Athena@2.0.0")
    assert picked_by_moderator("Athena", names, may_end=True) == ""
    assert picked_by_moderator("Athena@2.0.0", names, may_end=True) == "Athena@2.0.0"


def test_what_moved_a_moderator_is_in_the_label_of_whoever_it_picked() -> None:
    started = a_moderated_start(max_rounds=1)
    state, facts = advance(RunState(), [journal_pb2.JournalEntry(run_started=started)], Timestamp())
    world, seen = World(say=moderated(["Hera"] * 3)), list[journal_pb2.JournalEntry]()
    for second in range(1, 30):
        intended = [fact for fact in facts if fact.HasField("call_intended")]
        if not intended:
            break
        entry = outcome_of(world, intended[0])
        if entry.path.endswith("1/Hermes") and entry.call_answered.kind == journal_pb2.CALL_KIND_GENERATE:
            entry.call_answered.response = _untrusted(entry.call_answered.response)
        state, facts = advance(state, [entry], Timestamp(seconds=second))
        seen += facts
    asked = next(
        fact
        for fact in seen
        if fact.path == "rounds/1/1/Hera" and fact.call_intended.kind == journal_pb2.CALL_KIND_GENERATE
    )
    request = inference_service_pb2.StreamGenerateRequest.FromString(asked.call_intended.request)
    assert request.messages[-1].parts[0].label.integrity == content_pb2.INTEGRITY_UNTRUSTED


def _untrusted(response: bytes) -> bytes:
    generation = generation_pb2.Generation.FromString(response)
    generation.parts[0].label.CopyFrom(label_to_proto(Label(integrity=Integrity.UNTRUSTED)))
    return generation.SerializeToString(deterministic=True)


class Stepped(World):
    """A world in which a worker answers who speaks."""

    def __init__(self, answers: Sequence[Any]) -> None:
        super().__init__(say=lambda path, _: f"I speak at {path}")
        self.answers = list(answers)
        self.asked: list[journal_pb2.StepTask] = []

    def answer(self, intended: journal_pb2.JournalEntry) -> Any:
        if intended.call_intended.kind != journal_pb2.CALL_KIND_STEP:
            return super().answer(intended)
        self.asked.append(journal_pb2.StepTask.FromString(intended.call_intended.request))
        return journal_pb2.StepResult(output=to_value(self.answers.pop(0)))


def a_stepped_start(max_rounds: int = 3) -> journal_pb2.RunStarted:
    started = a_start(strategy=session_pb2.SESSION_STRATEGY_STEP, max_rounds=max_rounds)
    started.session.strategy_step.name = "who.next"
    started.session.strategy_step.pool = "stage"
    return started


def test_those_speak_in_a_round_whom_a_step_names() -> None:
    world = Stepped([{"speakers": ["Apollo", "Athena@1.0.0", "Apollo"]}, {"speakers": ["Athena"]}, {"end": True}])
    journal = play(a_stepped_start(), world)
    assert spoke(journal) == ["Apollo", "Athena", "Apollo", "Athena"]
    [ended] = facts_of(journal, "run_ended")
    assert (ended.run_ended.state, ended.run_ended.reason) == (
        session_pb2.SESSION_STATE_SUCCEEDED,
        "ENDED_BY_STRATEGY",
    )
    assert [(task.name, task.pool) for task in world.asked] == [("who.next", "stage")] * 3
    told: Any = from_value(world.asked[1].input)
    assert told["round"] == 2
    assert told["agents"] == ["Athena@1.0.0", "Apollo@1.0.0"]
    assert [turn["speaker"] for turn in told["turns"]] == ["Apollo", "Athena", "Apollo"]
    assert replays(journal)


def test_whom_a_step_names_is_asked_under_the_label_of_a_worker_that_may_have_read_anything() -> None:
    journal = play(a_stepped_start(max_rounds=1), Stepped([{"speakers": ["Apollo"]}]))
    [asked] = [
        inference_service_pb2.StreamGenerateRequest.FromString(fact.call_intended.request)
        for fact in journal
        if fact.call_intended.kind == journal_pb2.CALL_KIND_GENERATE
    ]
    label = asked.messages[-1].parts[0].label
    assert label.integrity == content_pb2.INTEGRITY_UNTRUSTED
    assert "worker:who.next" in label.sources


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "Athena",
        [],
        {},
        {"end": False},
        {"speakers": []},
        {"speakers": "Athena"},
        {"speakers": ["Zeus"]},
        {"speakers": [1]},
        {"speakers": ["Athena"], "end": True},
        {"speakers": ["Athena"] * 17},
    ],
)
def test_a_step_that_names_no_speakers_fails_the_session_with_a_reason(answer: Any) -> None:
    journal = play(a_stepped_start(), Stepped([answer]))
    [ended] = facts_of(journal, "run_ended")
    assert ended.run_ended.reason == "STRATEGY_ANSWER_WRONG"
    assert len(ended.run_ended.message) > 20


def test_a_step_that_failed_fails_the_session_with_its_reason() -> None:
    started = a_stepped_start()
    state, facts = advance(RunState(), [journal_pb2.JournalEntry(run_started=started)], Timestamp())
    failed = journal_pb2.CallFailed(kind=journal_pb2.CALL_KIND_STEP, reason="WORKER_LOST", message="three were lost")
    entry = journal_pb2.JournalEntry(path=facts[-1].path, call_failed=failed)
    _, facts = advance(state, [entry], Timestamp())
    assert facts[-1].run_ended.reason == "WORKER_LOST"


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.sampled_from(["Athena", "Apollo", "Hera", "END", "both of you", "Athena, Hera"]), max_size=12))
def test_whatever_a_moderator_says_the_session_ends_and_replays(picks: list[str]) -> None:
    journal = play(a_moderated_start(), World(say=moderated(picks)))
    session = session_pb2.Session()
    for number, entry in enumerate(journal, 1):
        project(session, entry, number)
    assert session.state == session_pb2.SESSION_STATE_SUCCEEDED
    assert len(spoke(journal)) <= 6
    assert session.turn_count <= 12
    assert replays(journal)


def a_spec(**fields: Any) -> SessionSpec:
    whole: dict[str, Any] = {"topic": "x", "mode": Mode.DEBATE, "strategy": 0, "agents": ("Ada", "Bob"), **fields}
    return SessionSpec(**whole)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"strategy": Strategy.MODERATED}, "moderator"),
        ({"strategy": Strategy.PARALLEL, "moderator": "Eve"}, "moderator"),
        ({"strategy": Strategy.MODERATED, "moderator": "E V E"}, "moderator"),
        ({"strategy": Strategy.STEP}, "strategy_step"),
        ({"step": ("x", "")}, "strategy_step"),
        ({"strategy": Strategy.STEP, "step": ("", "")}, "strategy_step.name"),
        ({"strategy": Strategy.STEP, "step": ("x", "a b")}, "strategy_step.pool"),
    ],
)
def test_a_strategy_needs_who_picks_and_no_other_does(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        a_spec(**fields).checked()
    assert refused.value.field == field


def test_strategies_that_are_whole_are_taken() -> None:
    a_spec(strategy=Strategy.MODERATED, moderator="Eve").checked()
    a_spec(strategy=Strategy.STEP, step=("who.next", "")).checked()


def test_a_fork_goes_on_with_another_moderator_and_another_agent() -> None:
    started = a_moderated_start(max_rounds=1)
    state, facts = advance(RunState(), [journal_pb2.JournalEntry(run_started=started)], Timestamp())
    world, journal = World(say=moderated(["Hera", "Hera", "Hera"])), list(facts)
    while not [fact for fact in facts if fact.path == "rounds/1/2/Hermes" and fact.HasField("step_started")]:
        [intended] = [fact for fact in facts if fact.HasField("call_intended")]
        state, facts = advance(state, [outcome_of(world, intended)], Timestamp())
        journal += facts
    others = [an_agent("Hera", "2.0.0"), an_agent("Hermes", "2.0.0")]
    changes = Changes(agents=(AgentChange(name="Hera", version="2.0.0"), AgentChange(name="Hermes", version="2.0.0")))
    pinned = changed(started, changes, found=others)
    assert list(pinned.session.agents) == ["Athena@1.0.0", "Apollo@1.0.0", "Hera@2.0.0"]
    assert pinned.session.moderator == "Hermes@2.0.0"
    forked = journal_pb2.JournalEntry(run_forked=journal_pb2.RunForked(started=pinned))
    state, facts = advance(state, [forked], Timestamp())
    in_flight = [fact for fact in journal if fact.HasField("call_intended")][-1:]
    while in_flight:
        state, facts = advance(state, [outcome_of(world, in_flight.pop())], Timestamp())
        in_flight = [fact for fact in facts if fact.HasField("call_intended")]
        journal += facts
    assert facts[-1].run_ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    started_steps = [entry.step_started.agent for entry in facts_of(journal, "step_started")]
    assert started_steps == [
        *("Hermes@1.0.0", "Hera@1.0.0", "Hermes@1.0.0"),
        *("Hera@2.0.0", "Hermes@2.0.0", "Hera@2.0.0"),
    ]
