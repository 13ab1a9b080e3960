"""Runs of workflows as a pure program: when nodes start, what they are given, and how a run ends."""

import pytest
from google.protobuf.duration_pb2 import Duration

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2, workflow_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.core.errors import Unavailable
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.programs import graph_ends, graph_steps
from services.orchestrator.programs.graph_state import KEPT_SIGNALS, GraphState
from services.orchestrator.programs.run import RunState
from services.orchestrator.programs.values import Json, from_struct, from_value, to_struct, to_value
from tests.support.sessions import World, a_generation, an_agent
from tests.support.workflows import (
    Entry,
    Fails,
    Mesh,
    Silent,
    a_node,
    a_run,
    a_workflow,
    cel,
    edge,
    literal,
    replayed,
)

FAN_IN = workflow_pb2.FanIn
POLICY = workflow_pb2.NodePolicy
CONTINUE = POLICY(on_failure=workflow_pb2.ON_FAILURE_CONTINUE)
BREAKS = Fails("INPUT_INVALID", "the input is wrong; mend it", final=True)


class ModelAway(Unavailable):
    """What inference says when no model answers."""

    reason = "TEST_MODEL_AWAY"


def agent_node(prompt: str = "Say something.", agent: str = "Athena@1.0.0") -> workflow_pb2.AgentNode:
    return workflow_pb2.AgentNode(agent=agent, prompt=literal(prompt))


def number_schema(most: int = 10) -> POLICY:
    return POLICY(output_schema=to_struct({"type": "integer", "maximum": most}))


def input_of(entry: Entry) -> Json:
    """Reads what a worker or a sub-run is given."""
    return from_value(journal_pb2.StepTask.FromString(entry.call_intended.request).input)


def facts_of(mesh: Mesh, kind: str) -> list[str]:
    return [entry.path for entry in mesh.journal if entry.WhichOneof("fact") == kind]


def signal(name: str, payload: Json = None) -> Entry:
    return Entry(signal_received=journal_pb2.SignalReceived(name=name, payload=to_value(payload), by="key_1"))


def resume(mesh: Mesh) -> None:
    mesh.record(Entry(run_continued=journal_pb2.RunContinued(by="key_1")))


def go_on(mesh: Mesh) -> list[Entry]:
    """Lets the timers fire that have ended, without letting time pass."""
    timers = mesh.timers.due(mesh.now)
    return [Entry(path=path, timer_fired=journal_pb2.TimerFired(timer=name)) for path, name in timers]


# Nodes and edges


def test_a_chain_takes_one_step_after_the_other_with_two_facts_each() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("a"), a_node("b", "a"), a_node("c", "b"))))
    assert [entry.path for entry in mesh.made] == ["nodes/a", "nodes/b", "nodes/c"]
    assert len(mesh.journal) == 1 + 2 * 3 + 1
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED
    assert mesh.output() == {"c": {"from": "nodes/c"}}
    replayed(mesh.journal)


def test_nodes_that_may_start_at_once_start_in_their_order() -> None:
    nodes = [a_node(name, "first") for name in ("d", "b", "c")]
    mesh = Mesh().start(a_run(a_workflow(*nodes, a_node("first"), a_node("other"))))
    assert [entry.path for entry in mesh.made] == ["nodes/first", "nodes/other"]
    mesh.answer(("nodes/first", 0))
    assert [entry.path for entry in mesh.made[2:]] == ["nodes/d", "nodes/b", "nodes/c"]


def test_a_node_with_all_its_edges_waits_for_the_last_one() -> None:
    mesh = Mesh().start(a_run(a_workflow(a_node("a"), a_node("b"), a_node("c", "a", "b"))))
    mesh.answer(("nodes/b", 0))
    assert len(mesh.made) == 2
    mesh.answer(("nodes/a", 0))
    assert mesh.made[-1].path == "nodes/c"


def test_any_edge_starts_a_node_once() -> None:
    anyone = FAN_IN(mode=workflow_pb2.FAN_IN_MODE_ANY)
    mesh = Mesh().play(a_run(a_workflow(a_node("a"), a_node("b"), a_node("c", "a", "b", fan_in=anyone))))
    assert [entry.path for entry in mesh.made].count("nodes/c") == 1
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED


def test_any_edge_that_fails_leaves_the_others_their_chance() -> None:
    anyone = FAN_IN(mode=workflow_pb2.FAN_IN_MODE_ANY)
    flow = a_workflow(a_node("a", policy=CONTINUE), a_node("b"), a_node("c", "a", "b", fan_in=anyone))
    mesh = Mesh(answers={"nodes/a": [BREAKS]}).play(a_run(flow))
    assert mesh.states() == {"nodes/a": "failed", "nodes/b": "succeeded", "nodes/c": "succeeded"}


def test_a_node_that_any_edge_has_started_asks_no_later_edge() -> None:
    anyone = FAN_IN(mode=workflow_pb2.FAN_IN_MODE_ANY)
    first = an_aggregate(workflow_pb2.REDUCER_FIRST)
    after = a_node("c", "a", edge("b", "nodes.b.output.missing"), fan_in=anyone)
    mesh = Mesh().play(a_run(a_workflow(a_node("a", aggregate=first), a_node("b", aggregate=first), after)))
    assert mesh.states()["nodes/c"] == "succeeded"


def test_a_node_that_needs_all_is_skipped_as_soon_as_a_plain_edge_cannot_hold() -> None:
    flow = a_workflow(
        a_node("a"), a_node("b", policy=CONTINUE), a_node("c", edge("a", 'nodes.a.state == "succeeded"'), "b")
    )
    mesh = Mesh(answers={"nodes/a": [Silent()], "nodes/b": [BREAKS]}).play(a_run(flow))
    assert mesh.states() == {"nodes/a": "running", "nodes/b": "failed", "nodes/c": "skipped"}


def test_a_quorum_starts_with_so_many_and_is_skipped_when_it_cannot_come_about() -> None:
    two = FAN_IN(mode=workflow_pb2.FAN_IN_MODE_QUORUM, quorum=2)
    before = [a_node(name, policy=CONTINUE) for name in ("a", "b", "c")]
    flow = a_workflow(*before, a_node("vote", "a", "b", "c", fan_in=two))
    assert Mesh(answers={"nodes/a": [BREAKS]}).play(a_run(flow)).states()["nodes/vote"] == "succeeded"
    mesh = Mesh(answers={"nodes/a": [BREAKS], "nodes/b": [BREAKS], "nodes/c": [Silent()]}).play(a_run(flow))
    assert mesh.states()["nodes/vote"] == "skipped"


