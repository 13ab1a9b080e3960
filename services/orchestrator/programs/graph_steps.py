"""Steps of a graph: what each kind asks for when it begins, and what comes of an attempt that failed."""

from collections.abc import Mapping
from typing import Final, cast

from comitia.orchestrator.v1 import journal_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Label
from services.meshkit.content.proto import label_to_proto
from services.orchestrator.conditions.errors import ExpressionFailed
from services.orchestrator.domain.sub_run_id import sub_run_id
from services.orchestrator.programs.commands import CompleteStep, MakeCall, ParkStep, StartStep, StartTimer, encoded
from services.orchestrator.programs.graph_ends import EXPRESSION_FAILED, failed, gave_own
from services.orchestrator.programs.graph_plan import Facts
from services.orchestrator.programs.graph_state import (
    AWAITS_CALL,
    MAX_SENTENCE,
    MAX_WRITTEN_BYTES,
    SIGNAL,
    Given,
    GraphState,
    Phase,
    Step,
    joined,
)
from services.orchestrator.programs.reducers import CannotReduce, reduced
from services.orchestrator.programs.speaking import program_of
from services.orchestrator.programs.values import (
    Json,
    NotJson,
    ValueTooLarge,
    as_text,
    from_value,
    to_struct,
    to_value,
)

#: First part of the name of a timer before the next attempt.
RETRY: Final = "retry"
#: Program of steps that the graph carries out itself.
GRAPH: Final = "graph"
AGGREGATE_FAILED: Final = "AGGREGATE_FAILED"
NODE_TIMED_OUT: Final = "NODE_TIMED_OUT"
WAIT_TIMED_OUT: Final = "WAIT_TIMED_OUT"
_CALLS: Final[Mapping[str, journal_pb2.CallKind.ValueType]] = {
    "step": journal_pb2.CALL_KIND_STEP,
    "tool": journal_pb2.CALL_KIND_TOOL,
    "run": journal_pb2.CALL_KIND_RUN,
}


def begin(state: GraphState, step: Step, facts: Facts | None) -> None:
    """Begins a step of any kind but `map`.

    Args:
        facts: what its expressions see; None where they see nothing but the run.
    """
    state.steps[step.path] = step
    request = step.plan.request
    if request is not None:
        step.request = request
        _attempt(state, step)
        return
    match step.plan.kind:
        case "wait":
            _wait(state, step)
        case "aggregate":
            _aggregate(state, step, facts or {})
        case _:
            try:
                _prepare(state, step, facts or {})
            except ExpressionFailed as error:
                failed(state, step, EXPRESSION_FAILED, str(error))
            except NotJson as error:
                failed(state, step, EXPRESSION_FAILED, str(error))
            except ValueTooLarge as error:
                failed(state, step, error.reason, str(error))
            else:
                _attempt(state, step)


def begin_anew(state: GraphState, step: Step) -> None:
    """Begins a step in its next attempt group, if it is still parked."""
    if state.steps.get(step.path) is not step or step.phase is not Phase.RESUME:
        return
    step.group += 1
    step.attempt = step.tries = 1
    step.fallback = ""
    _attempt(state, step)


def attempt_failed(state: GraphState, step: Step, reason: str, message: str, *, final: bool) -> None:
    """Tries again, asks the fallback agent, parks the step, or fails it.

    Args:
        final: True when the same would fail again.
    """
    plan = step.plan
    if not final and step.tries < plan.retries.max_attempts:
        place = f"{step.group}.{step.attempt}"
        step.phase = Phase.BACKOFF
        step.timer = f"{RETRY}/{place}"
        wait = plan.retries.wait_ms(step.tries, f"{state.run_id}/{step.path}#{place}")
        state.out.append(StartTimer(path=step.path, timer=step.timer, milliseconds=wait))
    elif plan.fallback and not step.fallback:
        step.fallback = plan.fallback
        step.attempt += 1
        step.tries = 1
        _attempt(state, step)
    elif plan.parks and not final:
        step.phase = Phase.RESUME
        step.timer = ""
        state.out.append(ParkStep(path=step.path, reason=reason, message=message[:MAX_SENTENCE]))
    else:
        failed(state, step, reason, message)


def timer_fired(state: GraphState, step: Step) -> None:
    """Goes on after the moment that a step waited for, or gives up its attempt."""
    step.timer = ""
    match step.phase:
        case Phase.BACKOFF:
            step.attempt += 1
            step.tries += 1
            _attempt(state, step)
        case Phase.TIMER:
            gave_own(state, step, Given(None, step.label), CompleteStep(path=step.path))
        case Phase.SIGNAL:
            state.waits[step.plan.node.wait.signal].remove(step)
            failed(state, step, WAIT_TIMED_OUT, f"no signal {step.plan.node.wait.signal} came in time")
        case _:
            seconds = step.plan.timeout_ms / 1000
            message = f"the attempt took longer than {seconds:g} s; raise the node's timeout"
            attempt_failed(state, step, NODE_TIMED_OUT, message, final=False)


def signalled(state: GraphState, step: Step) -> None:
    """Hands the oldest signal that was kept to a step that waits for it."""
    name = step.plan.node.wait.signal
    payload = state.signals[name].popleft()
    state.kept_signals -= 1
    given = Given(from_value(payload), joined(step.label, SIGNAL))
    gave_own(state, step, given, CompleteStep(path=step.path, output=payload))


