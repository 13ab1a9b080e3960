"""One turn of one agent: recall, ask the model, call the tools it asks for, remember.

    StepStarted ─▶ describe tools ─▶ recall ─▶ generate ─▶ remember ─▶ CompleteStep
                   (if it has any)              │    ▲
                                                ▼    │
                                              tool calls

Law and money are inside each callee; their ids come back with the answers and go into the turn. Each call is
journalled as intended and as answered before the next one may start.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message as ProtoMessage

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import agent_pb2, journal_pb2, session_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Confidentiality, Integrity, Label, Usage, join
from services.meshkit.content.label import BOTTOM
from services.meshkit.content.proto import label_from_proto, label_to_proto, usage_from_proto, usage_to_proto
from services.meshkit.core.ids import from_uuid
from services.orchestrator.programs.commands import Command, CompleteStep, FailStep, MakeCall, encoded
from services.orchestrator.programs.output_schema import OutputBreaksSchema, OutputSchema
from services.orchestrator.programs.prompting import Said, Scene, render_prompt, render_system
from services.orchestrator.programs.style import confidence_of, insights_of

VERSION: Final = 1
#: What the operator of the agent wrote.
_OPERATOR: Final = Label(
    integrity=Integrity.TRUSTED, confidentiality=Confidentiality.TENANT, sources=frozenset({"operator:agent"})
)
_DEFAULT_TOOL_CALLS: Final = 4
#: A tool's result is kept in the turn up to this many characters; the model and the journal have it whole.
_KEPT_RESULT_CHARACTERS: Final = 4_000
#: Tokens of earlier turns that a recall may bring.
_RECALL_TOKENS: Final = 3_000

_STOP_REASONS: Final[Mapping[int, str]] = {
    generation_pb2.STOP_REASON_STOP: "stop",
    generation_pb2.STOP_REASON_LENGTH: "length",
    generation_pb2.STOP_REASON_TOOL_CALLS: "tool_calls",
    generation_pb2.STOP_REASON_CONTENT_FILTER: "content_filter",
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
class TurnState:
    """Where a turn is. Changed by `decide` only."""

    path: str
    inputs: TurnInputs
    start_seconds: float = 0.0
    calls_made: int = 0
    #: Tool calls that the model asked for and that are still to be made.
    waiting: list[content_pb2.ToolCallPart] = field(default_factory=list[content_pb2.ToolCallPart])
    tools: list[tool_service_pb2.Tool] = field(default_factory=list[tool_service_pb2.Tool])
    messages: list[content_pb2.Message] = field(default_factory=list[content_pb2.Message])
    label: Label = BOTTOM
    tool_calls_left: int = 0
    #: True once the model was told that its tool calls are used up.
    told_of_limit: bool = False
    usage: Usage = field(default_factory=Usage)
    generation: generation_pb2.Generation | None = None
    #: What the answer holds, where it has to hold something.
    output: struct_pb2.Value | None = None
    turn: session_pb2.Turn = field(default_factory=session_pb2.Turn)


def begin(
    inputs: TurnInputs, entry: journal_pb2.JournalEntry, *, first_call: int = 0
) -> tuple[TurnState, tuple[Command, ...]]:
    """Starts a turn from its StepStarted fact.

    Args:
        first_call: number of calls that earlier attempts of the step have made.
    """
    path = entry.path
    state = TurnState(
        path=path, inputs=inputs, start_seconds=_seconds(entry), label=inputs.label, calls_made=first_call
    )
    state.turn.turn_id = _turn_id(inputs.run_id, path, entry.step_started.attempt_group)
    state.turn.session_id = inputs.run_id
    state.turn.round = inputs.round
    state.turn.index = inputs.index
    state.turn.agent_name = inputs.agent.name
    state.turn.agent_version = inputs.agent.version
    state.turn.timing.start_time.CopyFrom(entry.record_time)
    if inputs.agent.tools:
        state.tool_calls_left = inputs.agent.max_tool_calls or _DEFAULT_TOOL_CALLS
        names = tool_service_pb2.ListToolsRequest(names=inputs.agent.tools, page_size=len(inputs.agent.tools))
        return state, (_call(state, journal_pb2.CALL_KIND_DESCRIBE_TOOLS, names),)
    return state, (_begin_to_speak(state),)


def hears(state: TurnState, call_index: int) -> bool:
    """Says whether a call is the one in flight: of an attempt that was given up, answers come too late."""
    return call_index == state.calls_made - 1


def forked(state: TurnState) -> None:
    """Goes on in a fork: what was said before this turn, no recall brings from here on."""
    state.inputs = replace(state.inputs, adopted=state.inputs.said)


def decide(state: TurnState, entry: journal_pb2.JournalEntry) -> tuple[TurnState, tuple[Command, ...]]:
    """Takes the answer or failure of the call in flight, and says what comes next."""
    if entry.WhichOneof("fact") == "call_failed":
        return state, _on_failure(state, entry)
    answer = entry.call_answered
    match answer.kind:
        case journal_pb2.CALL_KIND_DESCRIBE_TOOLS:
            state.tools = list(tool_service_pb2.ListToolsResponse.FromString(answer.response).tools)
            return state, (_begin_to_speak(state),)
        case journal_pb2.CALL_KIND_RECALL:
            _take_recall(state, memory_service_pb2.RecallResponse.FromString(answer.response))
            return state, (_generate(state),)
        case journal_pb2.CALL_KIND_GENERATE:
            return state, _on_generation(state, generation_pb2.Generation.FromString(answer.response))
        case journal_pb2.CALL_KIND_TOOL:
            return state, _on_tool_result(state, tool_service_pb2.Invocation.FromString(answer.response))
        case journal_pb2.CALL_KIND_REMEMBER:
            remembered = memory_service_pb2.RememberResponse.FromString(answer.response)
            state.turn.memory_id = remembered.memory.memory_id
            if remembered.verdict_id:
                state.turn.verdict_ids.append(remembered.verdict_id)
            return state, (_complete(state, entry),)
        case _:
            raise ValueError(f"a turn makes no call of kind {answer.kind}")


def _on_failure(state: TurnState, entry: journal_pb2.JournalEntry) -> tuple[Command, ...]:
    failure = entry.call_failed
    match failure.kind:
        case journal_pb2.CALL_KIND_RECALL if not state.inputs.agent.memory.required:
            state.turn.without_recall = True
            _take_recall(state, memory_service_pb2.RecallResponse())
            return (_generate(state),)
        case journal_pb2.CALL_KIND_REMEMBER if not state.inputs.agent.memory.required:
            return (_complete(state, entry),)
        case journal_pb2.CALL_KIND_TOOL:
            return _answer_tool(state, f"{failure.reason}: {failure.message}", failed=True, label=state.label)
        case _:
            return (FailStep(path=state.path, reason=failure.reason, message=failure.message, final=failure.final),)


def _begin_to_speak(state: TurnState) -> MakeCall:
    """Recalls what there is to recall, and else asks the model at once."""
    if state.inputs.recent_turns or state.inputs.agent.memory.semantic_matches:
        return _recall(state)
    _take_recall(state, memory_service_pb2.RecallResponse())
    return _generate(state)


def _recall(state: TurnState) -> MakeCall:
    inputs = state.inputs
    request = memory_service_pb2.RecallRequest(
        query=inputs.topic,
        session_id=inputs.run_id,
        agent_name=inputs.agent.name,
        recent_turns=inputs.recent_turns,
        semantic_matches=inputs.agent.memory.semantic_matches,
        max_tokens=_RECALL_TOKENS,
    )
    return _call(state, journal_pb2.CALL_KIND_RECALL, request)


def _take_recall(state: TurnState, recalled: memory_service_pb2.RecallResponse) -> None:
    """Renders the prompt from what was recalled; the label of the prompt is the join of all that it shows."""
    inputs = state.inputs
    shown = [memory for memory in recalled.recent if inputs.unheard_tag not in memory.tags]
    recent = [
        Said(
            speaker=memory.agent_name,
            text=_text_of(memory.parts),
            label=join(label_from_proto(part.label) for part in memory.parts),
        )
        for memory in shown
    ]
    if state.turn.without_recall:
        recent = list(inputs.said)
    elif inputs.adopted:
        recent = [*inputs.adopted, *recent][-inputs.recent_turns :]
    state.label = join(
        [inputs.label]
        + [said.label for said in recent]
        + [label_from_proto(part.label) for match in recalled.semantic for part in match.memory.parts]
    )
    scene = Scene(
        topic=inputs.topic,
        agent=inputs.agent.name,
        others=inputs.others,
        round=inputs.round,
        max_rounds=inputs.max_rounds,
        position=inputs.position,
        recent=recent,
        memories=[_text_of(match.memory.parts) for match in recalled.semantic],
        data=inputs.data,
        answer_schema="" if inputs.output_schema is None else inputs.output_schema.text,
    )
    insights = insights_of(inputs.agent.style)
    prompt = render_prompt(inputs.prompts, inputs.prompt_file, scene)
    system = render_system(
        inputs.prompts, agent=inputs.agent.name, instructions=inputs.agent.instructions, insights=insights
    )
    state.messages = [
        _message(content_pb2.MESSAGE_ROLE_SYSTEM, system, _OPERATOR),
        _message(content_pb2.MESSAGE_ROLE_USER, prompt, state.label),
    ]
    state.turn.input.prompt = prompt
    state.turn.input.short_term.extend(f"{said.speaker}: {said.text}" for said in recent)
    for match in recalled.semantic:
        state.turn.input.semantic_refs.add(memory_id=match.memory.memory_id, score=match.score)
    state.turn.output.style_insights.extend(insights)


def _generate(state: TurnState) -> MakeCall:
    agent = state.inputs.agent
    request = inference_service_pb2.StreamGenerateRequest(
        model=state.inputs.model or agent.model,
        messages=state.messages,
        tools=[
            generation_pb2.ToolDefinition(name=tool.name, description=tool.description, input_schema=tool.input_schema)
            for tool in state.tools
        ],
        max_output_tokens=agent.max_output_tokens,
        temperature=agent.temperature if agent.HasField("temperature") else None,
    )
    return _call(state, journal_pb2.CALL_KIND_GENERATE, request)


def _on_generation(state: TurnState, generation: generation_pb2.Generation) -> tuple[Command, ...]:
    state.generation = generation
    state.usage = state.usage + usage_from_proto(generation.usage)
    turn = state.turn
    turn.cost.cost_nano_usd += generation.cost_nano_usd
    turn.hold_ids.append(generation.hold_id)
    turn.verdict_ids.extend(generation.verdict_ids)
    turn.bundle_digest = generation.bundle_digest
    for rule in generation.rules:
        turn.monitors.add(name=rule.rule, status=rule.status, elapsed_ms=rule.elapsed_us / 1000, stage=rule.stage)
    asked = [part.tool_call for part in generation.parts if part.WhichOneof("kind") == "tool_call"]
    return _on_tool_wishes(state, generation, asked) if asked else (_take_answer(state, generation),)


def _on_tool_wishes(
    state: TurnState, generation: generation_pb2.Generation, asked: list[content_pb2.ToolCallPart]
) -> tuple[Command, ...]:
    """Makes the calls, or tells the model once that there are no more; then only its text counts.

    The definitions stay in the request all the while: a conversation that holds tool calls without them is refused by
    some providers.
    """
    if state.tool_calls_left == 0 and state.told_of_limit:
        if any(part.WhichOneof("kind") == "text" for part in generation.parts):
            return (_take_answer(state, generation),)
        message = "the agent asks for more tool calls than max_tool_calls allows and says nothing; raise it"
        return (FailStep(path=state.path, reason="TOOL_CALLS_EXHAUSTED", message=message),)
    state.messages.append(content_pb2.Message(role=content_pb2.MESSAGE_ROLE_ASSISTANT, parts=generation.parts))
    state.label = join([state.label] + [label_from_proto(part.label) for part in generation.parts])
    if state.tool_calls_left > 0:
        state.waiting = asked
        return (_invoke(state),)
    return _refuse(state, asked)


def _refuse(state: TurnState, asked: list[content_pb2.ToolCallPart]) -> tuple[Command, ...]:
    """Answers tool calls beyond the turn's limit, so that each has a result, and asks the model again."""
    state.told_of_limit = True
    state.messages.extend(_refusal(call, state.label) for call in asked)
    return (_generate(state),)


