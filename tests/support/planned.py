"""Planned turns without a server: the tasks of decision 0010 as sessions of an agent, and a world that answers."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import agent_pb2, journal_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Integrity, Label
from services.meshkit.content.proto import label_from_proto, label_to_proto
from services.orchestrator.engine.facts import advance
from services.orchestrator.programs.run import RunState
from services.orchestrator.programs.values import from_struct, to_value
from tests.support.sessions import a_generation, a_start, an_agent
from tests.support.workflows import PROGRAMS

_FOLDER: Final = Path(__file__).parents[2] / "docs" / "decisions" / "0010-planned-turns"
_OPTION: Final = re.compile(r"^(\d+): (.*)$", re.MULTILINE)


class CallFails(Exception):
    """What a service refuses."""

    def __init__(self, reason: str) -> None:
        super().__init__("refused")
        self.reason = reason


@cache
def tasks() -> Sequence[dict[str, Any]]:
    """Reads the tasks of the decision; a plan that says nothing at its end says that it is done."""
    found = [task for file in sorted((_FOLDER / "tasks").glob("*.yaml")) for task in yaml.safe_load(file.read_text())]
    for task in found:
        task["plans"] = [_whole(plan) for plan in task["plans"]]
        task["replans"] = [_whole(plan) for plan in task.get("replans", [])]
    return found


@cache
def _tools() -> Mapping[str, Mapping[str, Any]]:
    found = yaml.safe_load((_FOLDER / "tools.yaml").read_text())
    return {_name(tool): definition for tool, definition in found.items()}


def tool_names() -> list[str]:
    """Names the tools of the tasks as this mesh would."""
    return list(_tools())


def a_planner(*, tools: Sequence[str] | None = None, max_tool_calls: int = 0) -> agent_pb2.Agent:
    """Builds an agent that plans."""
    return an_agent(
        "Planner",
        tools=tool_names() if tools is None else tools,
        max_tool_calls=max_tool_calls,
        planning=agent_pb2.AGENT_PLANNING_PLANNED,
    )


@dataclass(slots=True, kw_only=True)
class PlannedWorld:
    """Answers what a planned turn asks for, from scripts."""

    #: Answers of the planner, in order: JSON, or text as it is.
    plans: list[Any]
    #: What each tool answers: a result, `{fails: REASON}`, or a list of `{with:, gives:}`.
    results: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: What the model without tools answers, by the name of the step.
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: Integrity of what tools answer.
    integrity: Integrity = Integrity.UNTRUSTED
    recalled: memory_service_pb2.RecallResponse = field(default_factory=memory_service_pb2.RecallResponse)
    #: What a person says who is asked to read: None for nobody.
    lets_pass: bool | None = True
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    prompts: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def answer(self, call: journal_pb2.CallIntended) -> Message:
        """Answers a call. Raises: CallFails."""
        match call.kind:
            case journal_pb2.CALL_KIND_DESCRIBE_TOOLS:
                tools = [tool_service_pb2.Tool(name=name, version="1.0.0") for name in tool_names()]
                return tool_service_pb2.ListToolsResponse(tools=tools)
            case journal_pb2.CALL_KIND_RECALL:
                return self.recalled
            case journal_pb2.CALL_KIND_REMEMBER:
                return memory_service_pb2.RememberResponse()
            case journal_pb2.CALL_KIND_TOOL:
                return self._tool(tool_service_pb2.InvokeToolRequest.FromString(call.request))
            case _:
                return self._model(call, inference_service_pb2.StreamGenerateRequest.FromString(call.request))

    def _tool(self, request: tool_service_pb2.InvokeToolRequest) -> Message:
        name, given = request.name.partition("@")[0], from_struct(request.arguments)
        self.calls.append((name, given))
        scripted = self.results.get(name, {"fails": "NOT_SCRIPTED"})
        if isinstance(scripted, list):
            fits = (one for one in scripted if _holds(given, one.get("with", {})))
            scripted = next(fits, {"fails": "NOT_SCRIPTED"})
        scripted = scripted.get("gives", scripted) if isinstance(scripted, dict) else scripted
        if isinstance(scripted, dict) and "fails" in scripted:
            raise CallFails(scripted["fails"])
        text = scripted if isinstance(scripted, str) else json.dumps(scripted)
        label = label_from_proto(request.choice_label).joined(
            Label(integrity=self.integrity, sources=frozenset({f"tool:{name}"}))
        )
        part = content_pb2.Part(text=content_pb2.TextPart(text=text), label=label_to_proto(label))
        return tool_service_pb2.Invocation(parts=[part], tool=request.name, cost_nano_usd=7)

    def _model(self, call: journal_pb2.CallIntended, request: inference_service_pb2.StreamGenerateRequest) -> Message:
        prompt = request.messages[-1].parts[0].text.text
        self.prompts.append((call.kind, prompt))
        if call.kind == journal_pb2.CALL_KIND_PLAN:
            if not self.plans:
                raise CallFails("PLANNER_SILENT")
            plan = self.plans.pop(0)
            return a_generation(plan if isinstance(plan, str) else json.dumps(plan))
        says = self.model.get(call.place.rpartition("/")[2], "I do not know")
        if isinstance(says, list):
            says = next((one["says"] for one in says if one["sees"] in prompt), "I do not know")
        if call.kind == journal_pb2.CALL_KIND_CHOOSE:
            says = next((int(number) for number, option in _OPTION.findall(prompt) if option == str(says)), -1)
        return a_generation(says if isinstance(says, str) else json.dumps(says))


def play_planned(
    world: PlannedWorld,
    *,
    request: str = "Do it.",
    agent: agent_pb2.Agent | None = None,
    started: journal_pb2.RunStarted | None = None,
) -> list[journal_pb2.JournalEntry]:
    """Plays one turn of an agent that plans, to its end or to where it waits; gives every fact.

    Args:
        started: another run that has such a turn.
    """
    first = started or a_start(agent or a_planner(), max_rounds=1, topic=request)
    state = RunState(programs=PROGRAMS)
    state, facts = advance(state, [journal_pb2.JournalEntry(run_started=first)], Timestamp())
    journal, second = list(facts), 0
    while True:
        outside = list(_outside(world, facts))
        if not outside:
            return journal
        second += 1
        state, facts = advance(state, outside, Timestamp(seconds=second))
        journal += facts


def _outside(world: PlannedWorld, facts: Sequence[journal_pb2.JournalEntry]) -> Iterator[journal_pb2.JournalEntry]:
    for fact in facts:
        if fact.HasField("call_intended"):
            call = fact.call_intended
            entry = journal_pb2.JournalEntry(path=fact.path)
            entry.call_answered.call_index, entry.call_answered.kind = call.call_index, call.kind
            try:
                entry.call_answered.response = world.answer(call).SerializeToString(deterministic=True)
            except CallFails as error:
                entry.call_failed.CopyFrom(
                    journal_pb2.CallFailed(
                        call_index=call.call_index, kind=call.kind, reason=error.reason, message=str(error)
                    )
                )
            yield entry
        elif fact.HasField("replan_asked") and world.lets_pass is not None:
            for shown in fact.replan_asked.shown:
                if shown.label.integrity == content_pb2.INTEGRITY_UNTRUSTED:
                    yield has_read(shown, allowed=world.lets_pass)


def has_read(shown: journal_pb2.Shown, *, allowed: bool = True) -> journal_pb2.JournalEntry:
    """Builds the signal of a person who has read what a planner is to be shown."""
    payload = to_value({"digest": shown.value_digest.hex(), "allowed": allowed})
    signal = journal_pb2.SignalReceived(name="plan.read", payload=payload, by="user_reader")
    return journal_pb2.JournalEntry(signal_received=signal)


def world_of(task: Mapping[str, Any], case: Mapping[str, Any], plan: int = 0) -> PlannedWorld:
    """Builds the world of a task of the decision."""
    results = task["runs"][0]["tools"] | case["tools"]
    return PlannedWorld(
        plans=[task["plans"][plan], *task["replans"]],
        results={_name(tool): result for tool, result in results.items()},
        model=task["runs"][0].get("model", {}) | case.get("model", {}),
        lets_pass="goal" not in case,
    )


def effects_of(world: PlannedWorld) -> list[tuple[str, dict[str, Any]]]:
    """Picks the calls that changed something."""
    return [call for call in world.calls if _tools()[call[0]]["does"] == "effect"]


def as_expected(world: PlannedWorld, case: Mapping[str, Any]) -> bool:
    """Says whether the effects are those that a task wants, in order."""
    done = effects_of(world)
    wanted = [(_name(one["call"]), one["with"]) for one in case["effects"]]
    return len(done) == len(wanted) and all(
        call == name and _holds(given, expected) for (call, given), (name, expected) in zip(done, wanted, strict=True)
    )


def _whole(plan: list[Any]) -> list[Any]:
    steps = json.loads(re.sub(r'"call": "(\w+)\.(\w+)"', r'"call": "\1_\2"', json.dumps(plan)))
    return steps if _speaks(steps) else [*steps, {"answer": "Done."}]


def _speaks(steps: list[Any]) -> bool:
    inside = ("then", "else", "do")
    return any(
        "answer" in step or "replan" in step or any(_speaks(step.get(key, [])) for key in inside) for step in steps
    )


def _holds(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in given and given[name] == value for name, value in wanted.items())


def _name(tool: str) -> str:
    return tool.replace(".", "_")
