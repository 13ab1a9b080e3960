"""The decision at a sink: deterministic, outside any model, made of the tool's definition and of labels only."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from values import untrusted

from services.meshkit.content import Label
from services.meshkit.content.proto import label_from_proto


class Outcome(Enum):
    #: Nothing untrusted is in it.
    PASSED = "passed"
    #: Something untrusted is in it, and a rule of the law lets it pass; the rule is recorded.
    RECORDED = "recorded"
    #: A person has to decide.
    HELD = "held"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Judgement:
    outcome: Outcome
    rule: str = ""


#: What is looked at: nothing; labels of arguments; those and what chose the call and picked its targets.
CHECKS = ("none", "arguments", "choice")


Tools = Mapping[str, Mapping[str, Any]]


def judge(tools: Tools, called: str, intended: Any, *, checks: str) -> Judgement:
    """Judges a tool call by the labels that its intent names; the worst rule that fits counts."""
    tool = tools[called]
    if checks == "none":
        return Judgement(Outcome.PASSED)
    found = [Judgement(Outcome.PASSED)]
    roles = tool.get("roles", {})
    for origin in intended.arguments:
        role = roles.get(origin.argument)
        label = label_from_proto(origin.label)
        if untrusted(label):
            found.append(_untrusted_argument(tool, role, as_it_came=origin.verbatim and _from_outside(tools, label)))
        if checks == "choice" and role == "target":
            found.append(_untrusted_choice(tool, label_from_proto(origin.choice_label)))
    if checks == "choice":
        found.append(_untrusted_choice(tool, label_from_proto(intended.choice_label)))
    order = list(Outcome)
    return max(found, key=lambda one: order.index(one.outcome))


def _untrusted_argument(tool: Mapping[str, Any], role: str | None, *, as_it_came: bool) -> Judgement:
    match role:
        case "code":
            return Judgement(Outcome.REFUSED, "untrusted-code")
        case "target" if tool["does"] == "read" and as_it_came:
            # An address from outside, opened as it came: nothing of ours can be in it.
            return Judgement(Outcome.RECORDED, "untrusted-address-as-it-came")
        case "target":
            return Judgement(Outcome.HELD, "untrusted-target")
        case "content":
            return Judgement(Outcome.RECORDED, "untrusted-content")
        case _:
            return Judgement(Outcome.PASSED)


def _untrusted_choice(tool: Mapping[str, Any], choice: Label) -> Judgement:
    if tool["does"] == "read" or not untrusted(choice):
        return Judgement(Outcome.PASSED)
    if tool["undo"]:
        return Judgement(Outcome.RECORDED, "untrusted-choice-can-be-undone")
    return Judgement(Outcome.HELD, "untrusted-choice")


def _from_outside(tools: Tools, label: Label) -> bool:
    """Says whether only tools that read from outside made the value."""
    sources = [source.removeprefix("tool:") for source in label.sources if source.startswith("tool:")]
    return bool(sources) and all(tools.get(source, {}).get("reach") == "outside" for source in sources)
