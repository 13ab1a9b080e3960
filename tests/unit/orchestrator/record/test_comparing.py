"""Two runs compared: by steps, words, meaning, cost, verdicts and pins."""

from collections.abc import Sequence

import pytest

from comitia.orchestrator.v1 import journal_pb2, record_pb2, session_pb2
from services.orchestrator.record import comparing
from services.orchestrator.record.comparing import Comparison, SeenRun, Vector, word_changes
from services.orchestrator.record.pins import AgentChange, Changes
from tests.support.forks import FORK_ID, fork, play_on
from tests.support.sessions import RUN_ID, World, a_generation, a_start, play
from tests.support.workflows import Fails, Mesh, a_node, a_run, a_workflow

Entry = journal_pb2.JournalEntry


def seen(journal: Sequence[Entry]) -> SeenRun:
    run = SeenRun()
    for entry in journal:
        run.take(entry)
    return run


def compared(
    first: Sequence[Entry], second: Sequence[Entry], vectors: dict[str, Vector] | None = None
) -> record_pb2.RunDifference:
    one, other = seen(first), seen(second)
    comparison = Comparison(one, other)
    list(comparison.compared())
    comparison.compare_meanings({**one.vectors, **other.vectors, **(vectors or {})})
    return comparison.finish()


def test_a_fork_differs_in_what_was_made_anew_and_in_nothing_else() -> None:
    journal = play(a_start(max_rounds=2), World())
    world = World(say=lambda path, _: f"{path} changed its mind")
    forked = play_on(fork(journal, Changes(topic="Rivers", model="other"), path="rounds/2/Athena"), world)
    found = compared(journal, forked)
    assert [step.path for step in found.steps] == ["rounds/2/Athena", "rounds/2/Apollo"]
    assert found.same_step_count == 2
    assert (found.first.run_id, found.second.run_id) == (RUN_ID, FORK_ID)
    assert found.second.forked_from_run_id == "run_other"
    pinned = {pin.field for pin in found.pins}
    assert pinned == {"session.topic_start", "session.max_cost_nano_usd", "model_override"}


def test_two_plays_of_the_same_run_are_the_same() -> None:
    journal = play(a_start(), World())
    found = compared(journal, journal)
    assert (len(found.steps), len(found.pins), found.same_step_count) == (0, 0, found.first.step_count)
    assert found.first.state == "SUCCEEDED"
    assert found.first.duration.seconds > 0


def test_a_step_shows_what_it_said_cost_and_asked() -> None:
    cheap, dear = a_generation("Rivers carry ships."), a_generation("Rivers carry barges, and ships.")
    dear.cost_nano_usd, dear.model = 9_000, "scripted-2"
    dear.rules.add(rule="no_swords", status="redact", stage="after")
    worlds = World(), World()
    worlds[0].generations["rounds/1/Athena"] = [cheap]
    worlds[1].generations["rounds/1/Athena"] = [dear]
    found = compared(play(a_start(max_rounds=1), worlds[0]), play(a_start(max_rounds=1), worlds[1]))
    step = next(step for step in found.steps if step.path == "rounds/1/Athena")
    assert (step.first.cost_nano_usd, step.second.cost_nano_usd) == (1_000, 9_000)
    assert (step.first.model, step.second.model) == ("scripted/scripted-1", "scripted/scripted-2")
    assert list(step.second.verdicts) == ["after no_swords: redact"]
    assert [(change.before, change.after) for change in step.changes] == [("", "barges, and")]
    assert 0 < step.words < 1
    assert not step.HasField("meaning")
    assert found.second.cost_nano_usd - found.first.cost_nano_usd == 8_000


def test_texts_are_compared_by_meaning_where_both_have_a_vector_of_one_model() -> None:
    first, second = (
        play(a_start(max_rounds=1), World(say=lambda path, _: f"{path} says yes")),
        play(a_start(max_rounds=1), World(say=lambda path, _: f"{path} says no")),
    )
    texts = {text for _, *both in Comparison(seen(first), seen(second)).texts() for text in both}
    assert not texts, "nothing was compared yet"
    vectors: dict[str, Vector] = {
        "rounds/1/Athena says yes": ("m", [1.0, 0.0]),
        "rounds/1/Athena says no": ("m", [0.6, 0.8]),
        "rounds/1/Apollo says yes": ("m", [1.0, 0.0]),
        "rounds/1/Apollo says no": ("other", [1.0, 0.0]),
    }
    steps = {step.path: step for step in compared(first, second, vectors).steps}
    assert steps["rounds/1/Athena"].meaning == pytest.approx(0.6)
    assert not steps["rounds/1/Apollo"].HasField("meaning"), "vectors of different models never compare"