def test_what_comes_after_a_skipped_or_failed_node_is_skipped_too() -> None:
    flow = a_workflow(
        a_node("a", policy=CONTINUE),
        a_node("b", "a"),
        a_node("c", "b"),
        a_node("d", edge("c", 'nodes.c.state == "skipped"')),
    )
    mesh = Mesh(answers={"nodes/a": [BREAKS]}).play(a_run(flow))
    assert mesh.states() == {
        "nodes/a": "failed",
        "nodes/b": "skipped",
        "nodes/c": "skipped",
        "nodes/d": "succeeded",
    }
    assert mesh.steps()["nodes/b"].state_reason == "DEPENDENCY_NOT_SUCCEEDED"
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED


def test_conditions_on_edges_choose_a_branch() -> None:
    flow = a_workflow(
        a_node("ask"),
        a_node("yes", edge("ask", "nodes.ask.output == true")),
        a_node("no", edge("ask", "nodes.ask.output == false")),
    )
    mesh = Mesh(answers={"nodes/ask": [True]}).play(a_run(flow))
    assert mesh.states() == {"nodes/ask": "succeeded", "nodes/yes": "succeeded", "nodes/no": "skipped"}
    assert mesh.steps()["nodes/no"].state_reason == "CONDITION_FALSE"


@pytest.mark.parametrize("first", ["a", "b"])
def test_conditions_of_a_node_that_needs_all_are_asked_when_all_before_it_have_ended(first: str) -> None:
    flow = a_workflow(a_node("a"), a_node("b"), a_node("c", edge("a", 'nodes.b.state == "succeeded"'), "b"))
    mesh = Mesh().start(a_run(flow))
    mesh.answer((f"nodes/{first}", 0))
    assert mesh.drive().states()["nodes/c"] == "succeeded"


def test_a_nodes_own_condition_skips_it() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("a", when="input.go == true")), given={"go": False}))
    assert mesh.states() == {"nodes/a": "skipped"}
    assert mesh.output() == {"a": None}


def test_a_condition_without_an_answer_fails_its_node() -> None:
    flow = a_workflow(a_node("a"), a_node("b", edge("a", "nodes.a.output.missing")), a_node("c"))
    mesh = Mesh().play(a_run(flow))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "CONDITION_FAILED")
    assert "node b failed" in mesh.run.state_message


def test_a_node_is_given_what_its_expressions_say() -> None:
    flow = a_workflow(
        a_node("a"), a_node("b", "a", input={"x": cel("nodes.a.output.n"), "y": cel("input.k"), "z": literal([1])})
    )
    mesh = Mesh(answers={"nodes/a": [{"n": 5}]}).play(a_run(flow, given={"k": "v"}))
    assert input_of(mesh.made[1]) == {"x": 5, "y": "v", "z": [1]}


def test_an_expression_without_a_value_fails_its_node_and_is_not_tried_again() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("a", input={"x": cel("input.missing")}))))
    assert mesh.run.state_reason == "EXPRESSION_FAILED"
    assert not mesh.made


def test_the_run_gives_what_its_workflow_says() -> None:
    flow = a_workflow(a_node("a"), a_node("b", "a"), answer=cel("nodes.a.output"), always=literal(1))
    assert Mesh(answers={"nodes/a": ["first"]}).play(a_run(flow)).output() == {"answer": "first", "always": 1}


def test_an_output_that_cannot_be_made_fails_the_run_at_its_end() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("a"), x=cel("nodes.a.output.missing"))))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "EXPRESSION_FAILED")


def test_a_value_that_grows_with_every_node_is_stopped() -> None:
    concat = workflow_pb2.AggregateNode(reducer=workflow_pb2.REDUCER_CONCAT)
    nodes = [a_node("n0", aggregate=an_aggregate(workflow_pb2.REDUCER_CONCAT, ["x" * 1000]))]
    for number in range(1, 20):
        left, right = f"l{number}", f"r{number}"
        nodes += [a_node(side, f"n{number - 1}", aggregate=concat) for side in (left, right)]
        nodes.append(a_node(f"n{number}", left, right, aggregate=concat))
    mesh = Mesh().play(a_run(a_workflow(*nodes)))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "VALUE_TOO_LARGE")


@pytest.mark.parametrize("value", [cel("input.x"), literal("x" * 300)])
def test_the_steps_of_one_run_are_given_so_much(monkeypatch: pytest.MonkeyPatch, value: workflow_pb2.NodeValue) -> None:
    monkeypatch.setattr(graph_steps, "MAX_WRITTEN_BYTES", 1_000)
    nodes = [a_node(f"n{at}", input={"x": value}) for at in range(10)]
    mesh = Mesh().play(a_run(a_workflow(*nodes), given={"x": "x" * 300}))
    assert mesh.run.state_reason == "VALUE_TOO_LARGE"
    assert len(mesh.made) < 4


def test_every_attempt_counts_towards_what_the_steps_of_a_run_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_steps, "MAX_WRITTEN_BYTES", 1_000)
    policy = POLICY(retries=workflow_pb2.RetryPolicy(max_attempts=9))
    mesh = Mesh(answers={"nodes/a": [Fails()]})
    mesh.play(a_run(a_workflow(a_node("a", input={"x": literal("x" * 400)}, policy=policy))))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "VALUE_TOO_LARGE")
    assert len(mesh.made) == 2