def _invoke(state: TurnState) -> MakeCall:
    asked = state.waiting[0]
    request = tool_service_pb2.InvokeToolRequest(
        name=asked.name, arguments=asked.arguments, choice_label=label_to_proto(state.label)
    )
    return _call(state, journal_pb2.CALL_KIND_TOOL, request)


def _on_tool_result(state: TurnState, invocation: tool_service_pb2.Invocation) -> tuple[Command, ...]:
    state.turn.cost.cost_nano_usd += invocation.cost_nano_usd
    if invocation.hold_id:
        state.turn.hold_ids.append(invocation.hold_id)
    state.turn.verdict_ids.extend(invocation.verdict_ids)
    label = join([label_from_proto(part.label) for part in invocation.parts] or [state.label])
    return _answer_tool(state, _text_of(invocation.parts), failed=invocation.failed, label=label)


def _answer_tool(state: TurnState, text: str, *, failed: bool, label: Label) -> tuple[Command, ...]:
    """Hands a result to the model: the next tool call it asked for, or the model itself, comes next."""
    asked = state.waiting.pop(0)
    state.tool_calls_left -= 1
    state.label = join([state.label, label])
    result = content_pb2.ToolResultPart(tool_call_id=asked.tool_call_id, name=asked.name, text=text, failed=failed)
    part = content_pb2.Part(tool_result=result, label=label_to_proto(label))
    state.messages.append(content_pb2.Message(role=content_pb2.MESSAGE_ROLE_TOOL, parts=[part]))
    state.turn.tool_uses.add(
        name=asked.name,
        arguments_json=json.dumps(json_format.MessageToDict(asked.arguments), sort_keys=True),
        result=text[:_KEPT_RESULT_CHARACTERS],
        failed=failed,
    )
    if state.waiting and state.tool_calls_left > 0:
        return (_invoke(state),)
    beyond, state.waiting = state.waiting, []
    return _refuse(state, beyond) if beyond else (_generate(state),)


