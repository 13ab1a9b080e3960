"""`/v1/messages`: requests of Anthropic's dialect, and answers in it. Pure.

Source: the Anthropic API reference; the contract tests read every answer with the types of the official client.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import msgspec

from services.inference.domain.answer import Answer, StopReason
from services.inference.domain.prompt import (
    Prompt,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
    checked_prompt,
)
from services.inference.transport.doors.bodies import read
from services.inference.transport.doors.labels import BROUGHT, SAID
from services.inference.transport.doors.said import text_and_calls
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
    Usage,
    text_part,
)
from services.meshkit.core.errors import Invalid

#: Bytes that count as one token where no provider has counted yet.
_BYTES_PER_TOKEN: Final = 4


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


class _ToolChoice(_Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Metadata(_Strict):
    user_id: str | None = None


class _Thinking(_Strict):
    type: Literal["disabled"]


class CountRequest(_Strict):
    """A prompt that is to be counted."""

    model: str
    messages: list[_Message]
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None


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


_REQUESTS: Final = msgspec.json.Decoder(MessagesRequest)
_COUNTS: Final = msgspec.json.Decoder(CountRequest)
_CHOICES: Final = {
    "auto": ToolChoiceMode.AUTO,
    "any": ToolChoiceMode.REQUIRED,
    "tool": ToolChoiceMode.TOOL,
    "none": ToolChoiceMode.NONE,
}
#: What our checks call fields that the dialect calls otherwise.
_FIELDS: Final = {"max_output_tokens": "max_tokens"}


def messages_request(body: bytes) -> MessagesRequest:
    """Reads a request.

    Raises: UnknownField, Invalid, naming the field.
    """
    return read(body, _REQUESTS)


def count_request(body: bytes) -> CountRequest:
    """Reads a request to count. Raises: as `messages_request`."""
    return read(body, _COUNTS)


def prompt_of(asked: CountRequest) -> Prompt:
    """Gives the prompt of a request.

    Raises: Invalid, naming the field as the dialect does.
    """
    choice = asked.tool_choice
    parallel = None if choice is None or not choice.disable_parallel_tool_use else False
    prompt = Prompt(
        messages=tuple(_messages(asked)),
        tools=tuple(
            ToolDefinition(name=tool.name, description=tool.description or "", input_schema=tool.input_schema)
            for tool in asked.tools or ()
        ),
        tool_choice=ToolChoice() if choice is None else ToolChoice(mode=_CHOICES[choice.type], name=choice.name),
        parallel_tool_calls=parallel,
    )
    if isinstance(asked, MessagesRequest):
        prompt = replace(
            prompt,
            max_output_tokens=asked.max_tokens,
            temperature=asked.temperature,
            stop_sequences=tuple(asked.stop_sequences or ()),
            sampling=Sampling(top_p=asked.top_p, top_k=asked.top_k),
        )
    try:
        return checked_prompt(prompt)
    except Invalid as refused:
        field = refused.field or "body"
        raise Invalid(_FIELDS.get(field, field), refused.sentence, **refused.metadata) from refused


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
        if rest or not results:
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


_STOPS: Final = {
    StopReason.STOP: "end_turn",
    StopReason.LENGTH: "max_tokens",
    StopReason.TOOL_CALLS: "tool_use",
    StopReason.CONTENT_FILTER: "refusal",
    StopReason.REFUSAL: "refusal",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAnswer:
    """What stands in every part of one answer."""

    id: str
    #: Model that was asked for.
    model: str
    #: About how long the prompt is, for the beginning of a stream.
    prompt_tokens: int

    def whole(self, answer: Answer) -> bytes:
        """Writes an answer that is not streamed."""
        text, calls = text_and_calls(answer)
        content: list[dict[str, object]] = [{"type": "text", "text": text}] if text else []
        content += [_written(call, dict(call.arguments)) for call in calls]
        return msgspec.json.encode(
            {
                **self._shape(answer.model or self.model),
                "content": content,
                "stop_reason": _STOPS[answer.stop_reason],
                "usage": usage(answer.usage),
            }
        )

    def beginning(self) -> bytes:
        """Writes the first event of a stream. The provider has not counted yet; the last event corrects it."""
        counted = usage(Usage(input=self.prompt_tokens))
        message = {**self._shape(self.model), "content": (), "stop_reason": None, "usage": counted}
        return event("message_start", message=message)

    def _shape(self, model: str) -> dict[str, object]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": model, "stop_sequence": None}


class MessageStream:
    """Writes one streamed answer, event by event."""

    def __init__(self, answer: MessageAnswer) -> None:
        self._answer = answer
        self._shown = ""
        self._begun = False

    def text(self, text: str) -> bytes:
        """Writes text that the law passed."""
        before = b"" if self._begun else self._answer.beginning()
        self._begun = True
        if not self._shown:
            before += event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        self._shown += text
        return before + event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def end(self, answer: Answer) -> bytes:
        """Writes what is left of the answer, why it ended, and what it used."""
        text, calls = text_and_calls(answer)
        reason, events = _STOPS[answer.stop_reason], b""
        if not text.startswith(self._shown):
            # The law took back what it had passed; what it says now cannot stand after that.
            reason = "refusal"
        elif len(text) > len(self._shown):
            events += self.text(text[len(self._shown) :])
        if not self._begun:
            events += self._answer.beginning()
        if self._shown:
            events += event("content_block_stop", index=0)
        for index, call in enumerate(calls, start=1 if self._shown else 0):
            written = msgspec.json.encode(dict(call.arguments)).decode()
            events += event("content_block_start", index=index, content_block=_written(call, {}))
            delta = {"type": "input_json_delta", "partial_json": written}
            events += event("content_block_delta", index=index, delta=delta)
            events += event("content_block_stop", index=index)
        delta = {"stop_reason": reason, "stop_sequence": None}
        events += event("message_delta", delta=delta, usage=usage(answer.usage))
        return events + event("message_stop")

    def broken(self, body: Mapping[str, object]) -> bytes:
        """Writes that it failed."""
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(body)


def event(kind: str, **fields: object) -> bytes:
    """Writes an event of a stream."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))


def usage(used: Usage) -> dict[str, object]:
    """Writes what was used: classes do not overlap here, but for reasoning, which is output."""
    return {
        "input_tokens": used.input + used.image + used.audio_in,
        "cache_creation_input_tokens": used.cache_write_5m + used.cache_write_1h,
        "cache_read_input_tokens": used.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.cache_write_5m,
            "ephemeral_1h_input_tokens": used.cache_write_1h,
        },
        "output_tokens": used.output + used.reasoning + used.audio_out,
    }


def _written(call: ToolCallPart, arguments: dict[str, object]) -> dict[str, object]:
    return {"type": "tool_use", "id": call.tool_call_id, "name": call.name, "input": arguments}
