"""Checks a journal without its program: follows every label at a sink from the facts alone.

This is the test of whether the facts suffice. An auditor has no decider, maybe no plan, and not the values; yet it can
say for each tool call what its arguments were made from and what led to it.
"""

from collections.abc import Iterable
from typing import Any

from values import BOTTOM

from services.meshkit.content import Label, join
from services.meshkit.content.proto import label_from_proto


class LabelDiffers(Exception):
    """A recorded label is not the one that follows from the facts before it."""


def audit(journal: Iterable[Any]) -> int:
    """Follows the labels of all tool calls. Returns: how many labels were checked. Raises: LabelDiffers."""
    checked, plan = 0, BOTTOM
    bound: dict[str, Any] = {}
    lists: dict[str, Any] = {}
    around: dict[str, Label] = {}
    for fact in journal:
        match fact.WhichOneof("fact"):
            case "plan_recorded":
                plan = label_from_proto(fact.plan_recorded.label)
            case "variable_bound":
                bound[fact.variable_bound.place] = fact.variable_bound
            case "branch_taken":
                taken = fact.branch_taken
                around[f"{taken.place}/{'then' if taken.taken else 'else'}/"] = label_from_proto(taken.label)
            case "map_expanded":
                lists[fact.map_expanded.place] = fact.map_expanded
                around[f"{fact.map_expanded.place}["] = label_from_proto(fact.map_expanded.label)
            case "loop_turned":
                turned = fact.loop_turned
                for later in range(turned.turn + 1, turned.at_most + 1):
                    before = around.get(f"{turned.place}[{later}]/", BOTTOM)
                    around[f"{turned.place}[{later}]/"] = before.joined(label_from_proto(turned.label))
            case "call_intended" if fact.call_intended.place:
                checked += _check(fact.call_intended, plan, bound, lists, around)
            case _:
                pass
    return checked


def _check(call: Any, plan: Label, bound: dict[str, Any], lists: dict[str, Any], around: dict[str, Label]) -> int:
    led = join([plan, *(label for place, label in around.items() if call.place.startswith(place))])
    if led != label_from_proto(call.choice_label):
        raise LabelDiffers(f"choice of {call.place}")
    for origin in call.arguments:
        made = join([plan, *(_label(one, call.place, bound, lists) for one in origin.references)])
        if made != label_from_proto(origin.label):
            raise LabelDiffers(f"{origin.argument} of {call.place}")
    return 1 + len(call.arguments)


def _label(reference: str, place: str, bound: dict[str, Any], lists: dict[str, Any]) -> Label:
    name, _, path = reference[1:].replace("[", ".[").partition(".")
    tokens = ["[]" if token.startswith("[") else token for token in path.split(".") if token]
    scopes = [place[: at + 1] for at in range(len(place) - 1, -1, -1) if place[at] == "/"] + [""]
    for scope in scopes:
        if f"{scope}{name}" in bound:
            return _part(bound[f"{scope}{name}"], tokens)
        expanded = lists.get(scope.rpartition("[")[0])
        if expanded and expanded.item == name:
            if not expanded.references:
                return BOTTOM  # The plan wrote the list.
            inside = ".".join(["[0]", *tokens])
            return _label(f"{expanded.references[0]}.{inside}", expanded.place, bound, lists)
        if name == "turn" and scope.endswith("]/"):
            return BOTTOM
    raise LabelDiffers(f"{reference} at {place} is not bound")


def _part(variable: Any, tokens: list[str]) -> Label:
    """Gives the label of a part: its own, if the fact names one, else that of the whole."""
    own = label_from_proto(variable.label)
    for part in variable.parts:
        if part.path == "*" or (tokens and part.path.replace("[]", ".[]").strip(".").split(".") == tokens):
            return label_from_proto(part.label)
    if not tokens:
        return join([own, *(label_from_proto(part.label) for part in variable.parts)])
    return own
