"""Runs of random workflows, with random failures and orders: what holds for each of them, and what replay finds out."""

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from comitia.orchestrator.v1 import journal_pb2, run_pb2, workflow_pb2
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.engine.facts import OUTSIDE, Replay
from services.orchestrator.programs import graph
from services.orchestrator.programs.graph_plan import Language, NodePlan, plan_of
from services.orchestrator.programs.retries import Retries
from services.orchestrator.programs.run import Programs, RunState, programs
from services.orchestrator.programs.values import to_value
from tests.support.examples import examples
from tests.support.sessions import an_agent
from tests.support.workflows import (
    PROGRAMS,
    Entry,
    Fails,
    Mesh,
    Paths,
    Silent,
    a_node,
    a_run,
    a_workflow,
    cel,
    edge,
    literal,
    replayed,
)

ENDS = frozenset({"step_completed", "step_failed", "step_skipped"})
NEVER = Fails("INPUT_INVALID", final=True)
KINDS = ("step", "step", "tool", "map", "aggregate", "wait", "agent", "checked", "run")
ENDED = frozenset({"succeeded", "failed", "skipped"})


@st.composite
def workflows(draw: st.DrawFn, *, modes: tuple[int, ...] = (1, 2, 3)) -> workflow_pb2.Workflow:
    """Draws a workflow whose nodes come after random others."""
    count = draw(st.integers(1, 9))
    nodes = list[workflow_pb2.Node]()
    for place in range(count):
        before = draw(st.lists(st.integers(0, place - 1), unique=True, max_size=3)) if place else []
        conditions = ["", f'nodes.n{before[0]}.state == "failed"' if before else ""]
        edges = [edge(f"n{one}", draw(st.sampled_from(conditions)) if at == 0 else "") for at, one in enumerate(before)]
        node = a_node(f"n{place}", *edges, **_kind(draw(st.sampled_from(KINDS))))
        if edges:
            node.fan_in.mode = draw(st.sampled_from(modes))  # type: ignore[assignment]
            node.fan_in.quorum = draw(st.integers(1, len(edges)))
        node.policy.on_failure = draw(st.sampled_from([0, 1, 2, 2, 2]))  # type: ignore[assignment]
        node.policy.retries.max_attempts = draw(st.integers(1, 3))
        nodes.append(node)
    return a_workflow(*draw(st.permutations(nodes)))


def _kind(name: str) -> dict[str, Any]:
    body = workflow_pb2.Node(step=workflow_pb2.StepNode(name="work"), input={"item": cel("item")})
    return {
        "step": {},
        "tool": {"tool": workflow_pb2.ToolNode(tool="calculator@1.0.0")},
        "map": {"map": workflow_pb2.MapNode(items=literal([1, 2, 3]), body=body, max_parallel=2)},
        "aggregate": {"aggregate": workflow_pb2.AggregateNode(reducer=workflow_pb2.REDUCER_COLLECT)},
        "wait": {"wait": workflow_pb2.WaitNode(signal="go")},
        "agent": {"agent": workflow_pb2.AgentNode(agent="Athena@1.0.0", prompt=literal("Speak."))},
        "checked": {"policy": workflow_pb2.NodePolicy(output_schema={"type": "object"})},  # type: ignore[arg-type]
        "run": {"run": workflow_pb2.RunNode(workflow="child@1.0.0")},
    }[name]


def outcomes(flow: workflow_pb2.Workflow, dice: random.Random) -> dict[str, Any]:
    """Draws what the calls of workers and sub-runs give; the same of each path in every order."""
    drawn = dict[str, Any]()
    for node in flow.nodes:
        paths = [f"nodes/{node.id}/{index}" for index in range(3)] if node.WhichOneof("kind") == "map" else []
        for path in [f"nodes/{node.id}", *paths]:
            roll = dice.random()
            if roll < 0.2:
                drawn[path] = [NEVER]
            elif roll < 0.35:
                drawn[path] = [Fails()]
            elif roll < 0.5 and node.WhichOneof("kind") == "step":
                drawn[path] = [Fails(), {"second": path}]
    return drawn


