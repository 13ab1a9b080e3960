"""Checks the journal of a planned turn without its program: follows every label at a sink from the facts alone.

This is the test of whether the facts suffice. An auditor has no decider, maybe no plan, and not the values; yet it can
say for each tool call what its arguments were made from and what led to it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.content import Label, join
from services.meshkit.content.label import BOTTOM
from services.meshkit.content.proto import label_from_proto


class LabelDiffers(Exception):
    """A recorded label is not the one that follows from the facts before it."""


@dataclass(slots=True)
class _Seen:
    """What the facts so far say."""

    plan: Label = BOTTOM
    bound: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, Any] = field(default_factory=dict)
    #: Labels of conditions, counts and rounds, by the beginning of the places that they guard.
    around: dict[str, Label] = field(default_factory=dict)
    calls: dict[int, Any] = field(default_factory=dict)


def audit(journal: Iterable[journal_pb2.JournalEntry]) -> int:
    """Follows the labels of all calls, conditions, counts and choices. Returns: how many. Raises: LabelDiffers."""
    checked, seen = 0, _Seen()
    for entry in journal:
        kind = entry.WhichOneof("fact") or ""
        fact = getattr(entry, kind)
        match kind:
            case "plan_recorded":
                seen.plan = label_from_proto(fact.label)
            case "variable_bound":
                seen.bound[fact.place] = fact
            case "branch_taken":
                _agree(fact.label, _looked_at(seen, fact.references, fact.place), fact.place)
                seen.around[f"{fact.place}/{'then' if fact.taken else 'else'}/"] = label_from_proto(fact.label)
                checked += 1
            case "list_mapped":
                items = [_labels(f"{one}[0]", fact.place, seen)[1] for one in fact.references]
                _agree(fact.label, join(items or [seen.plan]), fact.place)
                seen.lists[fact.place] = fact
                seen.around[f"{fact.place}["] = label_from_proto(fact.label)
                checked += 1
            case "loop_turned":
                _agree(fact.label, _looked_at(seen, fact.references, f"{fact.place}[{fact.turn}]/"), fact.place)
                for later in range(fact.turn + 1, fact.at_most + 1):
                    guarded = f"{fact.place}[{later}]/"
                    before = seen.around.get(guarded, BOTTOM)
                    seen.around[guarded] = before.joined(label_from_proto(fact.label))
                checked += 1
            case "choice_made":
                (read,) = seen.calls[fact.call_index].arguments
                _agree(fact.label, label_from_proto(read.label).joined(label_from_proto(read.choice_label)), fact.place)
                checked += 1
            case "call_intended" if fact.place:
                seen.calls[fact.call_index] = fact
                checked += _check(fact, seen)
            case _:
                pass
    return checked


def _check(call: Any, seen: _Seen) -> int:
    led = [label for place, label in seen.around.items() if call.place.startswith(place)]
    _agree(call.choice_label, join([seen.plan, *led]), call.place)
    for origin in call.arguments:
        followed = [_labels(one, call.place, seen) for one in origin.references]
        _agree(origin.label, join([seen.plan, *(label for label, _ in followed)]), call.place)
        _agree(origin.choice_label, join(choice for _, choice in followed), call.place)
    return 1 + 2 * len(call.arguments)


def _agree(recorded: Any, followed: Label, place: str) -> None:
    if label_from_proto(recorded) != followed:
        raise LabelDiffers(place)


def _looked_at(seen: _Seen, references: Iterable[str], place: str) -> Label:
    followed = [_labels(one, place, seen) for one in references]
    return join([seen.plan, *(label.joined(choice) for label, choice in followed)])


def _labels(reference: str, place: str, seen: _Seen) -> tuple[Label, Label]:
    """Follows a reference, innermost scope first. Returns: label and choice label of what it names."""
    name, _, path = reference[1:].replace("[", ".[").partition(".")
    tokens = ["[]" if token.startswith("[") else token for token in path.split(".") if token]
    scopes = [place[: at + 1] for at in range(len(place) - 1, -1, -1) if place[at] == "/"] + [""]
    for scope in scopes:
        if f"{scope}{name}" in seen.bound:
            return _part(seen.bound[f"{scope}{name}"], tokens)
        expanded = seen.lists.get(scope.rpartition("[")[0])
        if expanded and expanded.item == name:
            if not expanded.references:
                return BOTTOM, BOTTOM  # The plan wrote the list.
            inside = ".".join(["[0]", *tokens])
            return _labels(f"{expanded.references[0]}.{inside}", expanded.place, seen)
        if name == "turn" and scope.endswith("]/"):
            return BOTTOM, BOTTOM
    raise LabelDiffers(f"{reference} at {place} is not bound")


def _part(variable: Any, tokens: list[str]) -> tuple[Label, Label]:
    """Gives the labels of a part: its own, if the fact names it, else those of the whole.

    A place in a list is picked by whoever can add to the list.
    """
    label, choice = label_from_proto(variable.label), label_from_proto(variable.choice_label)
    parts = {tuple(part.path.replace("[]", ".[]").strip(".").split(".")): part for part in variable.parts}
    if ("*",) in parts:
        ours = label_from_proto(parts["*",].label)
        return ours, choice.joined(ours) if "[]" in tokens else choice
    for at, token in enumerate(tokens):
        if token == "[]":
            vouched = parts.get(tuple(tokens[: at + 1]))
            choice = choice.joined(label_from_proto(vouched.label) if vouched else label)
    inside = list(parts.values()) if not tokens else [parts[tuple(tokens)]] if tuple(tokens) in parts else []
    if inside:
        own = [label_from_proto(part.label) for part in inside]
        picked = [label_from_proto(part.choice_label) for part in inside if part.HasField("choice_label")]
        return join(own if tokens else [label, *own]), join([choice, *picked])
    return label, choice
