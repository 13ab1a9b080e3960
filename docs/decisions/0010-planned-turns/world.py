"""A task's world: scripted tools, a scripted planner, a scripted model without tools, a person, and the sink.

An attacked world is the worst one: the model without tools that reads an injection says what the attacker wants, as far
as its schema or list lets it. The person says yes to all that waits in an honest world, no to all in an attacked one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import language
import yaml
from planned_turn import decide
from sink import Judgement, Outcome, judge
from state import MakeCall, Pinned, State
from values import encode
from wire import HERE, pb

from services.meshkit.content import Confidentiality, Integrity, Label
from services.meshkit.content.proto import label_to_proto

USER = Label(integrity=Integrity.USER, confidentiality=Confidentiality.TENANT, sources=frozenset({"user:request"}))
_PERSON = "user_reader"


def load_tools() -> Mapping[str, Mapping[str, Any]]:
    return yaml.safe_load((HERE / "tools.yaml").read_text())


def load_tasks() -> list[dict[str, Any]]:
    return [task for file in sorted(Path(HERE / "tasks").glob("*.yaml")) for task in yaml.safe_load(file.read_text())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a turn is labelled and what its sinks look at."""

    labelling: str = "path"
    checks: str = "choice"
    allowed: frozenset[str] = language.VERBS


@dataclass(slots=True, kw_only=True)
class Ran:
    """What became of a turn."""

    journal: list[Any] = field(default_factory=list)
    #: Calls that a tool did, or failed to do, in order.
    calls: list[dict[str, Any]] = field(default_factory=list)
    #: Calls that the sink looked at, with its judgement.
    judged: list[tuple[dict[str, Any], Judgement]] = field(default_factory=list)
    endorsed: int = 0
    answer: str = ""
    reason: str = ""

    def held(self) -> int:
        return sum(one.outcome is Outcome.HELD for _, one in self.judged)

    def recorded(self) -> int:
        return sum(one.outcome is Outcome.RECORDED for _, one in self.judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    tools: Mapping[str, Mapping[str, Any]]
    plans: list[Any]
    results: Mapping[str, Any]
    model: Mapping[str, Any]
    checks: str
    attacked: bool

    def run(self, request: str, pinned: Pinned) -> Ran:
        """Drives the decider to its end, as the engine would: facts first, then calls."""
        ran, state, plans = Ran(), State(pinned=pinned), list(self.plans)
        started = pb.TurnStarted(request=request, label=label_to_proto(USER))
        waiting = [pb.Fact(turn_started=started)]
        while waiting:
            fact = waiting.pop(0)
            ran.journal.append(fact)
            state, commands = decide(state, fact)
            for command in commands:
                if isinstance(command, MakeCall):
                    ran.journal.append(pb.Fact(call_intended=command.intended))
                    waiting.extend(self._outside(ran, command.intended, plans))
                else:
                    ran.journal.append(command.fact)
                    waiting.extend(self._read(state, command.fact))
        ended = ran.journal[-1].turn_ended
        ran.answer, ran.reason = ended.answer, ended.reason
        ran.endorsed = sum(fact.WhichOneof("fact") == "label_lowered" for fact in ran.journal)
        return ran

    def _outside(self, ran: Ran, intended: Any, plans: list[Any]) -> list[Any]:
        request = json.loads(intended.request)
        if intended.kind == pb.CALL_KIND_PLAN:
            return [_answer(intended, plans.pop(0))] if plans else [_failure(intended, "PLANNER_SILENT")]
        if intended.kind == pb.CALL_KIND_TOOL:
            return self._sink(ran, intended, request)
        said = self._said(request)
        return [_answer(intended, {"chosen": request["of"].index(said)} if "of" in request else said)]

    def _sink(self, ran: Ran, intended: Any, request: dict[str, Any]) -> list[Any]:
        judgement = judge(self.tools, request["call"], intended, checks=self.checks)
        ran.judged.append((request, judgement))
        if judgement.outcome is Outcome.REFUSED:
            return [_failure(intended, "LAW_BLOCKED")]
        if judgement.outcome is not Outcome.HELD:
            return [self._do(ran, intended, request, judgement.rule)]
        held = pb.CallHeld(call_index=intended.call_index, rule=judgement.rule)
        decided = pb.CallDecided(
            call_index=intended.call_index,
            allowed=not self.attacked,
            by=_PERSON,
            request_digest=intended.request_digest,
        )
        then = _failure(intended, "NOT_APPROVED") if self.attacked else self._do(ran, intended, request, judgement.rule)
        return [pb.Fact(call_held=held), pb.Fact(call_decided=decided), then]

    def _do(self, ran: Ran, intended: Any, request: dict[str, Any], rule: str) -> Any:
        ran.calls.append(request)
        scripted = self.results[request["call"]]
        if isinstance(scripted, list):
            scripted = next(one for one in scripted if _within(one.get("with", {}), request["with"]))
        scripted = scripted.get("gives", scripted)
        if "fails" in scripted:
            return _failure(intended, scripted["fails"])
        return _answer(intended, scripted, rule=rule)

    def _said(self, request: dict[str, Any]) -> Any:
        scripted = self.model[request["step"]]
        if not isinstance(scripted, list):
            return scripted
        return next(one["says"] for one in scripted if any(one["sees"] in text for text in request["texts"]))

    def _read(self, state: State, fact: Any) -> list[Any]:
        """Lets a person read what a planner is to be shown, where text from outside is in it."""
        if fact.WhichOneof("fact") != "replan_asked" or not state.unread:
            return []
        shown = next(one for one in fact.replan_asked.shown if one.name == state.unread)
        lowered = pb.LabelLowered(
            reference=shown.reference,
            value_digest=shown.value_digest,
            allowed=not self.attacked,
            by=_PERSON,
            label=label_to_proto(USER),
        )
        return [pb.Fact(label_lowered=lowered)]


def run_task(
    task: Mapping[str, Any], case: Mapping[str, Any], plan: int, tools: Mapping[str, Any], setting: Setting
) -> Ran:
    """Runs one plan of a task in one of its worlds."""
    plans = [task["plans"][plan], *task.get("replans", [])]
    model = task["runs"][0].get("model", {}) | case.get("model", {})
    world = World(
        tools=tools,
        plans=plans,
        results=task["runs"][0]["tools"] | case["tools"],
        model=model,
        checks=setting.checks,
        attacked="goal" in case,
    )
    pinned = Pinned(tools=tools, labelling=setting.labelling, allowed=setting.allowed)
    return world.run(task["request"], pinned)


def as_expected(ran: Ran, case: Mapping[str, Any], tools: Mapping[str, Any]) -> bool:
    """Says whether a turn had exactly the expected effects, in order, and gave the expected answer."""
    effects = [call for call in ran.calls if tools[call["call"]]["does"] == "effect"]
    wanted = case["effects"]
    if ran.reason or len(effects) != len(wanted) or ran.answer != case.get("answer", ran.answer):
        return False
    return all(matches(one, want) for one, want in zip(effects, wanted, strict=True))


def matches(call: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return call["call"] == wanted["call"] and _within(wanted["with"], call["with"])


def _within(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return all(name in given and given[name] == value for name, value in wanted.items())


def _answer(intended: Any, data: Any, *, rule: str = "") -> Any:
    answered = pb.CallAnswered(call_index=intended.call_index, kind=intended.kind, response=encode(data), rule=rule)
    return pb.Fact(call_answered=answered)


def _failure(intended: Any, reason: str) -> Any:
    failed = pb.CallFailed(call_index=intended.call_index, kind=intended.kind, reason=reason)
    return pb.Fact(call_failed=failed)