@pytest.mark.parametrize("kind", ["step", "agent", "wait", "aggregate"])
def test_the_steps_of_one_run_give_so_much(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(graph_ends, "MAX_GIVEN_BYTES", 1_000)
    text = "x" * 300
    waits = workflow_pb2.Node(wait=workflow_pb2.WaitNode(signal="go"))
    adds = workflow_pb2.Node(aggregate=an_aggregate(workflow_pb2.REDUCER_CONCAT, [text]))
    asks = workflow_pb2.Node(agent=agent_node())
    body = {"step": a_node(""), "agent": asks, "wait": waits, "aggregate": adds}[kind]
    nodes = list[workflow_pb2.Node]()
    for at in range(9):
        node = a_node(f"n{at}", *[f"n{at - 1}"][: min(at, 1)])
        node.MergeFrom(workflow_pb2.Node(**{kind: getattr(body, kind)}))
        nodes.append(node)
    answers = {f"nodes/n{at}": [text] for at in range(9)} if kind == "step" else {}
    mesh = Mesh(answers=answers, turns=World(say=lambda *_: text))
    mesh.play(a_run(a_workflow(*nodes), agents=[an_agent("Athena")]))
    for _ in range(9):
        if not mesh.ended:
            mesh.record(signal("go", text))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "OUTPUTS_TOO_LARGE")
    assert "nodes/n3" in mesh.run.state_message


def test_what_a_schema_refuses_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_ends, "MAX_GIVEN_BYTES", 1_000)
    policy = number_schema()
    policy.retries.max_attempts = 5
    mesh = Mesh(answers={"nodes/a": [*["x" * 400] * 4, 1]}).play(a_run(a_workflow(a_node("a", policy=policy))))
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED


# Attempts


def test_a_failed_attempt_is_made_again_as_a_call_of_its_own_after_a_growing_wait() -> None:
    mesh = Mesh(answers={"nodes/a": [Fails(), Fails(), 7]}).play(a_run(a_workflow(a_node("a"))))
    calls = [entry.call_intended for entry in mesh.made]
    assert [(call.call_index, call.attempt, call.begins_step) for call in calls] == [
        (0, 0, True),
        (1, 2, False),
        (2, 3, False),
    ]
    assert len({call.request for call in calls}) == 1
    first, second = (
        entry.timer_started.duration.ToMilliseconds() for entry in mesh.journal if entry.HasField("timer_started")
    )
    assert 800 <= first <= 1000
    assert 1600 <= second <= 2000
    assert mesh.steps()["nodes/a"].attempts == 3
    replayed(mesh.journal)


def test_waits_differ_between_runs_and_are_the_same_in_every_replay() -> None:
    def wait(run_id: str) -> int:
        started = a_run(a_workflow(a_node("a")))
        started.run.run_id = run_id
        mesh = Mesh(answers={"nodes/a": [Fails(), 1]}).play(started)
        return next(e.timer_started.duration.ToNanoseconds() for e in mesh.journal if e.HasField("timer_started"))

    one, other = "run_01jd0000000000000000000000", "run_01jd0000000000000000000002"
    assert wait(one) == wait(one) != wait(other)


@pytest.mark.parametrize("reason", ["LAW_BLOCKED", "BUDGET_EXHAUSTED", "INVALID_FIELD"])
def test_what_would_fail_again_is_not_tried_again(reason: str) -> None:
    mesh = Mesh(answers={"nodes/a": [Fails(reason, final=True)]}).play(a_run(a_workflow(a_node("a"))))
    assert len(mesh.made) == 1
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, reason)


def test_a_step_that_always_fails_is_parked_and_the_rest_of_the_run_goes_on() -> None:
    flow = a_workflow(a_node("bad"), a_node("after", "bad"), a_node("good"), a_node("last", "good"))
    mesh = Mesh(answers={"nodes/bad": [Fails()]}).play(a_run(flow))
    assert mesh.states() == {"nodes/bad": "parked", "nodes/good": "succeeded", "nodes/last": "succeeded"}
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_PARKED, "STEP_PARKED")
    assert "STEP_RAISED" in mesh.run.state_message
    replayed(mesh.journal)


def test_resuming_begins_a_parked_step_anew_in_the_next_attempt_group() -> None:
    mesh = Mesh(answers={"nodes/bad": [Fails()]}).play(a_run(a_workflow(a_node("bad"), a_node("after", "bad"))))
    mesh.answers["nodes/bad"] = [Fails(), 7]
    resume(mesh)
    mesh.drive()
    later = [entry.call_intended for entry in mesh.made[3:5]]
    assert [(call.call_index, call.attempt, call.attempt_group) for call in later] == [(3, 0, 1), (4, 2, 1)]
    assert {call.call_intended.request for call in mesh.made[:5]} == {mesh.made[0].call_intended.request}
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED
    assert mesh.steps()["nodes/bad"].attempt_group == 1
    replayed(mesh.journal)


def test_parked_steps_begin_anew_in_the_order_of_their_nodes() -> None:
    mesh = Mesh(answers={"nodes/a": [Fails()], "nodes/b": [Fails()]})
    mesh.play(a_run(a_workflow(a_node("a"), a_node("b"))), order=lambda count: count - 1)
    parked = facts_of(mesh, "step_parked")
    resume(mesh)
    assert [entry.path for entry in mesh.made[-2:]] == ["nodes/a", "nodes/b"] == sorted(parked)


def test_a_policy_that_says_so_fails_the_run_instead_of_parking_the_step() -> None:
    policy = POLICY(on_failure=workflow_pb2.ON_FAILURE_FAIL_RUN, retries=workflow_pb2.RetryPolicy(max_attempts=1))
    mesh = Mesh(answers={"nodes/a": [Fails()]}).play(a_run(a_workflow(a_node("a", policy=policy), a_node("b"))))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "STEP_RAISED")


def test_a_failed_run_gives_up_what_is_in_progress() -> None:
    mesh = Mesh(answers={"nodes/a": [BREAKS], "nodes/b": [Silent()]}).play(a_run(a_workflow(a_node("b"), a_node("a"))))
    assert mesh.states() == {"nodes/b": "cancelled", "nodes/a": "failed"}
    assert not mesh.calls


def test_an_output_that_breaks_its_schema_is_a_failed_attempt() -> None:
    mesh = Mesh(answers={"nodes/a": [11, "x", 7]}).play(a_run(a_workflow(a_node("a", policy=number_schema()))))
    assert mesh.steps()["nodes/a"].attempts == 3
    assert mesh.output() == {"a": 7}
    replayed(mesh.journal)


