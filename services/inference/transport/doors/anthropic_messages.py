"""`/v1/messages`: requests of Anthropic's dialect. Pure.

Source: the Anthropic API reference.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

import msgspec

from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import (
    Prompt,
    ReasoningEffort,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
    checked_prompt,
)
from services.inference.transport.doors.bodies import UnknownField, read
from services.inference.transport.doors.labels import BROUGHT, SAID
from services.meshkit.content import (
    DocumentPart,
    ImagePart,
    Label,
    Message,
    MessageRole,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_part,
)
from services.meshkit.core.errors import Invalid

#: Bytes that count as one token where no provider has counted yet.
_BYTES_PER_TOKEN: Final = 4
#: What providers are told that a schema is called; the dialect has no name for it.
_SCHEMA_NAME: Final = "answer"


class ThreadUnsupported(UnknownField):
    """Conversations are not kept here. The clients know this refusal, and send the whole conversation instead."""

    reason = "THREAD_UNSUPPORTED"

    def __init__(self) -> None:
        super().__init__("thread")


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _CacheControl(_Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class _Block(_Strict):
    # A hint to the provider: taken, and not passed on.
    cache_control: _CacheControl | None = None


class _Text(_Block, tag_field="type", tag="text", kw_only=True):
    text: str
    citations: None = None


class _Base64(_Strict, tag_field="type", tag="base64"):
    media_type: str
    data: str


class _PlainText(_Strict, tag_field="type", tag="text"):
    media_type: Literal["text/plain"]
    data: str


class _Image(_Block, tag_field="type", tag="image", kw_only=True):
    source: _Base64


class _Document(_Block, tag_field="type", tag="document", kw_only=True):
    source: _Base64 | _PlainText
    title: str | None = None
    context: None = None
    citations: None = None


class _ToolUse(_Block, tag_field="type", tag="tool_use", kw_only=True):
    id: str
    name: str
    input: dict[str, Any]
    # Clients send back what they were sent.
    caller: Any = None


class _ToolResult(_Block, tag_field="type", tag="tool_result", kw_only=True):
    tool_use_id: str
    content: str | list[_Text] | None = None
    is_error: bool | None = None


class _Message(_Strict):
    role: Literal["user", "assistant"]
    content: str | list[_Text | _Image | _Document | _ToolUse | _ToolResult]


class _Tool(_Block, kw_only=True):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    # How its call comes; here it comes whole, and from the model itself.
    eager_input_streaming: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None


class _ToolChoice(_Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Metadata(_Strict):
    user_id: str | None = None


class _Thinking(_Strict):
    type: Literal["disabled"]


class _JsonSchema(_Strict, tag_field="type", tag="json_schema"):
    schema: dict[str, Any]


class _OutputConfig(_Strict):
    format: _JsonSchema | None = None
    effort: Literal["low", "medium", "high"] | None = None


class CountRequest(_Block, kw_only=True):
    """A prompt that is to be counted."""

    model: str
    messages: list[_Message]
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    # Where a provider keeps the conversation.
    thread: dict[str, Any] | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """A request."""

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


Request = TypeVar("Request", bound=CountRequest)
_REQUESTS: Final = msgspec.json.Decoder(MessagesRequest)
_COUNTS: Final = msgspec.json.Decoder(CountRequest)
_CHOICES: Final = {
    "auto": ToolChoiceMode.AUTO,
    "any": ToolChoiceMode.REQUIRED,
    "tool": ToolChoiceMode.TOOL,
    "none": ToolChoiceMode.NONE,
}
#: What our checks call fields that the dialect calls otherwise.
_FIELDS: Final = {"max_output_tokens": "max_tokens", "output_format.json_schema": "output_config.format"}


def messages_request(body: bytes) -> MessagesRequest:
    """Reads a request.

    Raises: UnknownField, Invalid, naming the field.
    """
    return _stateless(read(body, _REQUESTS))


def count_request(body: bytes) -> CountRequest:
    """Reads a request to count. Raises: as `messages_request`."""
    return _stateless(read(body, _COUNTS))


def _stateless(asked: Request) -> Request:
    if asked.thread is not None:
        raise ThreadUnsupported
    return asked


def prompt_of(asked: CountRequest) -> Prompt:
    """Gives the prompt of a request.

    Raises: Invalid, naming the field as the dialect does.
    """
    choice, config = asked.tool_choice, asked.output_config or _OutputConfig()
    parallel = None if choice is None or not choice.disable_parallel_tool_use else False
    prompt = Prompt(
        messages=tuple(_messages(asked)),
        tools=tuple(
            ToolDefinition(name=tool.name, description=tool.description or "", input_schema=tool.input_schema)
            for tool in asked.tools or ()
        ),
        tool_choice=ToolChoice() if choice is None else ToolChoice(mode=_CHOICES[choice.type], name=choice.name),
        parallel_tool_calls=parallel,
        output_format=_output_format(config.format),
    )
    if isinstance(asked, MessagesRequest):
        prompt = replace(
            prompt,
            max_output_tokens=asked.max_tokens,
            temperature=asked.temperature,
            stop_sequences=tuple(asked.stop_sequences or ()),
            sampling=Sampling(
                top_p=asked.top_p,
                top_k=asked.top_k,
                reasoning_effort=None if config.effort is None else ReasoningEffort(config.effort),
            ),
        )
    try:
        return checked_prompt(prompt)
    except Invalid as refused:
        field = refused.field or "body"
        for ours, theirs in _FIELDS.items():
            field = field.replace(ours, theirs)
        raise Invalid(field, refused.sentence, **refused.metadata) from refused


def _output_format(wanted: _JsonSchema | None) -> OutputFormat:
    if wanted is None:
        return OutputFormat()
    return OutputFormat(kind=OutputKind.JSON_SCHEMA, name=_SCHEMA_NAME, schema=wanted.schema, strict=True)


def estimated_tokens(prompt: Prompt) -> int:
    """Gives about how many tokens a prompt has, as long as nobody has counted them."""
    size = sum(len(tool.schema_json()) + len(tool.name) + len(tool.description) for tool in prompt.tools)
    for part in prompt.parts:
        match part.content:
            case TextPart(text) | ToolResultPart(text=text):
                size += len(text.encode("utf-8", "surrogatepass"))
            case ToolCallPart(name=name, arguments=arguments):
                size += len(name) + len(msgspec.json.encode(dict(arguments)))
            case _:
                continue
    return max(1, -(-size // _BYTES_PER_TOKEN))


def _messages(asked: CountRequest) -> Iterator[Message]:
    if asked.system:
        yield Message(role=MessageRole.SYSTEM, parts=_texts(asked.system))
    names: dict[str, str] = {}
    told = False
    for index, message in enumerate(asked.messages):
        place = f"messages[{index}]"
        blocks = [_Text(text=message.content)] if isinstance(message.content, str) else message.content
        if not blocks:
            raise Invalid(f"{place}.content", "must hold at least one part")
        if message.role == "assistant":
            label = BROUGHT if told else SAID
            parts = tuple(_answer_part(block, label, f"{place}.content") for block in blocks)
            names.update(
                (part.content.tool_call_id, part.content.name)
                for part in parts
                if isinstance(part.content, ToolCallPart)
            )
            yield Message(role=MessageRole.ASSISTANT, parts=parts)
            continue
        results = tuple(_result(block, names) for block in blocks if isinstance(block, _ToolResult))
        if results:
            told = True
            yield Message(role=MessageRole.TOOL, parts=results)
        rest = tuple(
            _question_part(block, f"{place}.content") for block in blocks if not isinstance(block, _ToolResult)
        )
        if rest:
            yield Message(role=MessageRole.USER, parts=rest)


def _texts(content: str | list[_Text]) -> tuple[Part, ...]:
    texts = [content] if isinstance(content, str) else [block.text for block in content]
    return tuple(text_part(text, SAID) for text in texts)


def _answer_part(block: _Text | _Image | _Document | _ToolUse | _ToolResult, label: Label, place: str) -> Part:
    match block:
        case _Text(text=text):
            return text_part(text, label)
        case _ToolUse():
            return Part(ToolCallPart(tool_call_id=block.id, name=block.name, arguments=block.input), label)
        case _:
            raise Invalid(place, "of the assistant holds text and tool_use only")


def _question_part(block: _Text | _Image | _Document | _ToolUse | _ToolResult, place: str) -> Part:
    match block:
        case _Text(text=text):
            return text_part(text, SAID)
        case _Image(source=source):
            return Part(ImagePart(media_type=source.media_type, data=_decoded(source, place)), SAID)
        case _Document(source=_PlainText(data=data), title=title):
            return Part(DocumentPart(media_type="text/plain", data=data.encode(), title=title or ""), SAID)
        case _Document(source=_Base64() as source, title=title):
            data = _decoded(source, place)
            return Part(DocumentPart(media_type=source.media_type, data=data, title=title or ""), SAID)
        case _:
            raise Invalid(place, "of the user holds no tool_use")


def _decoded(source: _Base64, place: str) -> bytes:
    try:
        return base64.b64decode(source.data, validate=True)
    except binascii.Error as error:
        raise Invalid(f"{place}.source.data", f"is no base64: {error}") from error


def _result(block: _ToolResult, names: Mapping[str, str]) -> Part:
    content = block.content or ""
    text = content if isinstance(content, str) else "\n".join(part.text for part in content)
    result = ToolResultPart(
        tool_call_id=block.tool_use_id,
        name=names.get(block.tool_use_id, ""),
        text=text,
        failed=bool(block.is_error),
    )
    return Part(result, BROUGHT)