def driven(flow: workflow_pb2.Workflow, seed: int, order: random.Random, *, crashes: bool = False) -> Mesh:
    """Drives a run to where nothing happens any more, with everybody's help."""
    mesh = Mesh(answers=outcomes(flow, random.Random(seed))).start(a_run(flow, agents=[an_agent("Athena")]))
    for _ in range(200):
        if mesh.ended:
            break
        if crashes and order.random() < 0.3:
            mesh.state = replayed(mesh.journal).state
        if mesh.calls:
            mesh.answer(list(mesh.calls)[order.randrange(len(mesh.calls))])
        elif mesh.timers.next is not None:
            mesh.sleep_until(mesh.timers.next)
        elif mesh.run.state == run_pb2.RUN_STATE_PARKED:
            for path, state in mesh.states().items():
                if state == "parked":
                    mesh.answers.pop(path)
            mesh.record(Entry(run_continued=journal_pb2.RunContinued()))
        else:
            mesh.record(Entry(signal_received=journal_pb2.SignalReceived(name="go", payload=to_value({}))))
    return mesh


def ends_of(mesh: Mesh) -> Counter[str]:
    """Counts how often each step has ended."""
    ends, alone = Counter[str](), set[str]()
    for entry in mesh.journal:
        if entry.WhichOneof("fact") in ENDS or (entry.HasField("call_answered") and entry.path in alone):
            ends[entry.path] += 1
        if entry.call_intended.begins_step:
            alone.add(entry.path)
    return ends


@settings(max_examples=examples(150), deadline=None)
@given(flow=workflows(), seed=st.integers(0, 2**32), order=st.randoms(use_true_random=False))
def test_every_run_ends_once_with_every_node_ended_once_and_replays(
    flow: workflow_pb2.Workflow, seed: int, order: random.Random
) -> None:
    mesh = driven(flow, seed, order, crashes=True)
    assert mesh.ended, mesh.states()
    assert [entry.HasField("run_ended") for entry in mesh.journal].count(True) == 1
    replayed(mesh.journal)
    assert max(ends_of(mesh).values(), default=0) <= 1
    begun = [(entry.path, entry.call_intended.call_index) for entry in mesh.made]
    assert len(begun) == len(set(begun))
    states = mesh.states()
    if mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED:
        assert all(states[f"nodes/{node.id}"] in ENDED for node in flow.nodes)
        assert mesh.run.steps.running == 0
    after = len(mesh.journal)
    late = Entry(signal_received=journal_pb2.SignalReceived(name="go"))
    assert len(mesh.record(late, Entry(run_continued=journal_pb2.RunContinued()))) == 2, f"{after}: nothing follows"


@settings(max_examples=examples(100), deadline=None)
@given(
    flow=workflows(modes=(workflow_pb2.FAN_IN_MODE_ALL,)),
    seed=st.integers(0, 2**32),
    order=st.randoms(use_true_random=False),
)
def test_where_all_edges_count_the_order_of_answers_does_not_matter(
    flow: workflow_pb2.Workflow, seed: int, order: random.Random
) -> None:
    for node in flow.nodes:
        # A run that fails, or an agent whose words differ by number, depends on who was first.
        node.policy.on_failure = workflow_pb2.ON_FAILURE_CONTINUE
        if node.WhichOneof("kind") in ("agent", "wait"):
            node.step.name = "work"
    one, other = (driven(flow, seed, random.Random(order.randrange(2**32))) for _ in range(2))
    assert one.run.state == other.run.state == run_pb2.RUN_STATE_SUCCEEDED
    assert one.output() == other.output()
    # Items that a failed map gave up are those that were in progress.
    nodes = [f"nodes/{node.id}" for node in flow.nodes]
    assert [one.states()[path] for path in nodes] == [other.states()[path] for path in nodes]