def test_an_output_that_always_breaks_its_schema_says_so() -> None:
    mesh = Mesh(answers={"nodes/a": [11]}).play(a_run(a_workflow(a_node("a", policy=number_schema()))))
    assert mesh.steps()["nodes/a"].state_reason == "OUTPUT_BREAKS_SCHEMA"
    assert mesh.steps()["nodes/a"].state == run_pb2.STEP_STATE_PARKED


# Tools, agents, sub-runs


def test_a_tool_is_called_with_the_nodes_input_and_gives_its_text() -> None:
    node = a_node("sum", tool=workflow_pb2.ToolNode(tool="calculator@1.0.0"), input={"expression": cel("input.e")})
    mesh = Mesh().play(a_run(a_workflow(node), given={"e": "6*7"}))
    request = tool_service_pb2.InvokeToolRequest.FromString(mesh.made[0].call_intended.request)
    assert (request.name, from_struct(request.arguments)) == ("calculator@1.0.0", {"expression": "6*7"})
    assert mesh.output() == {"sum": "42"}
    assert mesh.run.cost_nano_usd == mesh.steps()["nodes/sum"].cost_nano_usd == 7
    replayed(mesh.journal)


def test_a_tool_with_a_schema_gives_the_json_of_its_text() -> None:
    node = a_node("sum", tool=workflow_pb2.ToolNode(tool="calculator@1.0.0"), policy=number_schema(100))
    assert Mesh().play(a_run(a_workflow(node))).output() == {"sum": 42}


def test_a_tool_that_says_that_it_failed_is_tried_again() -> None:
    node = a_node("sum", tool=workflow_pb2.ToolNode(tool="calculator@1.0.0"))
    broken = tool_service_pb2.Invocation(failed=True)
    mesh = Mesh(answers={"nodes/sum": [broken]}).play(a_run(a_workflow(node)))
    assert mesh.steps()["nodes/sum"].attempts == 3
    assert mesh.steps()["nodes/sum"].state_reason == "TOOL_FAILED"


def test_an_attempt_that_takes_too_long_is_given_up_and_its_late_answer_ignored() -> None:
    policy = POLICY(timeout=Duration(seconds=5))
    node = a_node("slow", tool=workflow_pb2.ToolNode(tool="calculator@1.0.0"), policy=policy)
    mesh = Mesh(answers={"nodes/slow": [Silent()]}).start(a_run(a_workflow(node)))
    late = mesh.calls["nodes/slow", 0]
    mesh.answers.clear()
    assert mesh.timers.next is not None
    mesh.sleep_until(mesh.timers.next)
    assert not mesh.calls
    answer = mesh.outcome(late)
    assert answer is not None
    assert mesh.record(answer) == [answer], "nothing follows from it"
    mesh.drive()
    assert [entry.call_intended.call_index for entry in mesh.made] == [0, 1]
    assert mesh.output() == {"slow": "42"}
    assert mesh.run.cost_nano_usd == 7
    replayed(mesh.journal)


def test_a_timer_of_the_past_changes_nothing() -> None:
    node = a_node("slow", tool=workflow_pb2.ToolNode(tool="calculator@1.0.0"))
    mesh = Mesh().start(a_run(a_workflow(node)))
    past = Entry(path="nodes/slow", timer_fired=journal_pb2.TimerFired(timer="timeout/0.9"))
    nowhere = Entry(path="nodes/other", timer_fired=journal_pb2.TimerFired(timer="timeout/0.1"))
    assert len(mesh.record(past, nowhere)) == 2


def test_an_attempt_that_always_takes_too_long_parks_its_step() -> None:
    node = a_node("slow", tool=workflow_pb2.ToolNode(tool="calculator@1.0.0"))
    mesh = Mesh(answers={"nodes/slow": [Silent()]}).play(a_run(a_workflow(node)))
    assert len(mesh.made) == 3
    assert mesh.steps()["nodes/slow"].state_reason == "NODE_TIMED_OUT"


def test_the_time_of_a_workers_step_goes_with_its_task() -> None:
    policy = POLICY(timeout=Duration(seconds=5), heartbeat=Duration(seconds=2))
    mesh = Mesh().play(a_run(a_workflow(a_node("a", policy=policy), a_node("b"))))
    first, second = (journal_pb2.StepTask.FromString(entry.call_intended.request) for entry in mesh.made)
    assert (first.timeout.seconds, first.heartbeat.seconds) == (5, 2)
    assert (second.timeout.seconds, second.heartbeat.seconds) == (600, 30)


def test_an_agent_is_asked_its_prompt_and_shown_its_data_apart() -> None:
    node = a_node("say", "fetch", agent=agent_node("Sum this up."), input={"page": cel("nodes.fetch.output")})
    started = a_run(a_workflow(a_node("fetch"), node), agents=[an_agent("Athena")])
    mesh = Mesh(answers={"nodes/fetch": [{"title": "Owls"}]}).play(started)
    [turn] = [entry.step_completed.turn for entry in mesh.journal if entry.HasField("step_completed")]
    assert turn.input.prompt.startswith("Sum this up.")
    assert 'page:\n{"title": "Owls"}' in turn.input.prompt
    assert (turn.session_id, turn.agent_name, turn.index) == (started.run.run_id, "Athena", 1)
    assert mesh.output() == {"say": turn.output.content}
    assert mesh.run.cost_nano_usd == 1_000
    assert mesh.run.usage.input_tokens == 10
    replayed(mesh.journal)


def test_an_agent_recalls_only_when_it_asks_for_memories() -> None:
    flow = a_workflow(a_node("say", agent=agent_node()))
    plain, mindful = an_agent("Athena"), an_agent("Athena")
    mindful.memory.semantic_matches = 3
    kinds = [
        [entry.call_intended.kind for entry in Mesh().play(a_run(flow, agents=[agent])).made]
        for agent in (plain, mindful)
    ]
    generate, remember = journal_pb2.CALL_KIND_GENERATE, journal_pb2.CALL_KIND_REMEMBER
    assert kinds == [[generate, remember], [journal_pb2.CALL_KIND_RECALL, generate, remember]]


def test_an_agent_with_a_schema_gives_the_json_that_its_answer_holds() -> None:
    node = a_node("say", agent=agent_node(), policy=number_schema())
    mesh = Mesh()
    mesh.turns.generations["nodes/say"] = [a_generation("seven"), a_generation("```json\n7\n```")]
    mesh.play(a_run(a_workflow(node), agents=[an_agent("Athena")]))
    assert mesh.output() == {"say": 7}
    assert mesh.steps()["nodes/say"].attempts == 2
    assert mesh.run.cost_nano_usd == 2_000, "the attempt that failed was paid for"
    replayed(mesh.journal)