def _refusal(asked: content_pb2.ToolCallPart, label: Label) -> content_pb2.Message:
    """Answers a tool call beyond the turn's limit, so that every call the model made has a result."""
    result = content_pb2.ToolResultPart(
        tool_call_id=asked.tool_call_id, name=asked.name, text="no more tool calls in this turn", failed=True
    )
    part = content_pb2.Part(tool_result=result, label=label_to_proto(label))
    return content_pb2.Message(role=content_pb2.MESSAGE_ROLE_TOOL, parts=[part])


def _take_answer(state: TurnState, generation: generation_pb2.Generation) -> Command:
    """Remembers the answer; one that does not hold what it should fails the turn."""
    if state.inputs.output_schema is not None:
        try:
            state.output = state.inputs.output_schema.read(_text_of(generation.parts))
        except OutputBreaksSchema as error:
            return FailStep(path=state.path, reason=error.reason, message=str(error))
    return _remember(state, generation)


def _remember(state: TurnState, generation: generation_pb2.Generation) -> MakeCall:
    inputs = state.inputs
    request = memory_service_pb2.RememberRequest(
        session_id=inputs.run_id,
        agent_name=inputs.agent.name,
        parts=[part for part in generation.parts if part.WhichOneof("kind") == "text"],
        tags=inputs.tags,
    )
    return _call(state, journal_pb2.CALL_KIND_REMEMBER, request)


