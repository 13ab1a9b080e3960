"""Proto to domain and back, pure."""

from collections.abc import Sequence
from typing import Final

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, inference_service_pb2
from services.inference.domain.answer import (
    Answer,
    Continued,
    Restarted,
    RouteChoice,
    StopReason,
    StreamEvent,
    TextDelta,
)
from services.inference.domain.deployment import DEFAULT
from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import (
    DEFAULT_OUTPUT_TOKENS,
    Prompt,
    ReasoningEffort,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
)
from services.inference.domain.prompt_limits import checked_prompt
from services.inference.usecases.embed import Vectors
from services.meshkit.content import CallKey, Message
from services.meshkit.content.proto import (
    call_id_from_proto,
    message_from_proto,
    parts_to_proto,
    struct_to_dict,
    usage_to_proto,
)
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal

_STOP_REASONS: Final = {
    StopReason.STOP: generation_pb2.STOP_REASON_STOP,
    StopReason.LENGTH: generation_pb2.STOP_REASON_LENGTH,
    StopReason.TOOL_CALLS: generation_pb2.STOP_REASON_TOOL_CALLS,
    StopReason.CONTENT_FILTER: generation_pb2.STOP_REASON_CONTENT_FILTER,
    StopReason.REFUSAL: generation_pb2.STOP_REASON_REFUSAL,
}
_TOOL_CHOICE_MODES: Final = {
    generation_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: ToolChoiceMode.AUTO,
    generation_pb2.TOOL_CHOICE_MODE_AUTO: ToolChoiceMode.AUTO,
    generation_pb2.TOOL_CHOICE_MODE_NONE: ToolChoiceMode.NONE,
    generation_pb2.TOOL_CHOICE_MODE_REQUIRED: ToolChoiceMode.REQUIRED,
    generation_pb2.TOOL_CHOICE_MODE_TOOL: ToolChoiceMode.TOOL,
}
_EFFORTS: Final = {
    generation_pb2.REASONING_EFFORT_UNSPECIFIED: None,
    generation_pb2.REASONING_EFFORT_MINIMAL: ReasoningEffort.MINIMAL,
    generation_pb2.REASONING_EFFORT_LOW: ReasoningEffort.LOW,
    generation_pb2.REASONING_EFFORT_MEDIUM: ReasoningEffort.MEDIUM,
    generation_pb2.REASONING_EFFORT_HIGH: ReasoningEffort.HIGH,
}

#: Calls that are acknowledged at once.
_MOST_ACKNOWLEDGED: Final = 256

GenerateLike = inference_service_pb2.GenerateRequest | inference_service_pb2.StreamGenerateRequest
HasPrompt = GenerateLike | inference_service_pb2.CountTokensRequest


def acknowledged_from_proto(calls: Sequence[content_pb2.CallId], principal: Principal) -> list[CallKey]:
    """Reads which calls of its run a caller has made durable. Raises: Invalid, naming the field."""
    if len(calls) > _MOST_ACKNOWLEDGED:
        raise Invalid("acknowledged", f"must name at most {_MOST_ACKNOWLEDGED} calls")
    for index, call in enumerate(calls):
        if call.run_id != principal.run_id:
            raise Invalid(f"acknowledged[{index}].run_id", "must be the run that the token is for")
        if "\x00" in call.path:
            raise Invalid(f"acknowledged[{index}].path", "must not hold NUL")
    return [CallKey(tenant=principal.tenant, call_id=call_id_from_proto(call)) for call in calls]


def prompt_of(request: GenerateLike) -> Prompt:
    """Reads and checks a prompt.

    Raises: Invalid, naming the field.
    """
    prompt = Prompt(
        messages=_messages(request),
        tools=_tools(request),
        max_output_tokens=request.max_output_tokens or DEFAULT_OUTPUT_TOKENS,
        temperature=request.temperature if request.HasField("temperature") else None,
        stop_sequences=tuple(request.stop_sequences),
        tool_choice=_tool_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls if request.HasField("parallel_tool_calls") else None,
        output_format=_output_format(request.output_format),
        sampling=_sampling(request.sampling),
    )
    return checked_prompt(prompt)


def counted_prompt_of(request: inference_service_pb2.CountTokensRequest) -> Prompt:
    """Reads and checks a prompt that is only to be counted.

    Raises: Invalid, naming the field.
    """
    return checked_prompt(
        Prompt(messages=_messages(request), tools=_tools(request), output_format=_output_format(request.output_format))
    )


def _messages(request: HasPrompt) -> tuple[Message, ...]:
    return tuple(
        message_from_proto(message, field=f"messages[{index}]") for index, message in enumerate(request.messages)
    )


def _tools(request: HasPrompt) -> tuple[ToolDefinition, ...]:
    return tuple(
        ToolDefinition(
            name=tool.name,
            description=tool.description,
            input_schema=struct_to_dict(tool.input_schema, field=f"tools[{index}].input_schema"),
        )
        for index, tool in enumerate(request.tools)
    )