def test_a_turn_that_failed_is_taken_again_with_calls_of_its_own() -> None:
    node = a_node("say", agent=agent_node())
    mesh = Mesh()
    mesh.turns.generations["nodes/say"] = [ModelAway("the model does not answer"), a_generation("done")]
    mesh.play(a_run(a_workflow(node), agents=[an_agent("Athena")]))
    assert [entry.call_intended.call_index for entry in mesh.made] == [0, 1, 2]
    attempts = [entry.step_started.attempt for entry in mesh.journal if entry.HasField("step_started")]
    assert attempts == [1, 2]
    assert mesh.output() == {"say": "done"}
    replayed(mesh.journal)


def test_a_turn_that_takes_too_long_is_given_up() -> None:
    node = a_node("say", agent=agent_node(), policy=POLICY(timeout=Duration(seconds=5)))
    mesh = Mesh().start(a_run(a_workflow(node), agents=[an_agent("Athena")]))
    late = mesh.calls["nodes/say", 0]
    assert mesh.timers.next is not None
    mesh.sleep_until(mesh.timers.next)
    answer = mesh.outcome(late)
    assert answer is not None
    assert mesh.record(answer) == [answer], "it waits for its next attempt"
    mesh.sleep_until(mesh.timers.next)
    assert mesh.calls["nodes/say", 1]
    assert mesh.record(answer) == [answer], "the answer to another question"
    mesh.drive()
    assert [entry.call_intended.call_index for entry in mesh.made] == [0, 1, 2]
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED
    replayed(mesh.journal)


def test_a_fallback_agent_is_asked_the_same_with_retries_of_its_own() -> None:
    node = a_node("say", agent=agent_node("Choose."), policy=POLICY(fallback_agent="Apollo@1.0.0"))
    mesh = Mesh()
    mesh.turns.generations["nodes/say"] = [
        ModelAway("the model does not answer"),
        ModelAway("the model does not answer"),
        ModelAway("the model does not answer"),
        ModelAway("the model does not answer"),
        a_generation("Apollo's word"),
    ]
    mesh.play(a_run(a_workflow(node), agents=[an_agent("Athena"), an_agent("Apollo")]))
    started = [entry.step_started for entry in mesh.journal if entry.HasField("step_started")]
    assert [(one.agent, one.attempt) for one in started] == [
        ("Athena@1.0.0", 1),
        ("Athena@1.0.0", 2),
        ("Athena@1.0.0", 3),
        ("Apollo@1.0.0", 4),
        ("Apollo@1.0.0", 5),
    ]
    assert {one.prompt for one in started} == {"Choose."}
    assert mesh.output() == {"say": "Apollo's word"}
    replayed(mesh.journal)


def test_a_fallback_agent_that_fails_too_fails_the_run() -> None:
    node = a_node("say", agent=agent_node(), policy=POLICY(fallback_agent="Apollo@1.0.0"))
    mesh = Mesh()
    mesh.turns.generations["nodes/say"] = [ModelAway("the model does not answer") for _ in range(6)]
    mesh.play(a_run(a_workflow(node), agents=[an_agent("Athena"), an_agent("Apollo")]))
    assert mesh.run.state == run_pb2.RUN_STATE_FAILED


def test_a_sub_run_has_an_id_of_its_place_and_its_parents_time() -> None:
    flow = a_workflow(a_node("sub", run=workflow_pb2.RunNode(workflow="child@1.0.0"), input={"n": literal(1)}))
    mesh = Mesh(answers={"nodes/sub": [Fails(), {"child": 1}]}).play(a_run(flow))
    first, second = (journal_pb2.SubRunTask.FromString(entry.call_intended.request) for entry in mesh.made)
    assert first.run_id != second.run_id
    assert first.run_id[:12] == a_run(flow).run.run_id[:12], "the time of its parent"
    assert (first.workflow, from_value(first.input)) == ("child@1.0.0", {"n": 1})
    again = Mesh(answers={"nodes/sub": [{"child": 1}]}).play(a_run(flow))
    assert journal_pb2.SubRunTask.FromString(again.made[0].call_intended.request).run_id == first.run_id
    assert mesh.steps()["nodes/sub"].started_run_id == second.run_id
    assert mesh.output() == {"sub": {"child": 1}}


def test_what_a_sub_run_cost_is_counted() -> None:
    result = journal_pb2.StepResult(output=to_value(1), cost_nano_usd=55)
    result.usage.input_tokens = 3
    flow = a_workflow(a_node("sub", run=workflow_pb2.RunNode(workflow="child@1.0.0")))
    run = Mesh(answers={"nodes/sub": [result]}).play(a_run(flow)).run
    assert (run.cost_nano_usd, run.usage.input_tokens) == (55, 3)


# Waits, signals, control


def a_wait(name: str = "go", *, seconds: int = 0) -> workflow_pb2.WaitNode:
    wait = workflow_pb2.WaitNode(signal=name)
    if seconds:
        wait.timeout.seconds = seconds
    return wait


def test_a_wait_ends_with_its_signal_and_gives_what_that_carries() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("w", wait=a_wait()))))
    assert mesh.run.state == run_pb2.RUN_STATE_WAITING
    mesh.record(signal("other", 1), signal("go", {"n": 2}))
    assert mesh.output() == {"w": {"n": 2}}
    replayed(mesh.journal)


def test_one_signal_wakes_one_wait() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("v", wait=a_wait()), a_node("w", wait=a_wait()))))
    mesh.record(signal("go", 1))
    assert mesh.states() == {"nodes/v": "succeeded", "nodes/w": "waiting"}
    mesh.record(signal("go", 2))
    assert mesh.output() == {"v": 1, "w": 2}


def test_a_signal_that_comes_early_is_kept_for_its_wait() -> None:
    mesh = Mesh().start(a_run(a_workflow(a_node("a"), a_node("w", "a", wait=a_wait()))))
    mesh.record(signal("go", "early"), signal("go", "nobody can take this one"))
    assert mesh.drive().output() == {"w": "early"}
    replayed(mesh.journal)