@settings(max_examples=examples(60), deadline=None)
@given(flow=workflows(), seed=st.integers(0, 2**32), order=st.randoms(use_true_random=False), data=st.data())
def test_a_journal_with_a_fact_lost_doubled_or_moved_is_never_followed(
    flow: workflow_pb2.Workflow, seed: int, order: random.Random, data: st.DataObject
) -> None:
    """Only decided facts: what comes from outside may have been anything."""
    journal = driven(flow, seed, order).journal
    decided = [at for at, entry in enumerate(journal) if entry.WhichOneof("fact") not in OUTSIDE]
    at = data.draw(st.sampled_from(decided))
    cut = [*journal[:at], *journal[at + 1 :]]
    doubled = [*journal[: at + 1], *journal[at:]]
    moved = [*cut[: max(at - 1, 0)], journal[at], *cut[max(at - 1, 0) :]]
    for broken in (cut, doubled, moved):
        if [_said(entry) for entry in broken] != [_said(entry) for entry in journal]:
            with pytest.raises((RunDiverged, ValueError, LookupError, DecodeError)):
                replayed(broken)


def _said(entry: Entry) -> tuple[str, bytes]:
    bare = Entry()
    bare.CopyFrom(entry)
    bare.ClearField("record_time")
    return entry.WhichOneof("fact") or "", bare.SerializeToString(deterministic=True)


# Mutants: programs that decide otherwise than the one that wrote the journal.

FLOW = a_workflow(
    a_node("a"),
    a_node("b"),
    a_node("c", "a", input={"x": literal(1), "y": literal(2)}),
    a_node("d", "a"),
    a_node("m", "b", map=workflow_pb2.MapNode(items=literal([1, 2, 3]), body=workflow_pb2.Node(**_kind("step")))),
)
FLOW.nodes[4].map.body.step.name = "work"


def mutant(change: Callable[[list[NodePlan]], None], **of_plan: Callable[[Any], Any]) -> Programs:
    """Builds programs that plan workflows otherwise."""

    class Plans(graph.Plans):
        def of(self, workflow: workflow_pb2.Workflow) -> graph.Plan:
            language: Language = Paths(workflow)
            plan = plan_of(workflow, language)
            change(list(plan.nodes))
            return replace(plan, **{name: make(getattr(plan, name)) for name, make in of_plan.items()})

    return programs(Plans(Paths))


def _edited(edit: Callable[[workflow_pb2.Workflow], None]) -> Programs:
    """Builds programs that take a workflow for another one."""

    class Plans(graph.Plans):
        def of(self, workflow: workflow_pb2.Workflow) -> graph.Plan:
            other = workflow_pb2.Workflow()
            other.CopyFrom(workflow)
            edit(other)
            return super().of(other)

    return programs(Plans(Paths))


def _keep(_: list[NodePlan]) -> None: ...


def _hasty(nodes: list[NodePlan]) -> None:
    for node in nodes:
        node.retries = replace(node.retries, max_attempts=1)


def _patient(nodes: list[NodePlan]) -> None:
    for node in nodes:
        node.retries = replace(node.retries, first_ms=node.retries.first_ms + 1)


def _wider(nodes: list[NodePlan]) -> None:
    nodes[4].max_parallel = 1


def _insert(flow: workflow_pb2.Workflow) -> None:
    flow.nodes.append(a_node("new"))


def _insert_within(flow: workflow_pb2.Workflow) -> None:
    flow.nodes.append(a_node("new", "a"))
    flow.nodes[2].depends_on[0].node = "new"


def _remove(flow: workflow_pb2.Workflow) -> None:
    del flow.nodes[3]


def _reorder(flow: workflow_pb2.Workflow) -> None:
    first = a_node("z")
    first.CopyFrom(flow.nodes[0])
    del flow.nodes[0]
    flow.nodes.insert(1, first)


def _rename(flow: workflow_pb2.Workflow) -> None:
    flow.nodes[2].step.name = "other"


