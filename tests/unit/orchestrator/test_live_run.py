"""A run in memory: what several things that arrive together come to, and what is not recorded yet."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2, workflow_pb2
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.run import SIGNAL, OwnedRun, RunCommand, RunWrite, shard_of
from services.orchestrator.engine.run_calls import CallKey
from tests.support.sessions import World, a_start, an_agent, outcome_of
from tests.support.workflows import a_node, a_run, a_workflow

IDS = SystemIds()


def begun(started: journal_pb2.RunStarted) -> LiveRun:
    """Begins a run, its first facts recorded."""
    run_id = IDS.new("run")
    live = LiveRun(OwnedRun(tenant=TENANT, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id)))
    live.recorded(live.begin(started, Timestamp()))
    return live


def ask(live: LiveRun, *kinds: str) -> None:
    """Has somebody ask things of a run, which it finds together."""
    live.tell([RunCommand(command_id=IDS.uuid(), kind=kind, by="key_ada") for kind in kinds])


def answer(live: LiveRun, intended: journal_pb2.JournalEntry) -> None:
    """Answers a call."""
    fact = outcome_of(World(), intended)
    if intended.call_intended.kind == journal_pb2.CALL_KIND_STEP:
        fact.call_answered.response = journal_pb2.StepResult().SerializeToString()
    live.answered(key_of(intended), fact)


def key_of(intended: journal_pb2.JournalEntry) -> CallKey:
    return intended.path, intended.call_intended.call_index


def decided(live: LiveRun) -> RunWrite:
    """Applies what has arrived."""
    write = live.advance(Timestamp())
    assert write is not None
    return write


def facts_of(write: RunWrite) -> list[str]:
    return [entry.WhichOneof("fact") or "" for entry in write.entries]


def test_what_is_left_for_the_next_time_keeps_its_order_and_its_commands() -> None:
    live = begun(a_run(a_workflow(a_node("only"))))
    ask(live, "pause", "resume")
    answer(live, live.outstanding[0])
    first = live.advance(Timestamp(), lambda: True)
    assert first is not None
    assert (facts_of(first), len(first.commands), live.unread, live.resting) == (["run_paused"], 1, True, False)
    rest = decided(live)
    assert facts_of(rest) == ["run_continued", "call_answered", "run_ended"]
    assert (len(rest.commands), rest.first_sequence, live.unread) == (1, first.last_sequence + 1, False)


def test_nothing_follows_the_end_of_a_run_though_it_arrived_with_its_last_answer() -> None:
    live = begun(a_run(a_workflow(a_node("only"))))
    answer(live, live.outstanding[0])
    ask(live, "pause", SIGNAL, "cancel")
    write = decided(live)
    assert facts_of(write) == ["call_answered", "run_ended"]
    assert len(write.commands) == 3, "who asked too late does not wait"


def test_a_session_that_ended_stays_ended_though_it_was_to_be_paused() -> None:
    live = begun(a_start(an_agent("Athena")))
    ask(live, "cancel", "pause")
    view = decided(live).view
    assert view is not None
    assert view.state == session_pb2.SESSION_STATE_CANCELLED


def test_commands_that_come_together_mean_what_they_mean_one_after_the_other() -> None:
    live = begun(a_run(a_workflow(a_node("only"))))
    ask(live, "pause", "resume")
    assert facts_of(decided(live)) == ["run_paused", "run_continued"]
    assert not live.resting


def test_a_paused_session_goes_into_no_round() -> None:
    live = begun(a_start(an_agent("Athena"), manual_advance=True))
    while live.outstanding:
        answer(live, live.outstanding[0])
        live.recorded(decided(live))
    ask(live, "pause", "advance")
    write = decided(live)
    assert facts_of(write) == ["run_paused"]
    assert write.view is not None
    assert write.view.state == session_pb2.SESSION_STATE_PAUSED


def test_a_paused_session_stays_paused_when_a_call_that_was_tried_again_succeeds() -> None:
    live = begun(a_start(an_agent("Athena")))
    [intended] = live.outstanding
    live.parked(intended.path, "BUDGET_EXHAUSTED", "there is no money")
    live.recorded(decided(live))
    ask(live, "pause")
    live.recorded(decided(live))
    answer(live, intended)
    view = decided(live).view
    assert view is not None
    assert view.state == session_pb2.SESSION_STATE_PAUSED


def test_a_run_that_was_paused_while_a_call_was_tried_again_is_not_parked_for_ever_by_whoever_takes_it_up() -> None:
    go = a_node("go", wait=workflow_pb2.WaitNode(signal="go"))
    tool = a_node("tool", tool=workflow_pb2.ToolNode(tool="calculator@1.0.0"))
    run = begun(a_run(a_workflow(tool, go)))
    first = LiveRun(run.run)
    begins = first.begin(run.started, Timestamp())
    first.recorded(begins)
    [intended] = first.outstanding
    first.parked(intended.path, "BUDGET_EXHAUSTED", "there is no money")
    parked = decided(first)
    ask(first, "pause")
    paused = decided(first)

    second = LiveRun(run.run)
    second.read([*begins.entries, *parked.entries, *paused.entries])
    second.recovered()
    answer(second, intended)
    ask(second, "resume")
    view = decided(second).view
    assert view is not None
    assert view.state == run_pb2.RUN_STATE_WAITING


def test_a_moment_that_has_come_is_not_left_in_the_database() -> None:
    """Else the run would be read from its journal again and again, for as long as it waits for something else."""
    nap = workflow_pb2.WaitNode()
    nap.timer.FromSeconds(7)
    live = begun(a_run(a_workflow(a_node("nap", wait=nap), a_node("go", wait=workflow_pb2.WaitNode(signal="go")))))
    moment = datetime.fromtimestamp(7, UTC)
    assert live.wake_time == moment
    live.awake(moment)
    write = decided(live)
    assert facts_of(write) == ["timer_fired", "step_completed"]
    assert write.view is not None
    assert write.wake_time is None


def test_a_call_is_due_once_its_own_fact_is_recorded_though_the_run_was_just_let_go_on() -> None:
    live = begun(a_start(an_agent("Athena")))
    [intended] = live.outstanding
    ask(live, "pause")
    live.recorded(decided(live))
    ask(live, "resume")
    resumed = decided(live)
    answer(live, intended)
    answered = decided(live)
    live.recorded(resumed)
    assert resumed.calls is None, "all that wait for their outcome are to be made"
    assert not live.due(live.outstanding)
    assert live.recorded_sequence == resumed.last_sequence
    live.recorded(answered)
    assert answered.calls == live.outstanding
    assert [key for key, _ in live.due(answered.calls or ())] == [key_of(live.outstanding[0])]


def test_the_write_that_gives_sub_runs_up_names_them() -> None:
    inner = workflow_pb2.RunNode(workflow="inner@1.0.0")
    live = begun(a_run(a_workflow(a_node("one", run=inner), a_node("other", run=inner), a_node("step"))))
    asked = [one.call_intended for one in live.outstanding if one.call_intended.kind == journal_pb2.CALL_KIND_RUN]
    sub_runs = {journal_pb2.SubRunTask.FromString(call.request).run_id for call in asked}
    [step] = [one for one in live.outstanding if one.path == "nodes/step"]
    answer(live, step)
    assert not decided(live).handed_down, "both are still waited for"
    ask(live, "cancel")
    ended = decided(live)
    assert live.ended
    assert {sub_run_id for sub_run_id, _ in ended.handed_down} == sub_runs
    assert {(command.kind, command.by) for _, command in ended.handed_down} == {("cancel", live.run.run_id)}
    assert len(sub_runs) == 2


def test_a_call_is_given_up_once_the_fact_that_says_so_is_recorded() -> None:
    live = begun(a_run(a_workflow(a_node("one"), a_node("other"))))
    one, other = live.outstanding
    assert len(live.due([one, other])) == 2
    answer(live, other)
    answered = decided(live)
    live.answered(key_of(one), journal_pb2.JournalEntry(path=one.path, timer_fired=journal_pb2.TimerFired()))
    given_up = decided(live)
    live.recorded(answered)
    assert not live.given_up()
    live.recorded(given_up)
    assert live.given_up() == [key_of(one)]
    assert not live.given_up()


def test_a_run_that_is_stranded_while_it_is_parked_leaves_no_moment_in_the_database() -> None:
    started = a_run(a_workflow(a_node("only")), deadline=90)
    run = begun(started)
    first = LiveRun(run.run)
    begins = first.begin(started, Timestamp())
    first.recorded(begins)
    first.parked("nodes/only", "BUDGET_EXHAUSTED", "there is no money")
    parked = decided(first)
    begins.entries[-1].call_intended.call_index = 7

    second = LiveRun(run.run)
    second.read([*begins.entries, *parked.entries])
    second.recovered()
    assert second.stranded
    write = decided(second)
    assert write.view is not None
    assert write.wake_time is None


def test_a_run_is_parked_no_longer_than_it_waits_for_the_call() -> None:
    policy = workflow_pb2.NodePolicy(on_failure=workflow_pb2.ON_FAILURE_CONTINUE)
    policy.timeout.FromSeconds(7)
    policy.retries.max_attempts = 1
    late = a_node("late", tool=workflow_pb2.ToolNode(tool="calculator@1.0.0"), policy=policy)
    live = begun(a_run(a_workflow(late, a_node("other"))))
    live.parked("nodes/late", "UNAVAILABLE", "tools does not answer")
    view = decided(live).view
    assert view is not None
    assert view.state == run_pb2.RUN_STATE_PARKED
    live.awake(datetime.fromtimestamp(7, UTC))
    assert facts_of(decided(live)) == ["timer_fired", "step_failed"]
    resumed = decided(live)
    assert facts_of(resumed) == ["run_resumed"]
    assert resumed.view is not None
    assert resumed.view.state == run_pb2.RUN_STATE_RUNNING


def test_the_write_that_pauses_a_run_tells_its_sub_runs_and_so_does_what_ends_the_pause() -> None:
    inner = workflow_pb2.RunNode(workflow="inner@1.0.0")
    live = begun(a_run(a_workflow(a_node("one", run=inner), a_node("step"))))
    [sub_run_id] = live._calls.sub_runs
    told: dict[str, RunCommand] = {}
    for kind in ("pause", "resume"):
        ask(live, kind)
        write = decided(live)
        live.recorded(write)
        [(named, told[kind])] = write.handed_down
        assert (named, told[kind].kind, told[kind].by) == (sub_run_id, kind, live.run.run_id)
        assert told[kind].command_id not in write.commands
    assert told["pause"].command_id < told["resume"].command_id
    ask(live, "resume")
    assert not decided(live).handed_down, "nothing that it could undo"
