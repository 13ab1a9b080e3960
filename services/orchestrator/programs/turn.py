"""One turn of one agent: recall, ask the model, call the tools it asks for, remember.

    StepStarted ─▶ describe tools ─▶ recall ─▶ generate ─▶ remember ─▶ CompleteStep
                   (if it has any)              │    ▲
                                                ▼    │
                                              tool calls

Law and money are inside each callee; their ids come back with the answers and go into the turn. Each call is
journalled as intended and as answered before the next one may start.
"""

from dataclasses import dataclass, field
from typing import Final

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import journal_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Label, join
from services.meshkit.content.proto import label_from_proto, label_to_proto
from services.orchestrator.programs.commands import Command, FailStep, MakeCall
from services.orchestrator.programs.output_schema import OutputBreaksSchema
from services.orchestrator.programs.prompting import render_prompt
from services.orchestrator.programs.speaking import Speaking, TurnInputs, label_of, text_of

VERSION: Final = 1
_DEFAULT_TOOL_CALLS: Final = 4


@dataclass(slots=True, kw_only=True)
class TurnState(Speaking):
    """Where a turn is. Changed by `decide` only."""

    #: Tool calls that the model asked for and that are still to be made.
    waiting: list[content_pb2.ToolCallPart] = field(default_factory=list[content_pb2.ToolCallPart])
    tool_calls_left: int = 0
    #: True once the model was told that its tool calls are used up.
    told_of_limit: bool = False


def begin(
    inputs: TurnInputs, entry: journal_pb2.JournalEntry, *, first_call: int = 0
) -> tuple[TurnState, tuple[Command, ...]]:
    """Starts a turn from its StepStarted fact.

    Args:
        first_call: number of calls that earlier attempts of the step have made.
    """
    state = TurnState(path=entry.path, inputs=inputs, calls_made=first_call)
    state.open(entry)
    if inputs.agent.tools:
        state.tool_calls_left = inputs.agent.max_tool_calls or _DEFAULT_TOOL_CALLS
        return state, (state.describe_tools(),)
    return state, (_begin_to_speak(state),)


def waits_for(_state: TurnState, _signal: journal_pb2.SignalReceived) -> bool:
    """Says whether a signal is for this turn: it waits for nobody but whom it calls."""
    return False


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
            state.remembered(memory_service_pb2.RememberResponse.FromString(answer.response))
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
    if state.recalls:
        return state.recall()
    _take_recall(state, memory_service_pb2.RecallResponse())
    return _generate(state)


def _take_recall(state: TurnState, recalled: memory_service_pb2.RecallResponse) -> None:
    """Renders the prompt from what was recalled; the label of the prompt is the join of all that it shows."""
    inputs, recent = state.inputs, state.heard(recalled)
    state.label = join(
        [inputs.label]
        + [said.label for said in recent]
        + [label_from_proto(part.label) for match in recalled.semantic for part in match.memory.parts]
    )
    scene = state.scene(recent, (text_of(match.memory.parts) for match in recalled.semantic))
    state.show(render_prompt(inputs.prompts, inputs.prompt_file, scene), recent, recalled)


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
    return state.call(journal_pb2.CALL_KIND_GENERATE, request)


def _on_generation(state: TurnState, generation: generation_pb2.Generation) -> tuple[Command, ...]:
    state.spend(generation)
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
    state.label = join([state.label, label_of(generation.parts)])
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
    return state.call(journal_pb2.CALL_KIND_TOOL, request)


def _on_tool_result(state: TurnState, invocation: tool_service_pb2.Invocation) -> tuple[Command, ...]:
    state.spend_on_tool(invocation)
    label = label_of(invocation.parts) if invocation.parts else state.label
    return _answer_tool(state, text_of(invocation.parts), failed=invocation.failed, label=label)


def _answer_tool(state: TurnState, text: str, *, failed: bool, label: Label) -> tuple[Command, ...]:
    """Hands a result to the model: the next tool call it asked for, or the model itself, comes next."""
    asked = state.waiting.pop(0)
    state.tool_calls_left -= 1
    state.label = join([state.label, label])
    result = content_pb2.ToolResultPart(tool_call_id=asked.tool_call_id, name=asked.name, text=text, failed=failed)
    part = content_pb2.Part(tool_result=result, label=label_to_proto(label))
    state.messages.append(content_pb2.Message(role=content_pb2.MESSAGE_ROLE_TOOL, parts=[part]))
    state.used(asked.name, asked.arguments, text, failed=failed)
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
            state.output = state.inputs.output_schema.read(text_of(generation.parts))
        except OutputBreaksSchema as error:
            return FailStep(path=state.path, reason=error.reason, message=str(error))
    return state.remember(generation.parts)


def _complete(state: TurnState, entry: journal_pb2.JournalEntry) -> Command:
    return state.complete(entry, state.generation.parts if state.generation else ())
