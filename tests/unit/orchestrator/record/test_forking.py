"""Forks: what they take over, what they pin otherwise, what they may not do, and that they replay."""

from datetime import UTC

import pytest

from comitia.inference.v1 import inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import agent_pb2, journal_pb2, session_pb2
from comitia.orchestrator.v1.workflow_pb2 import AgentNode
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.core.errors import Invalid
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.programs.run_view import RunProjection
from services.orchestrator.programs.view import project
from services.orchestrator.record import forking
from services.orchestrator.record.forking import RecordedAnswers
from services.orchestrator.record.pins import AgentChange, Changes, Policy, wanted_versions
from tests.support.forks import FORK_ID, NOON, fork, play_on, replays, shared_facts
from tests.support.sessions import World, a_generation, a_start, an_agent, facts_of, play
from tests.support.workflows import PROGRAMS, Mesh, a_node, a_run, a_workflow, cel, literal

Entry = journal_pb2.JournalEntry
PARALLEL = session_pb2.SESSION_STRATEGY_PARALLEL


def turns_of(journal: list[Entry]) -> list[session_pb2.Turn]:
    return [entry.step_completed.turn for entry in facts_of(journal, "step_completed")]


def asked_of_models(journal: list[Entry]) -> dict[str, inference_service_pb2.StreamGenerateRequest]:
    return {
        entry.path: inference_service_pb2.StreamGenerateRequest.FromString(entry.call_intended.request)
        for entry in facts_of(journal, "call_intended")
        if entry.call_intended.kind == journal_pb2.CALL_KIND_GENERATE
    }


def sequence_of(journal: list[Entry], fact: str, path: str = "") -> int:
    """Gives the sequence of the first fact of a kind at a place."""
    return next(
        number for number, entry in enumerate(journal, 1) if entry.WhichOneof("fact") == fact and entry.path == path
    )


def test_a_fork_at_a_step_keeps_what_was_said_before_and_asks_nobody_again() -> None:
    journal = play(a_start(max_rounds=2), World())
    world = World(say=lambda path, _: f"said anew at {path}")
    forked = play_on(fork(journal, Changes(topic="Rivers"), path="rounds/2/Athena"), world)
    before, after = turns_of(journal), turns_of(forked)
    assert [turn.output.content for turn in after[:2]] == [turn.output.content for turn in before[:2]]
    assert [turn.output.content for turn in after[2:]] == [
        "said anew at rounds/2/Athena",
        "said anew at rounds/2/Apollo",
    ]
    asked = [entry.path for entry in world.requests if entry.call_intended.kind == journal_pb2.CALL_KIND_GENERATE]
    assert asked == ["rounds/2/Athena", "rounds/2/Apollo"]
    assert replays(forked)


def test_a_fork_begins_right_before_its_step_with_what_it_pins() -> None:
    journal = play(a_start(max_rounds=2), World())
    forked = play_on(fork(journal, Changes(topic="Rivers", model="other"), path="rounds/2/Athena"), World())
    asked = asked_of_models(forked)
    assert {path for path, request in asked.items() if request.model == "other"} == {
        "rounds/2/Athena",
        "rounds/2/Apollo",
    }
    assert {path for path, request in asked.items() if "Rivers" in str(request)} == {
        "rounds/2/Athena",
        "rounds/2/Apollo",
    }


def test_a_fork_from_the_beginning_shares_what_it_was_started_with_only() -> None:
    journal = play(a_start(), World())
    forked = play_on(fork(journal, Changes(topic="Rivers")), World())
    assert not facts_of(forked, "run_forked")
    assert forked[0].run_started.session.topic_start == "Rivers"
    assert forked[0].run_started.fork.run_id == "run_other"
    assert replays(forked)
    at_first_step = play_on(fork(journal, Changes(topic="Rivers"), path="rounds/1/Athena"), World())
    assert [entry.WhichOneof("fact") for entry in at_first_step] == [entry.WhichOneof("fact") for entry in forked]


def test_a_fork_has_ids_of_its_own_everywhere() -> None:
    journal = play(a_start(), World())
    forked = play_on(fork(journal, path="rounds/2/Apollo"), World())
    own = b"".join(entry.SerializeToString() for entry in forked if entry.WhichOneof("fact") != "call_answered")
    other = journal[0].run_started
    assert other.session.session_id.encode() not in own
    assert other.session.budget_id.encode() not in own
    assert other.grant_id.encode() not in own
    ids = {turn.turn_id for turn in turns_of(journal)} & {turn.turn_id for turn in turns_of(forked)}
    assert not ids
    assert {turn.session_id for turn in turns_of(forked)} == {FORK_ID}