def _tool_choice(message: generation_pb2.ToolChoice) -> ToolChoice:
    mode = _TOOL_CHOICE_MODES.get(message.mode)
    if mode is None:
        raise Invalid("tool_choice.mode", "is none that is known here")
    return ToolChoice(mode=mode, name=message.name)


def _output_format(message: generation_pb2.OutputFormat) -> OutputFormat:
    match message.WhichOneof("kind"):
        case "json_object":
            return OutputFormat(kind=OutputKind.JSON_OBJECT)
        case "json_schema":
            wanted = message.json_schema
            schema = struct_to_dict(wanted.schema, field="output_format.json_schema.schema")
            return OutputFormat(kind=OutputKind.JSON_SCHEMA, name=wanted.name, schema=schema, strict=wanted.strict)
        case _:
            return OutputFormat()


def _sampling(message: generation_pb2.Sampling) -> Sampling:
    if message.reasoning_effort not in _EFFORTS:
        raise Invalid("sampling.reasoning_effort", "is none that is known here")
    return Sampling(
        top_p=message.top_p if message.HasField("top_p") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        seed=message.seed if message.HasField("seed") else None,
        frequency_penalty=message.frequency_penalty if message.HasField("frequency_penalty") else None,
        presence_penalty=message.presence_penalty if message.HasField("presence_penalty") else None,
        reasoning_effort=_EFFORTS[message.reasoning_effort],
    )


def model_of(name: str) -> str:
    """Reads the name of a model; empty means the chain."""
    if len(name) > 256:
        raise Invalid("model", "must be at most 256 characters; ListModels names those that exist")
    return name or DEFAULT


def generation_to_proto(answer: Answer) -> generation_pb2.Generation:
    """Writes an answer."""
    return generation_pb2.Generation(
        parts=parts_to_proto(answer.parts),
        stop_reason=_STOP_REASONS[answer.stop_reason],
        usage=usage_to_proto(answer.usage),
        provider=answer.provider,
        model=answer.model,
        hold_id=answer.hold_id,
        cost_nano_usd=answer.cost_nano_usd,
        verdict_ids=answer.verdict_ids,
        bundle_digest=answer.bundle_digest,
        rules=[
            generation_pb2.RuleOutcome(rule=rule.rule, status=rule.status, elapsed_us=rule.elapsed_us, stage=rule.stage)
            for rule in answer.rules
        ],
        provider_us=answer.provider_us,
        stub=answer.stub,
        replayed=answer.replayed,
        failed_attempts=answer.failed_attempts,
        attempts=[
            generation_pb2.Attempt(
                deployment=one.deployment,
                version=one.version,
                hold_id=one.hold_id,
                reason=one.reason,
                usage_known=one.usage_known,
                provider_us=one.provider_us,
            )
            for one in answer.attempts
        ],
        deployment=answer.deployment,
        deployment_version=answer.deployment_version,
        cached=answer.cached,
        cache_similarity=answer.cache_similarity,
        lost_attempts=answer.lost_attempts,
        repairs=answer.repairs,
        continued_by=answer.continued_by,
        first_byte_us=answer.first_byte_us,
        choice=_choice(answer.choice),
    )


def _choice(choice: RouteChoice | None) -> generation_pb2.RouteChoice | None:
    if choice is None:
        return None
    return generation_pb2.RouteChoice(
        route=choice.route, mode=choice.mode, tier=choice.tier, keeps_sla=choice.keeps_sla
    )


def event_to_proto(event: StreamEvent, sequence: int) -> inference_service_pb2.StreamGenerateResponse:
    """Writes an event of a stream."""
    match event:
        case TextDelta(text):
            return inference_service_pb2.StreamGenerateResponse(sequence=sequence, text_delta=text)
        case Restarted(deployment):
            return inference_service_pb2.StreamGenerateResponse(sequence=sequence, restarted_by=deployment)
        case Continued(deployment):
            return inference_service_pb2.StreamGenerateResponse(sequence=sequence, continued_by=deployment)
        case Answer():
            generation = generation_to_proto(event)
            return inference_service_pb2.StreamGenerateResponse(sequence=sequence, generation=generation)


def item_to_proto(event: StreamEvent) -> inference_service_pb2.BatchGenerateResponse.Item:
    """Writes an event of a call on a batch stream."""
    match event:
        case TextDelta(text):
            return inference_service_pb2.BatchGenerateResponse.Item(text_delta=text)
        case Restarted(deployment):
            return inference_service_pb2.BatchGenerateResponse.Item(restarted_by=deployment)
        case Continued(deployment):
            return inference_service_pb2.BatchGenerateResponse.Item(continued_by=deployment)
        case Answer():
            return inference_service_pb2.BatchGenerateResponse.Item(generation=generation_to_proto(event))


def vectors_to_proto(made: Vectors) -> inference_service_pb2.EmbedResponse:
    """Writes vectors."""
    return inference_service_pb2.EmbedResponse(
        embeddings=[generation_pb2.Embedding(values=vector) for vector in made.vectors],
        model=made.model,
        usage=usage_to_proto(made.usage),
    )
