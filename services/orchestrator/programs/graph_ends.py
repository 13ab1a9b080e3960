"""How steps, nodes and the run end. Nothing begins here: what may begin is noted, and `graph` goes through it."""

from comitia.orchestrator.v1 import session_pb2, workflow_pb2
from services.meshkit.content import Label
from services.meshkit.content.proto import label_to_proto
from services.orchestrator.conditions.errors import ExpressionFailed
from services.orchestrator.programs.commands import CompleteStep, EndRun, FailStep, SkipStep
from services.orchestrator.programs.graph_plan import OPERATOR, NodePlan
from services.orchestrator.programs.graph_state import (
    MAX_GIVEN_BYTES,
    MAX_SENTENCE,
    SUCCEEDED,
    Given,
    GivenList,
    GraphState,
    NodeState,
    Phase,
    Step,
    joined,
)
from services.orchestrator.programs.output_schema import OutputBreaksSchema
from services.orchestrator.programs.values import NotJson, ValueTooLarge, to_value

EXPRESSION_FAILED = "EXPRESSION_FAILED"
OUTPUTS_TOO_LARGE = "OUTPUTS_TOO_LARGE"


def gave(state: GraphState, step: Step, given: Given | GivenList, size: int) -> None:
    """Takes the result of a step; ends the run when its steps have given more than one may.

    Args:
        size: bytes that the result takes, encoded; 0 where it is made of others.
    """
    del state.steps[step.path]
    state.kept += size
    if state.kept > MAX_GIVEN_BYTES:
        message = f"with {step.path} its steps gave more than {MAX_GIVEN_BYTES} bytes; have them give less"
        end_run(state, session_pb2.SESSION_STATE_FAILED, OUTPUTS_TOO_LARGE, message)
    elif step.index >= 0 and isinstance(given, Given):
        _item_ended(state, step, given)
    else:
        _node_ended(state, step.plan, SUCCEEDED, given)


def gave_own(state: GraphState, step: Step, given: Given | GivenList, complete: CompleteStep) -> None:
    """Takes the result of a step that the graph carries out itself; one that breaks its schema fails it for good."""
    if step.plan.output_schema is not None:
        try:
            step.plan.output_schema.check(given.value)
        except OutputBreaksSchema as error:
            step.label = joined(step.label, given.label)
            failed(state, step, error.reason, str(error))
            return
    state.out.append(complete)
    gave(state, step, given, complete.output.ByteSize() if complete.output is not None else 0)


def failed(state: GraphState, step: Step, reason: str, message: str) -> None:
    """Ends a step without a result, for good."""
    sentence = message[:MAX_SENTENCE]
    state.out.append(FailStep(path=step.path, reason=reason, message=sentence))
    del state.steps[step.path]
    if step.calls or step.phase is Phase.TURN:
        step.label = joined(step.label, step.plan.outside)
    if step.index < 0:
        state.labels[step.plan.place] = step.label
        _node_failed(state, step.plan, reason, sentence)
    elif state.maps[step.plan.place].step.plan.on_item_failure == workflow_pb2.ITEM_FAILURE_FAIL:
        _map_failed(state, step, f"item {step.index} failed with {reason}: {sentence}")
    else:
        mapped = state.maps[step.plan.place]
        mapped.failures = joined(mapped.failures, step.label)
        _item_ended(state, step, None)


def failed_before(state: GraphState, plan: NodePlan, reason: str, message: str) -> None:
    """Ends a node that could not even begin."""
    sentence = message[:MAX_SENTENCE]
    state.out.append(FailStep(path=plan.path, reason=reason, message=sentence))
    _node_failed(state, plan, reason, sentence)


def skipped(state: GraphState, plan: NodePlan, reason: str) -> None:
    """Passes a node over."""
    state.out.append(SkipStep(path=plan.path, reason=reason))
    state.reasons[plan.place] = reason
    keep_control(state, plan)
    _node_ended(state, plan, NodeState.SKIPPED, None)


def keep_control(state: GraphState, plan: NodePlan) -> None:
    """Keeps the label of what decided about a node: what its conditions read, and what decided about those before."""
    if not state.plan.conditional:
        return
    label = state.control[plan.place]
    for edge in plan.edges:
        label = joined(label, state.control[edge.before])
    label = state.label_of(plan.judges, reads_input=plan.judges_input, base=label)
    state.control[plan.place] = label
    state.labels[plan.place] = label


def end_run(state: GraphState, final: session_pb2.SessionState.ValueType, reason: str = "", message: str = "") -> None:
    """Ends the run; nothing follows."""
    _end(state, EndRun(state=final, reason=reason, message=message))


def succeed(state: GraphState) -> None:
    """Ends a run all of whose nodes have ended, with what its workflow says that it gives."""
    plan = state.plan
    try:
        if plan.output:
            facts = state.facts(plan.output_reads)
            values = {name: source.value(facts, state.allowance) for name, source in plan.output}
            reads = plan.output_reads
        else:
            values = {plan.nodes[place].id: _value_of(state, place) for place in plan.last}
            reads = plan.last
        output = to_value(values)
    except (ExpressionFailed, NotJson) as error:
        end_run(state, session_pb2.SESSION_STATE_FAILED, EXPRESSION_FAILED, f"the output of the run: {error}")
        return
    except ValueTooLarge as error:
        end_run(state, session_pb2.SESSION_STATE_FAILED, error.reason, f"the output of the run: {error}")
        return
    label = _output_label(state, reads)
    succeeded = session_pb2.SESSION_STATE_SUCCEEDED
    _end(state, EndRun(state=succeeded, output=output, output_label=label_to_proto(label)))


def _output_label(state: GraphState, reads: tuple[int, ...]) -> Label:
    label = state.label_of(reads, reads_input=state.plan.output_reads_input, base=OPERATOR)
    for control in state.control:
        label = joined(label, control)
    return label


def _value_of(state: GraphState, place: int) -> object:
    given = state.given[place]
    return None if given is None else given.value


def _node_ended(state: GraphState, plan: NodePlan, final: NodeState, given: Given | GivenList | None) -> None:
    place = plan.place
    state.states[place] = final
    state.given[place] = given
    state.left -= 1
    state.settled.append(place)


def _node_failed(state: GraphState, plan: NodePlan, reason: str, message: str) -> None:
    state.reasons[plan.place] = reason
    if plan.goes_on:
        _node_ended(state, plan, NodeState.FAILED, None)
        return
    state.states[plan.place] = NodeState.FAILED
    end_run(state, session_pb2.SESSION_STATE_FAILED, reason, f"node {plan.id} failed: {message}")


def _item_ended(state: GraphState, step: Step, given: Given | None) -> None:
    mapped = state.maps[step.plan.place]
    mapped.given[step.index] = given
    mapped.ended += 1
    del mapped.open[step.index]
    state.filling.append(step.plan.place)


def _map_failed(state: GraphState, step: Step, message: str) -> None:
    """Fails a map by one of its items; the other items in progress are given up."""
    mapped = state.maps.pop(step.plan.place)
    del mapped.open[step.index]
    for other in mapped.open.values():
        state.out.append(FailStep(path=other.path, reason="CANCELLED", message="another item of the map failed"))
        del state.steps[other.path]
    mapped.step.label = joined(mapped.step.label, step.label)
    failed(state, mapped.step, "MAP_ITEM_FAILED", message)


def _end(state: GraphState, end: EndRun) -> None:
    state.out.append(end)
    state.ended = True
    state.steps.clear()
    state.maps.clear()
    state.waits.clear()
    state.signals.clear()