def test_signals_that_were_taken_make_room_for_others() -> None:
    count = KEPT_SIGNALS + 5
    waits = [a_node(f"w{at}", *([f"w{at - 1}"] if at else []), wait=a_wait()) for at in range(count)]
    mesh = Mesh().start(a_run(a_workflow(*waits)))
    for _ in range(count):
        mesh.record(signal("go"))
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED


def test_a_signal_that_no_step_can_take_is_not_kept() -> None:
    mesh = Mesh().start(a_run(a_workflow(a_node("a"), a_node("w", "a", wait=a_wait()))))
    mesh.record(signal("go"), signal("go"), signal("other"))
    assert isinstance(mesh.state.root, GraphState)
    assert mesh.state.root.kept_signals == 1


def test_a_run_keeps_a_bounded_number_of_signals() -> None:
    waits = [a_node(f"w{number}", "a", wait=a_wait()) for number in range(KEPT_SIGNALS + 5)]
    mesh = Mesh().start(a_run(a_workflow(a_node("a"), *waits)))
    mesh.record(*(signal("go", number) for number in range(KEPT_SIGNALS + 5)))
    mesh.drive()
    assert list(mesh.states().values()).count("waiting") == 5


def test_a_wait_that_takes_too_long_fails() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("w", wait=a_wait(seconds=60)))))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "WAIT_TIMED_OUT")
    replayed(mesh.journal)


def test_a_wait_that_gave_up_takes_no_signal() -> None:
    flow = a_workflow(a_node("v", wait=a_wait(seconds=60), policy=CONTINUE), a_node("w", wait=a_wait()))
    mesh = Mesh().play(a_run(flow))
    mesh.record(signal("go", 1))
    assert mesh.states() == {"nodes/v": "failed", "nodes/w": "succeeded"}


def test_a_timer_lets_time_pass() -> None:
    mesh = Mesh().start(a_run(a_workflow(a_node("w", wait=workflow_pb2.WaitNode(timer=Duration(seconds=60))))))
    before = mesh.now
    assert mesh.run.state == run_pb2.RUN_STATE_WAITING
    mesh.drive()
    assert (mesh.now - before).total_seconds() == 60
    assert mesh.output() == {"w": None}


def test_a_deadline_fails_a_run_whatever_it_does() -> None:
    mesh = Mesh(answers={"nodes/a": [Silent()]})
    mesh.play(a_run(a_workflow(a_node("a")), deadline=mesh.now.timestamp() + 60))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "RUN_DEADLINE_EXCEEDED")
    assert not mesh.calls
    replayed(mesh.journal)


def test_a_cancel_ends_a_run_and_nothing_follows() -> None:
    mesh = Mesh().start(a_run(a_workflow(a_node("a"), a_node("b", "a"))))
    intended = mesh.calls["nodes/a", 0]
    answer = mesh.outcome(intended)
    assert answer is not None
    mesh.record(Entry(run_cancelling=journal_pb2.RunCancelling(by="key_1")))
    assert mesh.ended
    assert mesh.run.state == run_pb2.RUN_STATE_CANCELLED
    assert len(mesh.record(answer, signal("go"))) == 2


def test_a_paused_run_says_so_and_goes_on_where_it_was() -> None:
    mesh = Mesh().start(a_run(a_workflow(a_node("a"))))
    mesh.record(Entry(run_paused=journal_pb2.RunPaused(by="key_1")))
    assert mesh.run.state == run_pb2.RUN_STATE_PAUSED
    resume(mesh)
    assert mesh.run.state == run_pb2.RUN_STATE_RUNNING
    assert mesh.drive().run.state == run_pb2.RUN_STATE_SUCCEEDED
    replayed(mesh.journal)


# Maps and aggregates


def a_map(items: workflow_pb2.NodeValue, **fields: object) -> workflow_pb2.MapNode:
    body = workflow_pb2.Node(step=workflow_pb2.StepNode(name="work"), input={"item": cel("item"), "at": cel("index")})
    return workflow_pb2.MapNode(items=items, body=body, **fields)  # type: ignore[arg-type]


def test_a_map_keeps_the_order_of_its_items_whatever_ends_first() -> None:
    flow = a_workflow(a_node("m", map=a_map(literal(["x", "y", "z"]))))
    mesh = Mesh(answers={f"nodes/m/{at}": [at] for at in range(3)})
    mesh.play(a_run(flow), order=lambda count: count - 1)
    assert [input_of(entry) for entry in mesh.made] == [{"item": item, "at": at} for at, item in enumerate("xyz")]
    assert mesh.output() == {"m": [0, 1, 2]}
    assert mesh.steps()["nodes/m"].item_count == 3
    replayed(mesh.journal)


def test_a_map_has_so_many_items_in_progress() -> None:
    mesh = Mesh().start(a_run(a_workflow(a_node("m", map=a_map(literal(list(range(10))), max_parallel=3)))))
    seen = []
    while not mesh.ended:
        seen.append(len(mesh.calls))
        mesh.answer(next(iter(mesh.calls)))
    assert max(seen) == 3
    assert len(mesh.made) == 10


def test_what_one_fact_begins_is_bounded_and_the_rest_goes_on_at_once_with_facts_of_its_own() -> None:
    body = workflow_pb2.Node(step=workflow_pb2.StepNode(name="work"))
    mapped = workflow_pb2.MapNode(items=literal(list(range(1_000))), body=body, max_parallel=1_000)
    mesh = Mesh().start(a_run(a_workflow(*(a_node(f"m{at}", map=mapped) for at in range(4)))))
    mesh.answer(next(iter(mesh.calls)))
    sizes, began = [len(mesh.journal)], mesh.now
    while mesh.timers.next is not None:
        sizes.append(len(mesh.record(*go_on(mesh))))
    assert max(sizes) < 2_100
    assert len(mesh.made) == 4_000
    assert mesh.now == began
    assert mesh.drive().run.state == run_pb2.RUN_STATE_SUCCEEDED
    assert len(mesh.made) == 4_000
    replayed(mesh.journal)