def test_a_fork_does_not_show_what_the_other_run_was_estimated_at() -> None:
    started = a_start()
    started.session.estimate.calibrated_on = 7
    forked = play_on(fork(play(started, World()), path="rounds/2/Apollo"), World())
    assert not forked[0].run_started.session.HasField("estimate")


def test_a_fork_takes_over_up_to_the_last_end_of_what_was_decided_in_one_go() -> None:
    journal = play(a_start(), World())
    for at in range(1, len(journal)):
        shared = shared_facts(journal, at=at)
        assert shared.at_sequence <= at
        ends = shared.at_sequence
        assert ends in (0, at) or journal[ends].WhichOneof("fact") in ("call_answered", "call_failed")
        beginning = fork(journal, at=at)
        kept = [entry for entry in beginning.entries if entry.WhichOneof("fact") != "run_forked"]
        if ends:
            expected = [(entry.path, entry.WhichOneof("fact")) for entry in journal[:ends]]
            assert [(entry.path, entry.WhichOneof("fact")) for entry in kept] == expected
        assert replays(play_on(beginning, World()))


def test_what_is_taken_over_keeps_its_distances_in_time_and_ends_when_the_fork_begins() -> None:
    journal = play(a_start(), World())
    at = sequence_of(journal, "round_scored")
    beginning = fork(journal, at=at)
    shared = shared_facts(journal, at=at).at_sequence
    moved = NOON - journal[shared - 1].record_time.ToDatetime(tzinfo=UTC)
    for before, after in zip(journal[:shared], beginning.entries, strict=False):
        assert after.record_time.ToDatetime(tzinfo=UTC) - before.record_time.ToDatetime(tzinfo=UTC) == moved
    assert beginning.entries[shared].WhichOneof("fact") == "run_forked"
    assert beginning.entries[shared].record_time.ToDatetime(tzinfo=UTC) == NOON


def test_agents_of_a_fork_hear_what_was_said_before_it_whoever_remembers_it() -> None:
    journal = play(a_start(max_rounds=3), World(say=lambda path, _: f"I spoke at {path}"))
    world = World(say=lambda path, _: f"anew at {path}")
    forked = play_on(fork(journal, path="rounds/3/Athena"), world)
    prompt = str(asked_of_models(forked)["rounds/3/Athena"])
    for path in ("rounds/1/Athena", "rounds/1/Apollo", "rounds/2/Athena", "rounds/2/Apollo"):
        assert f"I spoke at {path}" in prompt


def test_agents_that_speak_at_once_hear_a_round_in_which_the_fork_began() -> None:
    said = World(say=lambda path, _: f"I spoke at {path}")
    agents = [an_agent(name) for name in ("Athena", "Apollo", "Hermes")]
    journal = play(a_start(*agents, strategy=PARALLEL, max_rounds=2), said)
    forked = play_on(fork(journal, path="rounds/2/Apollo"), World(say=lambda path, _: f"anew at {path}"))
    prompt = str(asked_of_models(forked)["rounds/2/Apollo"])
    for name in ("Athena", "Apollo", "Hermes"):
        assert f"I spoke at rounds/1/{name}" in prompt
    assert replays(forked)


def test_an_agent_of_another_version_stands_for_the_one_at_its_place() -> None:
    journal = play(a_start(max_rounds=2), World())
    other = an_agent("Apollo", "2.0.0", instructions="Speak in verse.")
    changes = Changes(agents=[AgentChange(name="Apollo", version="2.0.0")])
    assert wanted_versions(journal[0].run_started, changes) == [("Apollo", "2.0.0")]
    forked = play_on(fork(journal, changes, path="rounds/2/Athena", found=[other]), World())
    assert [f"{turn.agent_name}@{turn.agent_version}" for turn in turns_of(forked)] == [
        *("Athena@1.0.0", "Apollo@1.0.0", "Athena@1.0.0", "Apollo@2.0.0"),
    ]
    assert "Speak in verse." in str(asked_of_models(forked)["rounds/2/Apollo"])
    assert "Speak in verse." not in str(asked_of_models(forked)["rounds/2/Athena"])
    assert replays(forked)


