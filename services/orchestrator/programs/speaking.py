"""What every turn of an agent has, whether it plans or not: what it is made from, its memory, and its record."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message as ProtoMessage

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import agent_pb2, journal_pb2, session_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Confidentiality, Integrity, Label, Usage, join
from services.meshkit.content.label import BOTTOM
from services.meshkit.content.proto import label_from_proto, label_to_proto, usage_from_proto, usage_to_proto
from services.meshkit.core.ids import from_uuid
from services.orchestrator.programs.commands import PLANNED_TURN, TURN, CompleteStep, MakeCall, encoded
from services.orchestrator.programs.output_schema import OutputSchema
from services.orchestrator.programs.prompting import Said, Scene, render_system
from services.orchestrator.programs.style import confidence_of, insights_of

#: What the operator of the agent wrote.
OPERATOR: Final = Label(
    integrity=Integrity.TRUSTED, confidentiality=Confidentiality.TENANT, sources=frozenset({"operator:agent"})
)
#: A tool's result is kept in the turn up to this many characters; the journal has it whole.
_KEPT_RESULT_CHARACTERS: Final = 4_000
#: Tokens of earlier turns that a recall may bring.
_RECALL_TOKENS: Final = 3_000

_STOP_REASONS: Final[Mapping[int, str]] = {
    generation_pb2.STOP_REASON_STOP: "stop",
    generation_pb2.STOP_REASON_LENGTH: "length",
    generation_pb2.STOP_REASON_TOOL_CALLS: "tool_calls",
    generation_pb2.STOP_REASON_CONTENT_FILTER: "content_filter",
    generation_pb2.STOP_REASON_REFUSAL: "refusal",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnInputs:
    """What a turn is made from; pinned by the run, or said earlier in it."""

    #: The run it belongs to.
    run_id: str
    #: What the agent is asked about.
    topic: str
    #: Join over topic and data.
    label: Label
    #: Label of the topic, where that is known apart from the data's.
    asked_label: Label | None = None
    prompt_file: str
    agent: agent_pb2.Agent
    others: tuple[str, ...] = ()
    #: Place of the speaker among the session's agents, from 1.
    position: int = 1
    #: Place of the turn in the run, from 1.
    index: int
    round: int = 0
    max_rounds: int = 0
    #: The latest turns before this round, or before this turn where agents speak one after the other.
    said: tuple[Said, ...] = ()
    #: Turns that a fork took over and that no recall brings: they were remembered for another run.
    adopted: tuple[Said, ...] = ()
    #: What the agent is given to work on, by name.
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    #: What the answer has to hold; None: any text.
    output_schema: OutputSchema | None = None
    #: What the turn is remembered under.
    tags: tuple[str, ...] = ()
    #: Turns remembered under this are not shown: agents that speak at once do not hear each other. Empty: all are.
    unheard_tag: str = ""
    #: Turns of the run that are recalled.
    recent_turns: int
    prompts: Mapping[str, str]
    model: str


@dataclass(slots=True, kw_only=True)
class Speaking:
    """Where a turn is, as far as all turns are alike."""

    path: str
    inputs: TurnInputs
    start_seconds: float = 0.0
    calls_made: int = 0
    tools: list[tool_service_pb2.Tool] = field(default_factory=list[tool_service_pb2.Tool])
    messages: list[content_pb2.Message] = field(default_factory=list[content_pb2.Message])
    #: Join over everything that the model was shown.
    label: Label = BOTTOM
    usage: Usage = field(default_factory=Usage)
    #: The latest answer of a model.
    generation: generation_pb2.Generation | None = None
    #: What the answer holds, where it has to hold something.
    output: struct_pb2.Value | None = None
    turn: session_pb2.Turn = field(default_factory=session_pb2.Turn)

    def open(self, entry: journal_pb2.JournalEntry) -> None:
        """Begins the record of the turn at its StepStarted fact."""
        inputs, turn = self.inputs, self.turn
        self.start_seconds = _seconds(entry)
        self.label = inputs.label
        turn.turn_id = _turn_id(inputs.run_id, self.path, entry.step_started.attempt_group)
        turn.session_id = inputs.run_id
        turn.round = inputs.round
        turn.index = inputs.index
        turn.agent_name = inputs.agent.name
        turn.agent_version = inputs.agent.version
        turn.timing.start_time.CopyFrom(entry.record_time)

    def hears(self, call_index: int) -> bool:
        """Says whether a call is the one in flight: of an attempt that was given up, answers come too late."""
        return call_index == self.calls_made - 1

    def forked(self) -> None:
        """Goes on in a fork: what was said before this turn, no recall brings from here on."""
        self.inputs = replace(self.inputs, adopted=self.inputs.said or self.inputs.adopted)
        # The other run has paid for what was asked until here.
        self.usage = Usage()
        self.turn.cost.Clear()

    def call(self, kind: journal_pb2.CallKind.ValueType, request: ProtoMessage) -> MakeCall:
        """Makes the next call of the turn."""
        index = self.calls_made
        self.calls_made += 1
        return MakeCall(path=self.path, index=index, kind=kind, request=encoded(request))

    def describe_tools(self) -> MakeCall:
        """Asks for the definitions of the agent's tools."""
        names = self.inputs.agent.tools
        request = tool_service_pb2.ListToolsRequest(names=names, page_size=len(names))
        return self.call(journal_pb2.CALL_KIND_DESCRIBE_TOOLS, request)

    @property
    def recalls(self) -> bool:
        """True when there is something to recall."""
        return bool(self.inputs.recent_turns or self.inputs.agent.memory.semantic_matches)

    def recall(self) -> MakeCall:
        """Asks memory for what the agent is to be shown."""
        inputs = self.inputs
        request = memory_service_pb2.RecallRequest(
            query=inputs.topic,
            session_id=inputs.run_id,
            agent_name=inputs.agent.name,
            recent_turns=inputs.recent_turns,
            semantic_matches=inputs.agent.memory.semantic_matches,
            max_tokens=_RECALL_TOKENS,
        )
        return self.call(journal_pb2.CALL_KIND_RECALL, request)

    def heard(self, recalled: memory_service_pb2.RecallResponse) -> list[Said]:
        """Gives the earlier turns that the agent is to be shown."""
        inputs = self.inputs
        if self.turn.without_recall:
            return list(inputs.said)
        recent = [
            Said(speaker=memory.agent_name, text=text_of(memory.parts), label=label_of(memory.parts))
            for memory in recalled.recent
            if inputs.unheard_tag not in memory.tags
        ]
        return [*inputs.adopted, *recent][-inputs.recent_turns :] if inputs.adopted else recent

    def scene(self, recent: Iterable[Said], memories: Iterable[str]) -> Scene:
        """Gathers what the prompt may show."""
        inputs = self.inputs
        return Scene(
            topic=inputs.topic,
            agent=inputs.agent.name,
            others=inputs.others,
            round=inputs.round,
            max_rounds=inputs.max_rounds,
            position=inputs.position,
            recent=list(recent),
            memories=list(memories),
            data=inputs.data,
            answer_schema="" if inputs.output_schema is None else inputs.output_schema.text,
        )

    def show(self, prompt: str, recent: Iterable[Said], recalled: memory_service_pb2.RecallResponse) -> None:
        """Begins the conversation with the model, and records what it is shown."""
        inputs, turn = self.inputs, self.turn
        insights = insights_of(inputs.agent.style)
        system = render_system(
            inputs.prompts, agent=inputs.agent.name, instructions=inputs.agent.instructions, insights=insights
        )
        self.messages = [
            message_of(content_pb2.MESSAGE_ROLE_SYSTEM, system, OPERATOR),
            message_of(content_pb2.MESSAGE_ROLE_USER, prompt, self.label),
        ]
        turn.input.prompt = prompt
        turn.input.short_term.extend(f"{said.speaker}: {said.text}" for said in recent)
        for match in recalled.semantic:
            turn.input.semantic_refs.add(memory_id=match.memory.memory_id, score=match.score)
        turn.output.style_insights.extend(insights)

    def spend(self, generation: generation_pb2.Generation) -> None:
        """Takes what a model's answer cost and passed into the record."""
        self.generation = generation
        self.usage = self.usage + usage_from_proto(generation.usage)
        turn = self.turn
        turn.cost.cost_nano_usd += generation.cost_nano_usd
        turn.hold_ids.append(generation.hold_id)
        turn.verdict_ids.extend(generation.verdict_ids)
        turn.bundle_digest = generation.bundle_digest
        for rule in generation.rules:
            turn.monitors.add(name=rule.rule, status=rule.status, elapsed_ms=rule.elapsed_us / 1000, stage=rule.stage)

    def spend_on_tool(self, invocation: tool_service_pb2.Invocation) -> None:
        """Takes what a tool's answer cost and passed into the record."""
        self.turn.cost.cost_nano_usd += invocation.cost_nano_usd
        if invocation.hold_id:
            self.turn.hold_ids.append(invocation.hold_id)
        self.turn.verdict_ids.extend(invocation.verdict_ids)

    def used(self, name: str, arguments: struct_pb2.Struct, result: str, *, failed: bool) -> None:
        """Records a call of a tool."""
        self.turn.tool_uses.add(
            name=name,
            arguments_json=json.dumps(json_format.MessageToDict(arguments), sort_keys=True),
            result=result[:_KEPT_RESULT_CHARACTERS],
            failed=failed,
        )

    def remember(self, parts: Iterable[content_pb2.Part]) -> MakeCall:
        """Writes the answer to memory."""
        inputs = self.inputs
        request = memory_service_pb2.RememberRequest(
            session_id=inputs.run_id,
            agent_name=inputs.agent.name,
            parts=[part for part in parts if part.WhichOneof("kind") == "text"],
            tags=inputs.tags,
        )
        return self.call(journal_pb2.CALL_KIND_REMEMBER, request)

    def remembered(self, answer: memory_service_pb2.RememberResponse) -> None:
        """Takes what memory answered into the record."""
        self.turn.memory_id = answer.memory.memory_id
        if answer.verdict_id:
            self.turn.verdict_ids.append(answer.verdict_id)

    def complete(self, entry: journal_pb2.JournalEntry, parts: Iterable[content_pb2.Part]) -> CompleteStep:
        """Ends the turn with its answer."""
        turn = self.turn
        generation = self.generation or generation_pb2.Generation()
        turn.output.parts.extend(parts)
        turn.output.content = text_of(turn.output.parts)
        turn.output.confidence = confidence_of(turn.output.content)
        turn.output.usage.CopyFrom(usage_to_proto(self.usage))
        turn.output.stop_reason = _STOP_REASONS.get(generation.stop_reason, "stop")
        turn.output.stub = generation.stub
        turn.cost.provider = generation.provider
        turn.cost.model = generation.model
        turn.timing.end_time.CopyFrom(entry.record_time)
        turn.timing.latency.FromNanoseconds(round((_seconds(entry) - self.start_seconds) * 1e6) * 1000)
        return CompleteStep(path=self.path, turn=turn, output=self.output)


