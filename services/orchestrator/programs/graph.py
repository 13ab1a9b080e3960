"""A run of a workflow: nodes start when their edges allow it, and the run ends when every node has ended.

    a fact ─▶ a step ends ─▶ edges are decided ─▶ nodes may start ─▶ calls, turns, timers, items of maps
                  ▲                 │
                  └──── skipped ◀───┘

A step of a worker or a sub-run is recorded by its calls alone; every other step has a StepStarted. What a fact costs
does not grow with the workflow: each node counts its own undecided edges.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heappop
from threading import Lock
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, session_pb2, workflow_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Label
from services.meshkit.content.proto import label_from_proto
from services.orchestrator.programs.commands import Command, CompleteStep, FailStep, StartTimer, encoded
from services.orchestrator.programs.graph_edges import decide_edges, may_start
from services.orchestrator.programs.graph_ends import end_run, gave, keep_control, succeed
from services.orchestrator.programs.graph_map import expand, fill
from services.orchestrator.programs.graph_plan import OPERATOR, Language, NodePlan, Plan, plan_of
from services.orchestrator.programs.graph_state import (
    AWAITS_CALL,
    KEPT_SIGNALS,
    RUNNING,
    Given,
    GraphState,
    NodeState,
    Phase,
    Step,
    joined,
    new_state,
)
from services.orchestrator.programs.graph_steps import attempt_failed, begin_anew, signalled, timer_fired
from services.orchestrator.programs.graph_steps import begin as begin_step
from services.orchestrator.programs.output_schema import OutputBreaksSchema
from services.orchestrator.programs.prompting import TASK_FILE, Said
from services.orchestrator.programs.speaking import TurnInputs
from services.orchestrator.programs.values import as_text, from_value, to_value

NAME: Final = "graph"
VERSION: Final = 1
RUN_DEADLINE_EXCEEDED: Final = "RUN_DEADLINE_EXCEEDED"
TOOL_FAILED: Final = "TOOL_FAILED"
#: Name of the timer after which a run goes on with what was too much for one fact.
_GO_ON: Final = "go_on"
#: Bytes of plans that are kept, and what a node, an edge and a value of one take, about, besides their definition.
_PLANS_BYTES: Final = 64 * 1024 * 1024
_PLAN_PART_BYTES: Final = 2_000
#: Turns before a fork that agents after it may be shown: as many as one may ask for.
_ADOPTED_TURNS: Final = 50
_CALL_OF_STEP: Final = journal_pb2.CALL_KIND_STEP
_ALONE: Final = frozenset({_CALL_OF_STEP, journal_pb2.CALL_KIND_RUN})


class Plans:
    """Plans of workflows by the digest of their definition, the latest ones kept. Threads may share it."""

    def __init__(self, language: Callable[[workflow_pb2.Workflow], Language]) -> None:
        self._language = language
        self._kept: OrderedDict[bytes, tuple[Plan, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, workflow: workflow_pb2.Workflow) -> Plan:
        """Gives the plan of a workflow."""
        # Not the digest that the definition names: whoever imports a run could write another workflow's there.
        definition = encoded(workflow)
        digest = hashlib.sha256(definition).digest()
        with self._lock:
            known = self._kept.get(digest)
            if known is not None:
                self._kept.move_to_end(digest)
                return known[0]
        # Without the lock: it takes long, and two who make the same one do no harm.
        plan = plan_of(workflow, self._language(workflow))
        size = len(definition) + _PLAN_PART_BYTES * sum(1 + len(node.edges) + len(node.input) for node in plan.nodes)
        with self._lock:
            self._bytes += size - self._kept.pop(digest, (plan, 0))[1]
            self._kept[digest] = plan, size
            while self._bytes > _PLANS_BYTES and len(self._kept) > 1:
                _, (_, size) = self._kept.popitem(last=False)
                self._bytes -= size
        return plan


def begin(plans: Plans, entry: journal_pb2.JournalEntry) -> tuple[GraphState, tuple[Command, ...]]:
    """Starts a run from its RunStarted fact."""
    started = entry.run_started
    plan = plans.of(started.workflow)
    state = new_state(started, plan)
    state.waits = {name: deque[Step]() for name in plan.signals}
    # In order, so it is a heap.
    state.ready.extend(plan.first)
    return state, _go_on(state)


def decide(
    state: GraphState, fact: str | None, entry: journal_pb2.JournalEntry
) -> tuple[GraphState, tuple[Command, ...]]:
    """Takes a fact of the run and says what comes next."""
    if state.ended:
        return state, ()
    match fact:
        case "call_answered":
            _on_answer(state, entry)
        case "call_failed":
            step, failure = state.steps.get(entry.path), entry.call_failed
            if step is None or not _awaits(step, failure.call_index):
                return state, ()
            attempt_failed(state, step, failure.reason, failure.message, final=failure.final)
        case "step_completed":
            if not entry.step_completed.HasField("turn"):
                return state, ()
            _on_turn(state, entry)
        case "timer_fired" if not entry.path:
            state.put_off = False
        case "timer_fired":
            step = state.steps.get(entry.path)
            if step is None or step.timer != entry.timer_fired.timer:
                return state, ()
            timer_fired(state, step)
        case "signal_received":
            _on_signal(state, entry.signal_received)
        case "run_continued":
            _resume(state)
        case "run_cancelling":
            end_run(state, session_pb2.SESSION_STATE_CANCELLED, "CANCELLED", f"cancelled by {entry.run_cancelling.by}")
        case "deadline_passed":
            message = "the run did not end before its deadline; give its workflow a later one"
            end_run(state, session_pb2.SESSION_STATE_FAILED, RUN_DEADLINE_EXCEEDED, message)
        case _:
            return state, ()
    return state, _go_on(state)


def takes_turn(state: GraphState, path: str) -> bool:
    """Says whether the turn at a place is still wanted."""
    step = state.steps.get(path)
    return step is not None and step.phase is Phase.TURN


def inputs_of(state: GraphState, entry: journal_pb2.JournalEntry) -> TurnInputs:
    """Gathers what a turn of this run is made from, at its StepStarted fact."""
    step, agent = state.steps[entry.path], state.agent(entry.step_started.agent)
    state.turns += 1
    return TurnInputs(
        run_id=state.run_id,
        topic=step.prompt,
        label=step.label,
        asked_label=_asked_label(state, step),
        prompt_file=TASK_FILE,
        agent=agent,
        index=state.turns,
        data=step.data,
        output_schema=step.plan.output_schema,
        # What other nodes said reaches a node by its edges; more only when its agent asks for it.
        recent_turns=agent.memory.recent_turns,
        adopted=state.adopted if agent.memory.recent_turns else (),
        prompts=state.started.prompts,
        model=state.started.model_override,
    )


def _asked_label(state: GraphState, step: Step) -> Label | None:
    """Gives the label of the prompt alone, where the workflow itself holds it: then only what led here is in it."""
    plan = step.plan
    if plan.node.agent.prompt.WhichOneof("source") != "literal" or plan.path != step.path:
        return None
    return joined(OPERATOR, state.control[plan.place]) if state.plan.conditional else OPERATOR


def forked(state: GraphState, started: journal_pb2.RunStarted) -> None:
    """Goes on with other pins. What the run was given, and its workflow, stay."""
    state.pin(started)
    state.adopted = tuple(
        Said(speaker=plan.node.agent.agent.partition("@")[0], text=as_text(given.value), label=given.label)
        for plan in state.plan.nodes
        if plan.kind == "agent" and (given := state.given[plan.place]) is not None
    )[-_ADOPTED_TURNS:]


def turn_failed(state: GraphState, failed: FailStep) -> tuple[Command, ...]:
    """Says what comes of a turn that failed: another attempt, another agent, or the end of the step."""
    attempt_failed(state, state.steps[failed.path], failed.reason, failed.message, final=failed.final)
    return _go_on(state)


def _go_on(state: GraphState) -> tuple[Command, ...]:
    """Goes through what has ended, and begins what may begin, until only calls are left to be made.

    What would be too much for one fact is gone on with when a timer of the run itself has fired, which is at once.
    """
    settled, anew, filling, ready = state.settled, state.anew, state.filling, state.ready
    state.allowance.used, state.written_before = 0, state.written
    while not state.ended:
        if not (settled or ready or filling or anew):
            if state.left == 0:
                succeed(state)
            break
        if state.spent:
            if not state.put_off:
                state.put_off = True
                state.out.append(StartTimer(path="", timer=_GO_ON, milliseconds=0))
            break
        if settled:
            decide_edges(state, settled.popleft())
        elif anew:
            begin_anew(state, anew.popleft())
        elif filling:
            fill(state, filling.popleft())
        else:
            _start(state, state.plan.nodes[heappop(ready)])
    commands = tuple(state.out)
    state.out.clear()
    return commands


def _start(state: GraphState, plan: NodePlan) -> None:
    place = plan.place
    label = OPERATOR
    if state.plan.conditional:
        keep_control(state, plan)
        label = joined(label, state.control[place])
        if not may_start(state, plan):
            return
    state.states[place] = RUNNING
    if plan.request is not None:
        begin_step(state, Step(plan, plan.path, -1, label), None)
        return
    facts = state.facts(plan.reads)
    label = state.label_of(plan.reads, reads_input=plan.reads_input, base=label)
    step = Step(plan, plan.path, -1, label)
    if plan.kind == "map":
        expand(state, step, facts)
    else:
        begin_step(state, step, facts)


def _awaits(step: Step, call_index: int) -> bool:
    """Says whether a call is the one in flight: answers to those that were given up come too late."""
    return step.phase is AWAITS_CALL and call_index == step.calls - 1


def _on_answer(state: GraphState, entry: journal_pb2.JournalEntry) -> None:
    step = state.steps.get(entry.path)
    if step is None:
        return
    answered = entry.call_answered
    if not _awaits(step, answered.call_index):
        return
    kind, response = answered.kind, answered.response
    plan = step.plan
    schema = plan.output_schema
    try:
        if kind in _ALONE:
            label = step.label
            if kind == _CALL_OF_STEP:
                # What a worker read besides its input nobody knows.
                label = plan.answered if label is OPERATOR else joined(label, plan.outside)
            given = Given(None, label, response)
            if schema is not None:
                step.label = given.label
                schema.check(given.value)
                state.out.append(CompleteStep(path=step.path))
            gave(state, step, given, len(response))
        else:
            _on_tool(state, step, tool_service_pb2.Invocation.FromString(response))
    except OutputBreaksSchema as error:
        attempt_failed(state, step, error.reason, str(error), final=False)


def _on_tool(state: GraphState, step: Step, invocation: tool_service_pb2.Invocation) -> None:
    text = "\n".join(part.text.text for part in invocation.parts if part.WhichOneof("kind") == "text")
    for part in invocation.parts:
        step.label = joined(step.label, label_from_proto(part.label))
    if invocation.failed:
        attempt_failed(state, step, TOOL_FAILED, text or "the tool failed and does not say why", final=False)
        return
    schema = step.plan.output_schema
    output = to_value(text) if schema is None else schema.read(text)
    state.out.append(CompleteStep(path=step.path, output=output))
    gave(state, step, Given(from_value(output), step.label), output.ByteSize())


def _on_turn(state: GraphState, entry: journal_pb2.JournalEntry) -> None:
    step, completed = state.steps.get(entry.path), entry.step_completed
    if step is None:
        return
    label = step.label
    for part in completed.turn.output.parts:
        label = joined(label, label_from_proto(part.label))
    if completed.HasField("output"):
        gave(state, step, Given(from_value(completed.output), label), completed.output.ByteSize())
    else:
        content = completed.turn.output.content
        gave(state, step, Given(content, label), len(content))


def _on_signal(state: GraphState, signal: journal_pb2.SignalReceived) -> None:
    """Wakes the step that has waited longest, or keeps the signal for one that may still come to wait."""
    waits = state.waits.get(signal.name)
    if waits is None or state.kept_signals >= KEPT_SIGNALS:
        return
    kept = state.signals.setdefault(signal.name, deque())
    to_come = sum(state.states[place] is NodeState.PENDING for place in state.plan.signals[signal.name])
    if not waits and len(kept) >= to_come:
        return
    kept.append(signal.payload)
    state.kept_signals += 1
    if waits:
        signalled(state, waits.popleft())


def _resume(state: GraphState) -> None:
    """Begins every parked step anew, in the order of the nodes."""
    parked = [step for step in state.steps.values() if step.phase is Phase.RESUME]
    state.anew.extend(sorted(parked, key=lambda step: (step.plan.place, step.index)))