def test_one_agent_may_ask_another_model_though_the_run_asks_one_for_all() -> None:
    started = a_start()
    started.model_override = "cheap"
    journal = play(started, World())
    changes = Changes(agents=[AgentChange(name="Apollo", model="dear", instructions="Be brief.")])
    asked = asked_of_models(play_on(fork(journal, changes, path="rounds/2/Athena"), World()))
    assert asked["rounds/2/Athena"].model == "cheap"
    assert asked["rounds/2/Apollo"].model == "dear"


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        (AgentChange(name="Hermes", model="m"), "agents[0].name", "must name an agent of the run"),
        (AgentChange(name="Athena", version="2.0.0"), "agents[0].version", "has Athena@2.0.0 already"),
    ],
)
def test_a_change_of_an_agent_that_cannot_be_made_is_refused(change: AgentChange, field: str, sentence: str) -> None:
    started = a_start(an_agent("Athena@1.0.0".partition("@")[0]), an_agent("Apollo"))
    if change.version:
        started.agents.append(an_agent("Athena", "2.0.0"))
        change = AgentChange(name="Athena@1.0.0", version=change.version)
    with pytest.raises(Invalid, match=sentence) as refused:
        wanted_versions(started, Changes(agents=[change]))
    assert refused.value.field == field


def test_an_agent_named_by_one_of_two_versions_has_to_be_told_apart() -> None:
    started = a_start(an_agent("Athena"), an_agent("Athena", "2.0.0"))
    with pytest.raises(Invalid, match="names several agents of the run"):
        wanted_versions(started, Changes(agents=[AgentChange(name="Athena", model="m")]))
    changes = [AgentChange(name="Athena@1.0.0", model="m"), AgentChange(name="Athena@1.0.0", model="n")]
    with pytest.raises(Invalid, match="a second time"):
        wanted_versions(started, Changes(agents=changes))


@pytest.mark.parametrize(("path", "at", "field"), [("rounds/9/Athena", 0, "path"), ("", 10_000, "at_sequence")])
def test_a_place_that_the_run_has_not_reached_is_refused(path: str, at: int, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        shared_facts(play(a_start(), World()), path=path, at=at)
    assert refused.value.field == field


def test_a_place_from_which_the_run_only_went_to_its_end_is_refused() -> None:
    journal = play(a_start(), World())
    with pytest.raises(Invalid, match=f"must be at most {len(journal) - 1}"):
        shared_facts(journal, at=len(journal))
    assert shared_facts(journal, at=len(journal) - 1).at_sequence < len(journal) - 1


def test_a_run_that_does_not_follow_from_its_program_cannot_be_forked_beyond_that_place() -> None:
    journal = play(a_start(), World())
    wrong = sequence_of(journal, "step_started", "rounds/2/Athena")
    journal[wrong - 1].step_started.round = 7
    with pytest.raises(RunDiverged):
        shared_facts(journal, path="rounds/2/Apollo")
    assert shared_facts(journal, path="rounds/1/Apollo").at_sequence


def test_more_facts_than_a_commit_holds_are_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = play(a_start(), World())
    monkeypatch.setattr(forking, "MAX_FACTS", 10)
    with pytest.raises(Invalid, match="more than 10 facts"):
        shared_facts(journal, path="rounds/2/Apollo")
    assert shared_facts(journal, path="rounds/1/Athena").at_sequence == 0


def a_tool_session() -> list[Entry]:
    world = World()
    world.generations["rounds/1/Athena"] = [a_generation("", tool="calculator", arguments={"a": 1}), a_generation("42")]
    return play(a_start(an_agent("Athena", tools=["calculator"]), max_rounds=2), world)


def test_a_dry_fork_takes_the_recorded_answer_of_a_tool_by_what_was_asked() -> None:
    journal = a_tool_session()
    world = World()
    world.generations["rounds/1/Athena"] = [a_generation("", tool="calculator", arguments={"a": 1}), a_generation("so")]
    forked = play_on(fork(journal, path="rounds/1/Athena"), world)
    called = [entry for entry in world.requests if entry.call_intended.kind == journal_pb2.CALL_KIND_TOOL]
    assert not called
    [answer] = [
        tool_service_pb2.Invocation.FromString(entry.call_answered.response)
        for entry in facts_of(forked, "call_answered")
        if entry.call_answered.kind == journal_pb2.CALL_KIND_TOOL
    ]
    assert answer.parts[0].text.text == "42"
    assert answer.cost_nano_usd == 0, "the other run has paid for it"
    assert replays(forked)


def test_a_dry_fork_tells_the_model_of_a_call_that_nobody_made() -> None:
    journal = a_tool_session()
    world = World()
    world.generations["rounds/1/Athena"] = [a_generation("", tool="calculator", arguments={"a": 2}), a_generation("so")]
    forked = play_on(fork(journal, path="rounds/1/Athena"), world)
    assert "FORK_IS_DRY" in str(turns_of(forked)[0].tool_uses)
    assert not [entry for entry in world.requests if entry.call_intended.kind == journal_pb2.CALL_KIND_TOOL]


def test_a_fork_with_real_effects_calls_its_tools() -> None:
    journal = a_tool_session()
    world = World()
    world.generations["rounds/1/Athena"] = [a_generation("", tool="calculator", arguments={"a": 1}), a_generation("so")]
    play_on(fork(journal, path="rounds/1/Athena", dry=False), world)
    assert [entry for entry in world.requests if entry.call_intended.kind == journal_pb2.CALL_KIND_TOOL]


def test_answers_for_a_dry_fork_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "MAX_ANSWER_BYTES", 1)
    answers = RecordedAnswers()
    for entry in a_tool_session():
        answers.take(entry)
    assert not answers.answers