def program_of(agent: agent_pb2.Agent) -> str:
    """Names the program of an agent's turns."""
    return PLANNED_TURN if agent.planning == agent_pb2.AGENT_PLANNING_PLANNED else TURN


def message_of(role: content_pb2.MessageRole.ValueType, text: str, label: Label) -> content_pb2.Message:
    """Writes one message of a conversation."""
    part = content_pb2.Part(text=content_pb2.TextPart(text=text), label=label_to_proto(label))
    return content_pb2.Message(role=role, parts=[part])


def text_of(parts: Iterable[content_pb2.Part]) -> str:
    """Gives the text of parts, a line each."""
    return "\n".join(part.text.text for part in parts if part.WhichOneof("kind") == "text")


def label_of(parts: Iterable[content_pb2.Part]) -> Label:
    """Joins the labels of parts."""
    return join(label_from_proto(part.label) for part in parts)


def _seconds(entry: journal_pb2.JournalEntry) -> float:
    return entry.record_time.seconds + entry.record_time.nanos / 1e9


def _turn_id(run_id: str, path: str, attempt_group: int) -> str:
    """Derives the turn's id from its place, so that a replay gives the same one."""
    digest = hashlib.sha256(f"{run_id}/{path}#{attempt_group}".encode()).digest()
    return from_uuid("turn", UUID(bytes=digest[:16], version=5))