def test_embeddings_that_runs_recorded_are_used() -> None:
    policy = session_pb2.ConvergencePolicy(enabled=True, semantic_threshold=0.99)
    first = play(a_start(max_rounds=1, convergence=policy), World(say=lambda path, _: f"{path} says yes"))
    second = play(a_start(max_rounds=1, convergence=policy), World(say=lambda path, _: f"{path} says no, no"))
    assert all(step.HasField("meaning") for step in compared(first, second).steps)


def test_steps_that_only_one_run_has_are_shown_alone() -> None:
    first, second = play(a_start(max_rounds=1), World()), play(a_start(max_rounds=2), World())
    alone = [step for step in compared(first, second).steps if not step.HasField("first")]
    assert [step.path for step in alone] == ["rounds/2/Athena", "rounds/2/Apollo"]
    assert all(not step.HasField("words") for step in alone)


def test_steps_of_workers_are_compared_by_what_they_gave() -> None:
    workflow = a_workflow(a_node("a"), a_node("b", "a"))
    first = Mesh(answers={"nodes/a": [{"n": 1}]}).play(a_run(workflow)).journal
    second = Mesh(answers={"nodes/a": [Fails(final=True)]}).play(a_run(workflow)).journal
    steps = {step.path: step for step in compared(first, second).steps}
    assert steps["nodes/a"].first.text == '{"n": 1}'
    assert steps["nodes/a"].first.outcome == "call_answered"
    assert (steps["nodes/a"].second.outcome, steps["nodes/a"].second.reason) == ("step_failed", "STEP_RAISED")
    assert not steps["nodes/b"].HasField("second"), "the run failed before"


def test_steps_beyond_those_listed_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "MOST_STEPS", 3)
    first, second = play(a_start(), World()), play(a_start(), World(say=lambda path, _: "otherwise"))
    found = compared(first, second)
    assert (len(found.steps), found.omitted_step_count) == (3, 1)


def test_texts_that_differ_beyond_what_is_kept_of_them_still_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_COMPARED", 30)
    monkeypatch.setattr(comparing, "_KEPT", 70)
    first = play(a_start(max_rounds=1), World(say=lambda path, _: f"{path} says nothing but that it is yes"))
    second = play(a_start(max_rounds=1), World(say=lambda path, _: f"{path} says nothing but that it is no"))
    steps = compared(first, second).steps
    assert [step.path for step in steps] == ["rounds/1/Athena", "rounds/1/Apollo"]
    assert steps[0].first.text == steps[0].second.text == "rounds/1/Athena says nothing b"
    assert not compared(first, first).steps
    third = play(a_start(max_rounds=3), World(say=lambda path, _: "all of it is kept" * 3))
    assert sum(len(step.text) for step in seen(third).steps.values()) == 70


def test_an_agent_with_other_instructions_is_a_pin_that_differs() -> None:
    journal = play(a_start(), World())
    changes = Changes(agents=[AgentChange(name="Apollo", instructions="Be brief.")])
    found = compared(journal, fork(journal, changes, path="rounds/2/Athena").entries)
    [pin] = [pin for pin in found.pins if pin.field.startswith("agents")]
    assert (pin.field, pin.after) == ("agents[1].instructions", "Be brief.")


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("a b c", "a x c", [("b", "x")]),
        ("a b c", "a c", [("b", "")]),
        ("", "a", [("", "a")]),
        ("same here", "same here", []),
    ],
)
def test_changes_of_words_are_told_in_order(before: str, after: str, changes: list[tuple[str, str]]) -> None:
    assert [(change.before, change.after) for change in word_changes(before, after)] == changes


def test_long_texts_are_compared_in_bounded_time_and_shown_cut() -> None:
    before = " ".join(str(number) for number in range(100_000))
    after = " ".join(str(number) for number in range(100_000, 0, -1))
    changes = list(word_changes(before, after))
    assert changes
    assert max(len(change.before) for change in changes) < 5_000