def test_what_one_fact_begins_is_bounded_in_bytes_literals_among_them() -> None:
    body = workflow_pb2.Node(step=workflow_pb2.StepNode(name="work"), input={"x": literal("x" * 60_000)})
    mapped = workflow_pb2.MapNode(items=literal(list(range(300))), body=body, max_parallel=300)
    mesh = Mesh().start(a_run(a_workflow(a_node("m", map=mapped))))
    sizes = [sum(entry.ByteSize() for entry in mesh.journal[1:])]
    while mesh.timers.next is not None:
        sizes.append(sum(entry.ByteSize() for entry in mesh.record(*go_on(mesh))))
    assert max(sizes) < 5_000_000
    assert len(mesh.made) == 300


def test_all_expressions_that_one_fact_leads_to_share_their_steps() -> None:
    dear = workflow_pb2.NodeValue(cel="input.l.all(x, input.l.all(y, y >= 0))")
    body = workflow_pb2.Node(step=workflow_pb2.StepNode(name="work"), input={"x": dear, "y": dear})
    mapped = workflow_pb2.MapNode(items=literal(list(range(30))), body=body, max_parallel=30)
    mesh = Mesh(state=RunState()).start(a_run(a_workflow(a_node("m", map=mapped)), given={"l": [1] * 60}))
    root = mesh.state.root
    assert isinstance(root, GraphState)
    used = [root.allowance.used]
    while mesh.timers.next is not None:
        mesh.record(*go_on(mesh))
        used.append(root.allowance.used)
    assert len(mesh.made) == 30
    assert len(used) > 3
    assert max(used) < 400_000


def test_a_node_whose_expressions_take_too_much_together_fails() -> None:
    dear = workflow_pb2.NodeValue(cel="input.l.all(x, input.l.all(y, y >= 0))")
    flow = a_workflow(a_node("a", input={f"x{at}": dear for at in range(90)}))
    mesh = Mesh(state=RunState()).play(a_run(flow, given={"l": [1] * 60}))
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "EXPRESSION_FAILED")
    assert "more than 1000000 steps at once" in mesh.run.state_message


def test_a_map_over_nothing_gives_nothing() -> None:
    assert Mesh().play(a_run(a_workflow(a_node("m", map=a_map(literal([])))))).output() == {"m": []}


@pytest.mark.parametrize(("count", "max_items"), [(1_001, 0), (10_001, 10_000), (1_000_000, 10_000)])
def test_a_map_that_is_too_long_is_refused_before_any_item_begins(count: int, max_items: int) -> None:
    started = a_run(a_workflow(a_node("a"), a_node("m", "a", map=a_map(cel("nodes.a.output"), max_items=max_items))))
    result = journal_pb2.StepResult()
    result.output.list_value.values.extend([to_value(None)] * count)
    mesh = Mesh(answers={"nodes/a": [result]}).play(started)
    assert (mesh.run.state, mesh.run.state_reason) == (run_pb2.RUN_STATE_FAILED, "MAP_TOO_LONG")
    assert len(mesh.made) == 1


def test_a_map_over_something_else_is_refused() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("m", map=a_map(cel("input.x")))), given={"x": "no list"}))
    assert mesh.run.state_reason == "MAP_NOT_A_LIST"


@pytest.mark.parametrize(
    ("policy", "given"),
    [(workflow_pb2.ITEM_FAILURE_NULL, [0, None, 2]), (workflow_pb2.ITEM_FAILURE_OMIT, [0, 2])],
)
def test_a_failed_item_may_leave_a_null_or_nothing(policy: workflow_pb2.ItemFailure.ValueType, given: Json) -> None:
    flow = a_workflow(a_node("m", map=a_map(literal([1, 2, 3]), on_item_failure=policy)))
    mesh = Mesh(answers={"nodes/m/0": [0], "nodes/m/1": [BREAKS], "nodes/m/2": [2]}).play(a_run(flow))
    assert mesh.output() == {"m": given}


def test_a_failed_item_fails_its_map_and_gives_up_the_others() -> None:
    flow = a_workflow(
        a_node("m", map=a_map(literal([1, 2, 3])), policy=CONTINUE), a_node("b", edge("m", 'nodes.m.state == "failed"'))
    )
    mesh = Mesh(answers={"nodes/m/0": [Silent()], "nodes/m/1": [BREAKS]}).play(a_run(flow))
    assert mesh.states() == {
        "nodes/m": "failed",
        "nodes/m/0": "failed",
        "nodes/m/1": "failed",
        "nodes/m/2": "failed",
        "nodes/b": "succeeded",
    }
    steps = mesh.steps()
    assert steps["nodes/m"].state_reason == "MAP_ITEM_FAILED"
    assert "item 1 failed with INPUT_INVALID" in steps["nodes/m"].state_message
    assert steps["nodes/m/0"].state_reason == "CANCELLED"
    replayed(mesh.journal)


def test_an_item_that_cannot_even_begin_fails_its_map_before_the_next_one_begins() -> None:
    body = workflow_pb2.Node(step=workflow_pb2.StepNode(name="work"), input={"x": cel("item.x")})
    mapped = workflow_pb2.MapNode(items=literal([{"x": 1}, {}, {"x": 3}]), body=body)
    mesh = Mesh().play(a_run(a_workflow(a_node("m", map=mapped, policy=CONTINUE))))
    assert [entry.path for entry in mesh.made] == ["nodes/m/0"]
    assert "nodes/m/2" not in mesh.states()
    assert mesh.steps()["nodes/m"].state_reason == "MAP_ITEM_FAILED"


def test_what_an_item_answers_after_its_map_has_failed_is_ignored() -> None:
    flow = a_workflow(a_node("m", map=a_map(literal([1, 2])), policy=CONTINUE), a_node("other"))
    mesh = Mesh(answers={"nodes/m/1": [BREAKS]}).start(a_run(flow))
    late = mesh.outcome(mesh.calls["nodes/m/0", 0])
    assert late is not None
    mesh.answer(("nodes/m/1", 0))
    assert mesh.record(late) == [late]


