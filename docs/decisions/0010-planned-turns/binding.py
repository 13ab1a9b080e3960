"""How names of a plan get their values, with labels: results, parts, templates, conditions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from language import PlanRefused, conditions
from state import Command, Record, State
from values import BOTTOM, Filled, Value, digest, fill, look_up, references
from wire import pb

from services.meshkit.content import Confidentiality, Integrity, Label, join
from services.meshkit.content.proto import label_to_proto


def result_of(state: State, data: Any) -> Value:
    """Labels what a tool answered: by part, as its definition says; picked by whatever was in its arguments."""
    tool = state.pinned.tools[state.step["call"]]
    source = frozenset({f"tool:{state.step['call']}"})
    outside = Label(integrity=Integrity.UNTRUSTED, confidentiality=Confidentiality.TENANT, sources=source)
    ours = Label(integrity=Integrity.TRUSTED, confidentiality=Confidentiality.TENANT, sources=source)
    vouched = tuple(tuple(path.replace("[]", ".[]").strip(".").split(".")) for path in tool.get("vouches", ()))
    if state.pinned.labelling != "path":
        vouched = (("*",),) if vouched == (("*",),) else ()
    arguments = state.arguments
    assert arguments is not None
    choice = arguments.label.joined(arguments.choice)
    state.context = join([state.context, ours if vouched == (("*",),) else outside, choice])
    return Value(data=data, label=outside, choice=choice, vouched=vouched, vouched_label=ours, verbatim=True)


def outcome_of(state: State, result: Value, *, ok: bool, reason: str) -> dict[str, Value]:
    """Makes values of how a call went: whose word that is follows from the tool."""
    label = result.vouched_label if ("*",) in result.vouched else result.label
    return {
        "ok": Value(data=ok, label=state.plan_label, choice=label, alternatives=2),
        "reason": Value(data=reason, label=state.plan_label, choice=label, alternatives=16),
    }


def part_labels(value: Value) -> list[Any]:
    """Names the parts that have labels of their own."""
    paths = {".".join(path).replace(".[]", "[]"): value.vouched_label for path in value.vouched}
    told = [pb.PartLabel(path=path, label=label_to_proto(label)) for path, label in sorted(paths.items())]
    told += [
        pb.PartLabel(
            path=name,
            label=label_to_proto(part.whole_label()),
            choice_label=label_to_proto(part.whole_choice()) if part.whole_choice() != BOTTOM else None,
            alternatives=part.alternatives,
        )
        for name, part in sorted(value.parts.items())
    ]
    return told


def bind(
    state: State, out: list[Command], value: Value, *, call_index: int | None = None, refs: tuple[str, ...] = ()
) -> None:
    """Gives the name of the current step a value, if it has one, and records where that came from."""
    if "as" in state.step:
        frame = state.frames[-1]
        value = value.steered(frame.choice)
        frame.scope[state.step["as"]] = value
        out.append(bound(state.place, value, refs, call_index))


def bound(place: str, value: Value, refs: tuple[str, ...], call_index: int | None = None) -> Record:
    fact = pb.VariableBound(
        place=place,
        call_index=call_index,
        references=refs,
        value_digest=digest(value.plain()),
        label=label_to_proto(value.label),
        choice_label=label_to_proto(value.choice),
        parts=part_labels(value),
    )
    return Record(pb.Fact(variable_bound=fact))


def evaluate(state: State, condition: Mapping[str, Any]) -> tuple[bool, Label, list[str], list[Any]]:
    """Compares values. Returns: the outcome, the join over what was looked at, the references, the values."""
    found = [(one["is"], filled(state, one["value"]), filled(state, one["than"])) for one in conditions(condition)]
    label = join(side.label.joined(side.choice) for _, left, right in found for side in (left, right))
    refs = [reference for _, left, right in found for side in (left, right) for reference in side.references]
    values = [side.data for _, left, right in found for side in (left, right) if side.references]
    return all(_compare(how, left.data, right.data) for how, left, right in found), label, refs, values


def _compare(how: str, left: Any, right: Any) -> bool:
    if how in ("above", "below") and not (isinstance(left, int) and isinstance(right, int)):
        raise PlanRefused("COMPARISON_NEEDS_NUMBERS", how)
    match how:
        case "equal":
            return left == right
        case "differs":
            return left != right
        case "above":
            return left > right
        case _:
            return left < right


def made(state: State, template: Any) -> Value:
    """Makes a value of a template; one reference alone keeps the parts and labels of what it names."""
    if isinstance(template, str) and references(template) == (template,):
        return look_up(template, scopes(state))
    text = filled(state, template)
    return Value(data=text.data, label=text.label, choice=text.choice)


def filled(state: State, template: Any) -> Filled:
    made_of = fill(template, scopes(state), state.plan_label)
    if state.pinned.labelling == "context":
        return replace(made_of, label=in_context(state, made_of.label), verbatim=False)
    return made_of


def in_context(state: State, label: Label) -> Label:
    return label.joined(state.context) if state.pinned.labelling == "context" else label


def label_read(state: State) -> Label:
    """Joins what the model in question has read."""
    assert state.arguments is not None
    return state.arguments.label.joined(state.arguments.choice)


def scopes(state: State) -> list[Mapping[str, Value]]:
    return [frame.scope for frame in reversed(state.frames)]
