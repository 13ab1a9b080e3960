"""How names of a plan get their values, with labels: parts, templates, conditions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.content import Label, join
from services.meshkit.content.label import BOTTOM
from services.meshkit.content.proto import label_to_proto
from services.orchestrator.programs.planned_plan import Comparison
from services.orchestrator.programs.planned_references import references
from services.orchestrator.programs.planned_state import PlannedState
from services.orchestrator.programs.planned_values import Filled, PlanStopped, Value, digest, fill, is_object, look_up
from services.orchestrator.programs.values import Json

#: Reasons that a failed call may have, as far as a label has to know.
_REASONS: Final = 16


def bind(state: PlannedState, value: Value, *, call_index: int | None = None, made_from: Sequence[str] = ()) -> None:
    """Gives the name of the current step a value, if it has one, and records where that came from."""
    if state.step is not None and state.step.name:
        value = value.steered(state.choice)
        state.frames[-1].scope[state.step.name] = value
        record_bound(state, state.place, value, call_index=call_index, made_from=made_from)


def record_bound(
    state: PlannedState,
    place: str,
    value: Value,
    *,
    call_index: int | None = None,
    made_from: Sequence[str] = (),
) -> None:
    """Records that a name has a value from here on."""
    fact = journal_pb2.VariableBound(
        place=place,
        call_index=call_index,
        references=made_from,
        value_digest=digest(value.plain()),
        label=label_to_proto(value.label),
        choice_label=label_to_proto(value.choice),
        parts=_part_labels(value.parts),
    )
    state.record(journal_pb2.JournalEntry(variable_bound=fact))


def with_outcome(state: PlannedState, value: Value, *, ok: bool, reason: str) -> Value:
    """Adds how the call went, which is the tool's word; a result without keys becomes the part `value`."""
    data: Json = value.data
    own: dict[str, Value] = {} if is_object(data) else {"value": value}
    parts = own | {
        "ok": Value(data=ok, label=state.plan_label, choice=value.label, alternatives=2),
        "reason": Value(data=reason, label=state.plan_label, choice=value.label, alternatives=_REASONS),
    }
    return replace(value, data=data if is_object(data) else {}, parts=parts, verbatim=False)


def evaluate(state: PlannedState, conditions: Iterable[Comparison]) -> tuple[bool, Label, list[str], bytes]:
    """Compares values. Returns: the outcome, the join over what was looked at, the references, the values' digest.

    Raises: PlanStopped.
    """
    found = [(one.how, filled(state, one.value), filled(state, one.than)) for one in conditions]
    sides = [side for _, left, right in found for side in (left, right)]
    looked_at = [reference for side in sides for reference in side.references]
    values = [side.data for side in sides if side.references]
    holds = all(_compare(how, left.data, right.data) for how, left, right in found)
    return holds, join(side.read for side in sides), looked_at, digest(values)


def made(state: PlannedState, template: Json) -> Value:
    """Makes a value of a template; one reference alone keeps the parts and labels of what it names."""
    if isinstance(template, str) and references(template) == (template,):
        return look_up(template, state.scopes)
    one = filled(state, template)
    return Value(data=one.data, label=one.label, choice=one.choice)


def filled(state: PlannedState, template: Json) -> Filled:
    """Fills in what a template refers to. Raises: PlanStopped."""
    return fill(template, state.scopes, state.plan_label)


def _part_labels(parts: Mapping[str, Value]) -> list[journal_pb2.PartLabel]:
    """Names the parts that have labels of their own."""
    return [
        journal_pb2.PartLabel(
            path=name,
            label=label_to_proto(part.whole_label()),
            choice_label=None if part.whole_choice() == BOTTOM else label_to_proto(part.whole_choice()),
            alternatives=part.alternatives,
        )
        for name, part in sorted(parts.items())
    ]


def _compare(how: str, left: Json, right: Json) -> bool:
    match how:
        case "equal":
            return _equal(left, right)
        case "differs":
            return not _equal(left, right)
        case "above":
            return _number(left) > _number(right)
        case _:
            return _number(left) < _number(right)


def _equal(left: Json, right: Json) -> bool:
    """Compares as JSON does: true is no 1."""
    return digest(left) == digest(right)


def _number(data: Json) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise PlanStopped("COMPARISON_NEEDS_NUMBERS", "the plan compares by size what is no number")
    return cast(float, data)