def test_what_was_taken_over_the_other_run_has_paid_for() -> None:
    journal = play(a_start(max_rounds=2), World())
    forked = play_on(fork(journal, path="rounds/2/Apollo"), World())
    session = session_pb2.Session()
    for sequence, entry in enumerate(forked, 1):
        project(session, entry, sequence)
    assert session.cost_nano_usd == 1_000, "one turn was made"
    assert (session.forked_from_run_id, session.max_cost_nano_usd) == ("run_other", 5_000)
    assert session.start_time.ToDatetime(tzinfo=UTC) == NOON
    assert session.turn_count == 4


def test_a_fork_of_a_fork_pins_on_top_of_what_that_one_pinned() -> None:
    journal = play(a_start(max_rounds=3), World())
    first = play_on(fork(journal, Changes(topic="Rivers"), path="rounds/2/Athena"), World())
    again = fork(first, Changes(model="other"), path="rounds/3/Athena", run_id="run_01jg0000000000000000000000")
    second = play_on(again, World())
    request = asked_of_models(second)["rounds/3/Athena"]
    assert "Rivers" in str(request)
    assert request.model == "other"
    assert FORK_ID not in "".join(str(entry) for entry in second if entry.WhichOneof("fact") != "call_answered")
    assert replays(second)


def test_a_run_that_waits_to_be_advanced_is_forked_at_its_next_step() -> None:
    started = a_start(manual_advance=True, max_rounds=2)
    journal = play(started, World())
    assert journal[-1].WhichOneof("fact") == "run_waiting"
    waiting = fork(journal, at=len(journal))
    assert play_on(waiting, World())[-1].WhichOneof("fact") == "run_forked"


def test_a_paused_run_goes_on_in_its_fork() -> None:
    mesh = Mesh().start(a_run(a_workflow(a_node("a"), a_node("b", "a"))))
    mesh.record(Entry(run_paused=journal_pb2.RunPaused(by="key_ada")))
    beginning = fork(mesh.journal, at=len(mesh.journal), dry=False, programs=PROGRAMS)
    assert beginning.entries[-1].WhichOneof("fact") == "run_continued"
    view = RunProjection()
    for sequence, entry in enumerate(beginning.entries, 1):
        view.take(entry, sequence)
    assert view.run.state == session_pb2.SESSION_STATE_RUNNING


def test_a_step_of_a_workflow_that_is_made_anew_gets_what_came_before_it() -> None:
    workflow = a_workflow(a_node("a"), a_node("b", "a"), a_node("c", "b"), out=cel("nodes.c.output"))
    mesh = Mesh(answers={"nodes/a": [{"n": 1}], "nodes/b": [{"n": 2}], "nodes/c": [{"n": 3}]}).play(a_run(workflow))
    beginning = fork(mesh.journal, path="nodes/b", dry=False, programs=PROGRAMS)
    outside = [entry for entry in beginning.entries if entry.HasField("call_answered")]
    assert [entry.path for entry in outside] == ["nodes/a"], "taken over, and not asked again"
    assert beginning.entries[-1].path == "nodes/b"
    assert replays(beginning.entries, programs=PROGRAMS)


def test_a_dry_fork_of_a_workflow_takes_the_answers_of_workers_and_fails_other_steps() -> None:
    other = a_node("b", "a")
    other.step.name = "other"
    workflow = a_workflow(a_node("a"), other, out=cel("nodes.b.output"))
    mesh = Mesh(answers={"nodes/a": [{"n": 1}], "nodes/b": [{"n": 2}]}).play(a_run(workflow))
    forked = play_on(fork(mesh.journal, path="nodes/b", programs=PROGRAMS), World())
    assert forked[-1].run_ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    assert forked[-1].run_ended.output == mesh.journal[-1].run_ended.output
    shorter = [entry for entry in mesh.journal if entry.path != "nodes/b" or not entry.HasField("call_answered")]
    cut = [entry for entry in shorter if not entry.HasField("run_ended")]
    failed = play_on(fork(cut, path="nodes/b", programs=PROGRAMS), World())
    assert facts_of(failed, "call_failed")[0].call_failed.reason == "FORK_IS_DRY"