MUTANTS: dict[str, Programs] = {
    "a node more at the start": _edited(_insert),
    "a node more on the way": _edited(_insert_within),
    "a node less": _edited(_remove),
    "two nodes in another order": _edited(_reorder),
    "another request": _edited(_rename),
    "the order of a hash": mutant(_keep, first=lambda first: tuple(reversed(first))),
    "one attempt less": mutant(_hasty),
    "another backoff": mutant(_patient),
    "less at once": mutant(_wider),
}


def _journal() -> list[Entry]:
    answers = {"nodes/c": [Fails(), 1], "nodes/d": [Silent()]}
    mesh = Mesh(answers=answers).play(a_run(FLOW))
    mesh.answers.clear()
    mesh.silent.clear()
    return mesh.drive().journal


@pytest.mark.parametrize("name", MUTANTS)
def test_a_program_that_decides_otherwise_is_found_by_replay(name: str) -> None:
    with pytest.raises((RunDiverged, ValueError, LookupError)):
        _replayed_by(MUTANTS[name], _journal())


@pytest.mark.parametrize("wait", [lambda *_: random.Random().randrange(800, 1000), lambda self, *_: self.first_ms - 1])
def test_dice_and_clocks_in_a_program_are_found_by_replay(
    monkeypatch: pytest.MonkeyPatch, wait: Callable[..., int]
) -> None:
    journal = _journal()
    monkeypatch.setattr(Retries, "wait_ms", wait)
    with pytest.raises(RunDiverged):
        for _ in range(20):
            _replayed_by(PROGRAMS, journal)


def test_the_program_that_wrote_a_journal_follows_it() -> None:
    _replayed_by(programs(graph.Plans(Paths)), _journal())


def _replayed_by(decided_by: Programs, journal: list[Entry]) -> None:
    replay = Replay("run", decided_by)
    for entry in journal:
        copy = Entry()
        copy.CopyFrom(entry)
        replay.feed(copy)
    replay.finish()


# Costs: counted in calls of functions, since clocks differ.


def _calls_of(started: journal_pb2.RunStarted) -> int:
    """Counts the functions called for a run, without those of the test's mesh."""
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and "/orchestrator/" in frame.f_code.co_filename

    mesh = Mesh(state=RunState(programs=programs(graph.Plans(Paths)))).start(started)
    sys.setprofile(count)
    try:
        mesh.drive()
    finally:
        sys.setprofile(None)
    assert mesh.run.state == run_pb2.RUN_STATE_SUCCEEDED
    return calls


def _chain(count: int) -> workflow_pb2.Workflow:
    return a_workflow(a_node("n0"), *(a_node(f"n{at}", f"n{at - 1}") for at in range(1, count)))


def _fan(count: int) -> workflow_pb2.Workflow:
    items, node = literal([0] * count), workflow_pb2.Node(**_kind("step"))
    node.step.name = "work"
    return a_workflow(
        a_node("first"),
        a_node("m", "first", map=workflow_pb2.MapNode(items=items, body=node, max_parallel=1_000)),
        a_node("last", "m"),
    )


def _wide(count: int) -> workflow_pb2.Workflow:
    middle = [a_node(f"n{at}", "first") for at in range(count)]
    return a_workflow(a_node("first"), *middle, a_node("last", *(node.id for node in middle)))


def _conditional(count: int) -> workflow_pb2.Workflow:
    nodes = [a_node(f"n{at}", edge(f"n{at - 1}", f'nodes.n{at - 1}.state == "succeeded"')) for at in range(1, count)]
    return a_workflow(a_node("n0"), *nodes)


@pytest.mark.parametrize("shape", [_chain, _fan, _wide, _conditional])
def test_what_a_step_costs_does_not_grow_with_the_workflow(shape: Callable[[int], workflow_pb2.Workflow]) -> None:
    small, large = (_calls_of(a_run(shape(count))) / count for count in (100, 400))
    assert large < small * 1.1
