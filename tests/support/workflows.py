"""Runs of workflows without a server: builders of their facts, and a mesh that answers, fails, or keeps silent."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import agent_pb2, journal_pb2, run_pb2, workflow_pb2
from services.meshkit.core.errors import MeshError
from services.orchestrator.conditions.budget import Allowance
from services.orchestrator.conditions.errors import ExpressionFailed
from services.orchestrator.engine.facts import Replay, advance
from services.orchestrator.engine.run_timers import RunTimers
from services.orchestrator.programs import graph
from services.orchestrator.programs.graph_plan import Expression, Facts
from services.orchestrator.programs.run import Programs, RunState, programs
from services.orchestrator.programs.run_view import RunProjection
from services.orchestrator.programs.values import Json, from_value, to_struct, to_value
from services.orchestrator.prompts import load_prompts
from tests.support.sessions import World

RUN_ID = "run_01jd0000000000000000000000"
Entry = journal_pb2.JournalEntry


@dataclass(frozen=True)
class Path:
    """An expression of tests: a path such as `nodes.a.output`, alone or `== ` some JSON."""

    steps: tuple[str, ...]
    expected: str

    @property
    def names(self) -> frozenset[str]:
        """See `Expression.names`."""
        return frozenset({self.steps[0]})

    @property
    def nodes(self) -> frozenset[str]:
        """See `Expression.nodes`."""
        return frozenset({self.steps[1]} if self.steps[0] == "nodes" else ())

    def value(self, facts: Facts, allowance: Allowance) -> Json:
        """See `Expression.value`."""
        found: object = facts
        for step in self.steps:
            if not isinstance(found, Mapping) or step not in found:
                raise ExpressionFailed(f"there is nothing at {'.'.join(self.steps)}")
            found = found[step]
        return found == json.loads(self.expected) if self.expected else found

    def holds(self, facts: Facts, allowance: Allowance) -> bool:
        """See `Expression.holds`."""
        answer = self.value(facts, allowance)
        if not isinstance(answer, bool):
            raise ExpressionFailed("gives neither true nor false")
        return answer


class Paths:
    """The language of `Path`."""

    def __init__(self, _: workflow_pb2.Workflow) -> None: ...

    def value(self, value: workflow_pb2.NodeValue, *, body_of: str) -> Expression:
        """See `Language.value`."""
        return self.reduction(value.cel)

    def condition(self, condition: workflow_pb2.Condition) -> Expression:
        """See `Language.condition`."""
        return self.reduction(condition.cel)

    def reduction(self, cel: str) -> Expression:
        """See `Language.reduction`."""
        path, _, expected = cel.partition(" == ")
        return Path(tuple(path.split(".")), expected)


#: Programs that read the expressions of tests.
PROGRAMS: Programs = programs(graph.Plans(Paths))


def cel(text: str) -> workflow_pb2.NodeValue:
    """Builds a value that an expression gives."""
    return workflow_pb2.NodeValue(cel=text)


def literal(value: Json) -> workflow_pb2.NodeValue:
    """Builds a value as it is."""
    return workflow_pb2.NodeValue(literal=to_value(value))


def edge(node: str, when: str = "") -> workflow_pb2.Dependency:
    """Builds an edge."""
    return workflow_pb2.Dependency(node=node, when=workflow_pb2.Condition(cel=when) if when else None)


def a_node(
    id_: str,
    *after: str | workflow_pb2.Dependency,
    when: str = "",
    **fields: object,
) -> workflow_pb2.Node:
    """Builds a node; one of which nothing else is said is a worker's step."""
    node = workflow_pb2.Node(
        id=id_,
        depends_on=[one if isinstance(one, workflow_pb2.Dependency) else edge(one) for one in after],
        when=workflow_pb2.Condition(cel=when) if when else None,
        **fields,  # type: ignore[arg-type]
    )
    if node.WhichOneof("kind") is None:
        node.step.name = "work"
    return node


def a_workflow(*nodes: workflow_pb2.Node, **output: workflow_pb2.NodeValue) -> workflow_pb2.Workflow:
    """Builds a workflow."""
    return workflow_pb2.Workflow(name="flow", version="1.0.0", nodes=nodes, output=output)


def a_run(
    workflow: workflow_pb2.Workflow,
    *,
    given: Mapping[str, Json] | None = None,
    agents: Sequence[agent_pb2.Agent] = (),
    deadline: float | None = None,
) -> journal_pb2.RunStarted:
    """Builds the first fact of a run."""
    run = run_pb2.Run(run_id=RUN_ID, program="graph", program_version=1, workflow="flow@1.0.0")
    run.input.CopyFrom(to_struct(given or {}))
    if deadline is not None:
        run.deadline_time.FromDatetime(datetime.fromtimestamp(deadline, UTC))
    return journal_pb2.RunStarted(
        program="graph", program_version=1, workflow=workflow, run=run, agents=agents, prompts=load_prompts()
    )


@dataclass(frozen=True)
class Fails:
    """A call that fails."""

    reason: str = "STEP_RAISED"
    message: str = "it did not work; look at the worker"
    final: bool = False


class Silent:
    """A call that is never answered."""


Outcome = Json | Message | Fails | Silent