def test_items_that_always_fail_are_parked_one_by_one_and_keep_their_place() -> None:
    flow = a_workflow(a_node("m", map=a_map(literal([1, 2, 3, 4]), max_parallel=2)))
    mesh = Mesh(answers={"nodes/m/1": [Fails()]}).play(a_run(flow))
    assert mesh.states()["nodes/m/1"] == "parked"
    assert [mesh.states()[f"nodes/m/{at}"] for at in (0, 2, 3)] == ["succeeded"] * 3
    assert mesh.run.state == run_pb2.RUN_STATE_PARKED
    mesh.answers["nodes/m/1"] = [1]
    resume(mesh)
    assert mesh.drive().run.state == run_pb2.RUN_STATE_SUCCEEDED
    replayed(mesh.journal)


def test_items_may_be_turns_of_agents() -> None:
    body = workflow_pb2.Node(agent=agent_node("Judge it."), input={"what": cel("item")})
    flow = a_workflow(a_node("m", map=workflow_pb2.MapNode(items=literal(["x", "y"]), body=body)))
    mesh = Mesh().play(a_run(flow, agents=[an_agent("Athena")]))
    turns = [entry.step_completed.turn for entry in mesh.journal if entry.step_completed.HasField("turn")]
    assert ["what:\nx" in turn.input.prompt for turn in turns] == [True, False]
    assert len(mesh.output()["m"]) == 2  # type: ignore[index,call-overload,arg-type]


def an_aggregate(reducer: workflow_pb2.Reducer.ValueType, items: Json = None) -> workflow_pb2.AggregateNode:
    return workflow_pb2.AggregateNode(reducer=reducer, items=None if items is None else literal(items))


@pytest.mark.parametrize(
    ("reducer", "items", "gives"),
    [
        ("COLLECT", [1, None, "x"], [1, None, "x"]),
        ("CONCAT", [[1], [], [2, 3]], [1, 2, 3]),
        ("CONCAT", ["a", "b"], "a\nb"),
        ("MERGE", [{"a": 1, "b": 1}, {"b": 2}], {"a": 1, "b": 2}),
        ("FIRST", [None, 3, 4], 3),
        ("LAST", [3, 4, None], 4),
        ("FIRST", [], None),
        ("COUNT", [1, None, 0], 2),
        ("SUM", [], 0),
        ("SUM", [0.1, 0.2, 0.3], 0.6),
        ("MIN", [3, 1.5], 1.5),
        ("MAX", [3, 1.5], 3),
        ("MAJORITY", ["b", "a", "a", "b", "c"], "b"),
    ],
)
def test_reducers(reducer: str, items: Json, gives: Json) -> None:
    node = a_node("r", aggregate=an_aggregate(workflow_pb2.Reducer.Value(f"REDUCER_{reducer}"), items))
    mesh = Mesh().play(a_run(a_workflow(node)))
    assert mesh.output() == {"r": gives}
    assert not mesh.made
    replayed(mesh.journal)


@pytest.mark.parametrize(
    ("reducer", "items"),
    [("CONCAT", [[1], "x"]), ("MERGE", [1]), ("SUM", [True]), ("MIN", []), ("MAX", ["x"]), ("MAJORITY", [])],
)
def test_values_that_do_not_fit_their_reducer_fail_the_node(reducer: str, items: Json) -> None:
    node = a_node("r", aggregate=an_aggregate(workflow_pb2.Reducer.Value(f"REDUCER_{reducer}"), items))
    assert Mesh().play(a_run(a_workflow(node))).run.state_reason == "AGGREGATE_FAILED"


def test_an_aggregate_takes_what_came_before_it_and_succeeded_in_the_order_of_its_edges() -> None:
    anyway = FAN_IN(mode=workflow_pb2.FAN_IN_MODE_QUORUM, quorum=2)
    nodes = [a_node(name, policy=CONTINUE) for name in ("a", "b", "c")]
    node = a_node("r", "c", "b", "a", fan_in=anyway, aggregate=an_aggregate(workflow_pb2.REDUCER_COLLECT))
    answers = {"nodes/a": ["A"], "nodes/b": [BREAKS], "nodes/c": ["C"]}
    assert Mesh(answers=answers).play(a_run(a_workflow(*nodes, node))).output() == {"r": ["C", "A"]}


def test_an_aggregate_by_an_expression_sees_the_items() -> None:
    node = a_node("r", aggregate=workflow_pb2.AggregateNode(items=literal([1, 2]), cel="items"))
    assert Mesh().play(a_run(a_workflow(node))).output() == {"r": [1, 2]}


# The record


def test_a_goal_that_was_missed_is_marked_and_nothing_else() -> None:
    flow = a_workflow(a_node("slow", policy=POLICY(sla_ms=500)), a_node("fast", policy=POLICY(sla_ms=5_000)))
    mesh = Mesh(answers={"nodes/slow": [Fails(), 1]}).play(a_run(flow))
    assert [mesh.steps()[path].missed_sla for path in ("nodes/slow", "nodes/fast")] == [True, False]
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED


def test_counts_tell_where_steps_stand() -> None:
    flow = a_workflow(
        a_node("a"), a_node("b", policy=CONTINUE), a_node("c", "b"), a_node("d"), a_node("m", map=a_map(literal([1])))
    )
    mesh = Mesh(answers={"nodes/b": [BREAKS], "nodes/d": [Silent()]}).play(a_run(flow))
    steps = mesh.run.steps
    assert (steps.running, steps.succeeded, steps.failed, steps.skipped) == (1, 3, 1, 1)
    assert mesh.steps()["nodes/m/0"].kind == run_pb2.STEP_KIND_WORKER
    assert mesh.steps()["nodes/m"].kind == run_pb2.STEP_KIND_MAP


def test_a_graph_that_forgets_or_invents_a_step_is_found_by_replay() -> None:
    mesh = Mesh().play(a_run(a_workflow(a_node("a"), a_node("b", "a"), a_node("c", "b"))))
    for at, entry in enumerate(mesh.journal):
        if entry.HasField("call_intended"):
            with pytest.raises(RunDiverged):
                replayed([*mesh.journal[:at], *mesh.journal[at + 1 :]])
            with pytest.raises(RunDiverged):
                replayed([*mesh.journal[:at], entry, *mesh.journal[at:]])


def test_the_final_state_has_the_number_that_sessions_know() -> None:
    for name, number in session_pb2.SessionState.items():
        assert run_pb2.RunState.Value(name.replace("SESSION", "RUN")) == number