def _attempt(state: GraphState, step: Step) -> None:
    plan = step.plan
    try:
        if plan.kind == "agent":
            _ask_agent(state, step)
        else:
            _call(state, step)
    except ValueTooLarge as error:
        failed(state, step, error.reason, str(error))


def _ask_agent(state: GraphState, step: Step) -> None:
    """Begins a turn. Raises: ValueTooLarge."""
    _count(state, len(step.prompt) + sum(map(len, step.data.values())))
    step.phase = Phase.TURN
    # In a fork another version may stand there.
    agent = state.agent(step.fallback or step.plan.node.agent.agent)
    start = StartStep(
        path=step.path,
        program=program_of(agent),
        agent=f"{agent.name}@{agent.version}",
        prompt=step.prompt,
        attempt=step.attempt,
        attempt_group=step.group,
    )
    state.out.append(start)
    _limit_time(state, step)


def _call(state: GraphState, step: Step) -> None:
    """Makes a call of the step's own. Raises: ValueTooLarge."""
    plan, path, number = step.plan, step.path, step.calls
    _count(state, len(step.request))
    step.phase = AWAITS_CALL
    alone = plan.output_schema is None and plan.kind != "tool"
    if number == 0 and not alone:
        state.out.append(StartStep(path=path, program=GRAPH))
    request = step.request if plan.kind != "run" else _sub_run(state, step)
    attempt = step.attempt if step.attempt > 1 else 0
    begins = number == 0 and alone
    digest = plan.request_digest
    state.out.append(MakeCall(path, number, _CALLS[plan.kind], request, begins, attempt, step.group, digest))
    step.calls = number + 1
    if plan.kind == "tool":
        _limit_time(state, step)


def _limit_time(state: GraphState, step: Step) -> None:
    step.timer = f"timeout/{step.group}.{step.attempt}"
    state.out.append(StartTimer(path=step.path, timer=step.timer, milliseconds=step.plan.timeout_ms))


def _prepare(state: GraphState, step: Step, facts: Facts) -> None:
    """Makes what all attempts ask. Raises: ExpressionFailed, ValueTooLarge, NotJson."""
    plan = step.plan
    given = {name: source.value(facts, state.allowance) for name, source in plan.input}
    match plan.kind:
        case "agent":
            step.prompt = as_text("" if plan.main is None else plan.main.value(facts, state.allowance))
            step.data = {name: as_text(value) for name, value in given.items()}
        case "step":
            step.request = plan.step_request(given)
        case "tool":
            request = tool_service_pb2.InvokeToolRequest(
                name=plan.node.tool.tool, arguments=to_struct(given), choice_label=label_to_proto(step.label)
            )
            step.request = encoded(request)
        case _:
            task = journal_pb2.SubRunTask(
                workflow=plan.node.run.workflow, input=to_value(given), input_label=label_to_proto(step.label)
            )
            step.request = encoded(task)


def _count(state: GraphState, written: int) -> None:
    state.written += written
    if state.written > MAX_WRITTEN_BYTES:
        raise ValueTooLarge(f"the steps of the run were given more than {MAX_WRITTEN_BYTES} bytes; give them less")


def _sub_run(state: GraphState, step: Step) -> bytes:
    """Names the run that this attempt starts, by its place: a replay names the same."""
    task = journal_pb2.SubRunTask.FromString(step.request)
    task.run_id = sub_run_id(state.run_id, f"{step.path}#{step.group}.{step.attempt}")
    return encoded(task)


def _wait(state: GraphState, step: Step) -> None:
    state.out.append(StartStep(path=step.path, program=GRAPH))
    wait = step.plan.node.wait
    if wait.WhichOneof("until") == "timer":
        step.phase = Phase.TIMER
        _wait_for(state, step, wait.timer.ToMilliseconds())
    elif state.signals.get(wait.signal):
        signalled(state, step)
    else:
        step.phase = Phase.SIGNAL
        state.waits[wait.signal].append(step)
        if wait.HasField("timeout"):
            _wait_for(state, step, wait.timeout.ToMilliseconds())


def _wait_for(state: GraphState, step: Step, milliseconds: int) -> None:
    step.timer = "wait"
    state.out.append(StartTimer(path=step.path, timer=step.timer, milliseconds=milliseconds))


def _aggregate(state: GraphState, step: Step, facts: Facts) -> None:
    try:
        items, label = _items(state, step, facts)
        if step.plan.reduction is not None:
            value = step.plan.reduction.value({**facts, "items": items}, state.allowance)
        else:
            state.allowance.used += len(items)
            value = reduced(step.plan.node.aggregate.reducer, items)
        output = to_value(value)
        _count(state, output.ByteSize())
    except (CannotReduce, ExpressionFailed, NotJson) as error:
        failed(state, step, AGGREGATE_FAILED, str(error))
    except ValueTooLarge as error:
        failed(state, step, error.reason, str(error))
    else:
        step.label = label
        gave_own(state, step, Given(value, label), CompleteStep(path=step.path, output=output))


def _items(state: GraphState, step: Step, facts: Facts) -> tuple[list[Json], Label]:
    """Gives what is reduced, and the label of the result."""
    plan = step.plan
    if plan.main is not None:
        items = plan.main.value(facts, state.allowance)
        if not isinstance(items, list):
            raise CannotReduce("the items are no list")
        return cast("list[Json]", items), step.label
    label = step.label
    items = list[Json]()
    for edge in plan.edges:
        given = state.given[edge.before]
        if given is not None:
            items.append(given.value)
            label = joined(label, given.label)
    return items, label