@dataclass(slots=True)
class Mesh:
    """Drives one run as the engine would: makes its calls, fires its timers, records what comes of them."""

    #: What the call of a path gives: once, or one after the other; a path without any gives the number of calls so far.
    #: Lists of `Outcome`.
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    turns: World = field(default_factory=World)
    journal: list[Entry] = field(default_factory=list[Entry])
    state: RunState = field(default_factory=lambda: RunState(programs=PROGRAMS))
    calls: dict[tuple[str, int], Entry] = field(default_factory=dict[tuple[str, int], Entry])
    made: list[Entry] = field(default_factory=list[Entry])
    timers: RunTimers = field(default_factory=RunTimers)
    view: RunProjection = field(default_factory=lambda: RunProjection(keep_steps=True))
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    #: Calls that are silent, and so in flight for ever.
    silent: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])

    @property
    def run(self) -> run_pb2.Run:
        """The run as callers see it."""
        return self.view.run

    @property
    def ended(self) -> bool:
        """True once the run has its final state."""
        return bool(self.journal) and self.journal[-1].HasField("run_ended")

    def start(self, started: journal_pb2.RunStarted) -> "Mesh":
        """Begins the run."""
        self.record(Entry(run_started=started))
        return self

    def play(self, started: journal_pb2.RunStarted, *, order: Callable[[int], int] = lambda _: 0) -> "Mesh":
        """Begins the run and drives it until nothing happens any more."""
        return self.start(started).drive(order=order)

    def drive(self, *, order: Callable[[int], int] = lambda _: 0, timers: bool = True) -> "Mesh":
        """Answers calls, and fires timers when there is nothing to answer, until nothing happens any more.

        Args:
            order: picks which of `n` calls in flight is answered next.
        """
        while not self.ended:
            waiting = [key for key in self.calls if key not in self.silent]
            if waiting:
                self.answer(waiting[order(len(waiting))])
            elif timers and self.timers.next is not None:
                self.sleep_until(self.timers.next)
            else:
                break
        return self

    def sleep_until(self, moment: datetime) -> None:
        """Lets time pass."""
        self.now = max(self.now, moment)
        fired = [
            Entry(path=path, timer_fired=journal_pb2.TimerFired(timer=name)) for path, name in self.timers.due(self.now)
        ]
        if self.timers.deadline_passed(self.now):
            fired.append(Entry(deadline_passed=journal_pb2.DeadlinePassed()))
        self.record(*fired)

    def answer(self, key: tuple[str, int]) -> None:
        """Answers a call in flight, or finds out that it never will be."""
        intended = self.calls[key]
        outcome = self.outcome(intended)
        if outcome is None:
            self.silent.add(key)
        else:
            self.now += timedelta(milliseconds=1)
            self.record(outcome)

    def outcome(self, intended: Entry) -> Entry | None:
        """Says what comes of a call; None for silence."""
        call, entry = intended.call_intended, Entry(path=intended.path)
        queued: list[Outcome] | None = self.answers.get(intended.path)
        found: Outcome
        if queued:
            found = queued.pop(0) if len(queued) > 1 else queued[0]
        elif call.kind in (journal_pb2.CALL_KIND_STEP, journal_pb2.CALL_KIND_RUN):
            found = {"from": intended.path}
        else:
            try:
                found = self.turns.answer(intended)
            except MeshError as error:
                found = Fails(error.reason, error.message)
        if isinstance(found, Silent):
            return None
        if isinstance(found, Fails):
            failed = journal_pb2.CallFailed(reason=found.reason, message=found.message, final=found.final)
            failed.call_index, failed.kind = call.call_index, call.kind
            entry.call_failed.CopyFrom(failed)
            return entry
        response = found if isinstance(found, Message) else journal_pb2.StepResult(output=to_value(found))
        entry.call_answered.CopyFrom(
            journal_pb2.CallAnswered(
                call_index=call.call_index, kind=call.kind, response=response.SerializeToString(deterministic=True)
            )
        )
        return entry

    def record(self, *outside: Entry) -> list[Entry]:
        """Records facts from outside and all that follows from them."""
        at = Timestamp()
        at.FromDatetime(self.now)
        self.state, facts = advance(self.state, outside, at)
        for entry in facts:
            self._take(entry)
        return facts

    def _take(self, entry: Entry) -> None:
        self.journal.append(entry)
        self.timers.take(entry)
        self.view.take(entry, len(self.journal))
        match entry.WhichOneof("fact"):
            case "call_intended":
                key = entry.path, entry.call_intended.call_index
                assert key not in self.calls, "a call is made once"
                self.calls[key] = entry
                self.made.append(entry)
            case "call_answered":
                self.calls.pop((entry.path, entry.call_answered.call_index), None)
            case "call_failed":
                self.calls.pop((entry.path, entry.call_failed.call_index), None)
            case "step_completed" | "step_failed" | "step_skipped" | "step_parked" | "timer_fired":
                for key in [key for key in self.calls if key[0] == entry.path]:
                    del self.calls[key]
            case "run_ended" | "run_abandoned":
                self.calls.clear()
            case _:
                pass

    def output(self) -> Json:
        """Gives what the run gave."""
        return from_value(self.run.output)

    def steps(self) -> dict[str, run_pb2.RunStep]:
        """Gives the steps by path."""
        return {step.path: step for step in self.view.steps()}

    def states(self) -> dict[str, str]:
        """Gives the state of each step by its path, in short."""
        short = {path: run_pb2.StepState.Name(step.state) for path, step in self.steps().items()}
        return {path: name.removeprefix("STEP_STATE_").lower() for path, name in short.items()}


def replayed(journal: Sequence[Entry]) -> Replay:
    """Replays a journal. Raises: RunDiverged."""
    replay = Replay(RUN_ID, PROGRAMS)
    for entry in journal:
        copy = Entry()
        copy.CopyFrom(entry)
        replay.feed(copy)
    replay.finish()
    return replay