def test_two_steps_that_ask_the_same_get_each_its_own_answer_in_a_dry_fork() -> None:
    workflow = a_workflow(a_node("a"), a_node("b", "a"), out=cel("nodes.b.output"))
    mesh = Mesh(answers={"nodes/a": [{"n": 1}], "nodes/b": [{"n": 2}]}).play(a_run(workflow))
    forked = play_on(fork(mesh.journal, path="nodes/a", programs=PROGRAMS), World())
    assert forked[-1].run_ended.output == mesh.journal[-1].run_ended.output


def test_what_a_workflow_is_given_can_be_changed_from_its_beginning() -> None:
    workflow = a_workflow(a_node("a"), out=cel("input.city"))
    mesh = Mesh().play(a_run(workflow, given={"city": "Graz"}))
    forked = play_on(fork(mesh.journal, Changes(input={"city": "Linz"}), programs=PROGRAMS), World())
    assert forked[-1].run_ended.output.struct_value.fields["out"].string_value == "Linz"


def test_memory_of_the_step_before_is_written_again_for_the_fork() -> None:
    journal = play(a_start(max_rounds=2), World())
    world = World()
    play_on(fork(journal, path="rounds/2/Athena"), world)
    remembered = [
        memory_service_pb2.RememberRequest.FromString(entry.call_intended.request).session_id
        for entry in world.requests
        if entry.call_intended.kind == journal_pb2.CALL_KIND_REMEMBER
    ]
    assert remembered == [FORK_ID] * 3


def a_chain_of_agents() -> list[Entry]:
    nodes = [a_node("draft", agent=AgentNode(agent="Ada@1.0.0", prompt=literal("Draft it.")))]
    nodes.append(a_node("review", "draft", agent=AgentNode(agent="Bob@1.0.0", prompt=literal("Review it."))))
    agents = [an_agent("Ada"), an_agent("Bob", memory=agent_pb2.MemoryPolicy(recent_turns=4))]
    mesh = Mesh(turns=World(say=lambda path, _: f"I spoke at {path}"))
    return mesh.play(a_run(a_workflow(*nodes), agents=agents)).journal


def test_an_agent_of_a_workflow_hears_what_was_said_before_the_fork() -> None:
    forked = play_on(fork(a_chain_of_agents(), path="nodes/review", programs=PROGRAMS), World())
    assert "I spoke at nodes/draft" in str(asked_of_models(forked)["nodes/review"])
    assert replays(forked, programs=PROGRAMS)


def test_another_version_of_an_agent_stands_at_its_node_and_is_who_speaks_there() -> None:
    other = an_agent("Bob", "2.0.0", instructions="Be kind.")
    changes = Changes(agents=[AgentChange(name="Bob", version="2.0.0")])
    beginning = fork(a_chain_of_agents(), changes, path="nodes/review", found=[other], programs=PROGRAMS)
    forked = play_on(beginning, World())
    speakers = {entry.path: entry.step_started.agent for entry in facts_of(forked, "step_started")}
    assert speakers == {"nodes/draft": "Ada@1.0.0", "nodes/review": "Bob@2.0.0"}
    assert "Be kind." in str(asked_of_models(forked)["nodes/review"])
    again = fork(
        forked, Changes(agents=[AgentChange(name="Bob", model="dear")]), path="nodes/review", programs=PROGRAMS
    )
    assert asked_of_models(play_on(again, World()))["nodes/review"].model == "dear"


def test_what_is_taken_over_tells_which_bundle_judged_it_in_place_of_the_law() -> None:
    journal = play(a_start(max_rounds=3), World())
    assert not shared_facts(journal, path="rounds/2/Athena").bundle
    lenient = Policy(bundle="lenient@1.0.0", digest="ab")
    judged = play_on(fork(journal, path="rounds/2/Athena", policy=lenient), World())
    for at in (sequence_of(judged, "run_forked") - 1, sequence_of(judged, "run_forked"), len(judged) - 1):
        assert shared_facts(judged, at=at).bundle == "lenient@1.0.0"
    assert shared_facts(judged, path="rounds/3/Apollo").bundle == "lenient@1.0.0"
    assert not shared_facts(judged).bundle, "from the beginning nothing is taken over"
    again = play_on(fork(judged, path="rounds/3/Athena", policy=Policy(bundle="strict@1.0.0", digest="cd")), World())
    assert shared_facts(again, path="rounds/3/Apollo").bundle == "strict@1.0.0"