def _complete(state: TurnState, entry: journal_pb2.JournalEntry) -> CompleteStep:
    turn = state.turn
    generation = state.generation or generation_pb2.Generation()
    turn.output.parts.extend(generation.parts)
    turn.output.content = _text_of(generation.parts)
    turn.output.confidence = confidence_of(turn.output.content)
    turn.output.usage.CopyFrom(usage_to_proto(state.usage))
    turn.output.stop_reason = _STOP_REASONS.get(generation.stop_reason, "stop")
    turn.output.stub = generation.stub
    turn.cost.provider = generation.provider
    turn.cost.model = generation.model
    turn.timing.end_time.CopyFrom(entry.record_time)
    turn.timing.latency.FromNanoseconds(round((_seconds(entry) - state.start_seconds) * 1e6) * 1000)
    return CompleteStep(path=state.path, turn=turn, output=state.output)


def _call(state: TurnState, kind: journal_pb2.CallKind.ValueType, request: ProtoMessage) -> MakeCall:
    index = state.calls_made
    state.calls_made += 1
    return MakeCall(path=state.path, index=index, kind=kind, request=encoded(request))


def _message(role: content_pb2.MessageRole.ValueType, text: str, label: Label) -> content_pb2.Message:
    part = content_pb2.Part(text=content_pb2.TextPart(text=text), label=label_to_proto(label))
    return content_pb2.Message(role=role, parts=[part])


def _text_of(parts: Iterable[content_pb2.Part]) -> str:
    return "\n".join(part.text.text for part in parts if part.WhichOneof("kind") == "text")


def _seconds(entry: journal_pb2.JournalEntry) -> float:
    return entry.record_time.seconds + entry.record_time.nanos / 1e9


def _turn_id(run_id: str, path: str, attempt_group: int) -> str:
    """Derives the turn's id from its place, so that a replay gives the same one."""
    digest = hashlib.sha256(f"{run_id}/{path}#{attempt_group}".encode()).digest()
    return from_uuid("turn", UUID(bytes=digest[:16], version=5))
