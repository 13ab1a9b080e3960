"""`/v1/chat/completions`: requests of OpenAI's dialect, and answers in it. Pure.

Source: the OpenAI API reference; the contract tests read every answer with the types of the official client.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from services.inference.domain.answer import Answer, StopReason
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
from services.inference.transport.doors.bodies import media_of, read
from services.inference.transport.doors.labels import BROUGHT, SAID
from services.inference.transport.doors.said import text_and_calls
from services.meshkit.content import (
    Label,
    Message,
    MessageRole,
    Part,
    ToolCallPart,
    ToolResultPart,
    Usage,
    text_part,
)
from services.meshkit.core.errors import Invalid

_MOST_OUTPUT: Final = ("max_completion_tokens", "max_tokens")


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Part(_Strict):
    # A hint to the provider: taken, and not passed on.
    prompt_cache_breakpoint: dict[str, Any] | None = None


class _Text(_Part, tag_field="type", tag="text", kw_only=True):
    text: str


class _Refusal(_Strict, tag_field="type", tag="refusal"):
    refusal: str


class _Url(_Strict):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class _Image(_Part, tag_field="type", tag="image_url", kw_only=True):
    image_url: _Url


class _FileData(_Strict):
    file_data: str
    filename: str = ""


class _File(_Part, tag_field="type", tag="file", kw_only=True):
    file: _FileData


class _Function(_Strict):
    name: str
    arguments: str = ""
    # What the official client made of the arguments.
    parsed_arguments: Any = None


class _Call(_Strict):
    id: str
    function: _Function
    index: int | None = None
    type: Literal["function"] = "function"


class _System(_Strict, tag_field="role", tag="system"):
    content: str | list[_Text]
    name: str | None = None


class _Developer(_Strict, tag_field="role", tag="developer"):
    content: str | list[_Text]
    name: str | None = None


class _User(_Strict, tag_field="role", tag="user"):
    content: str | list[_Text | _Image | _File]
    name: str | None = None


class _Assistant(_Strict, tag_field="role", tag="assistant"):
    content: str | list[_Text | _Refusal] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    # Clients send back what they were sent.
    annotations: list[Any] | None = None
    parsed: Any = None
    audio: None = None
    function_call: None = None


class _Tool(_Strict, tag_field="role", tag="tool"):
    content: str | list[_Text]
    tool_call_id: str


class _FunctionDefinition(_Strict):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    # The provider checks the arguments, or the client does: nobody here relies on it.
    strict: bool | None = None


class _ToolDefinition(_Strict):
    function: _FunctionDefinition
    type: Literal["function"]


class _NamedFunction(_Strict):
    name: str


class _NamedTool(_Strict):
    type: Literal["function"]
    function: _NamedFunction


class _Schema(_Strict):
    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _AnyText(_Strict, tag_field="type", tag="text"):
    pass


class _AnyObject(_Strict, tag_field="type", tag="json_object"):
    pass


class _OfSchema(_Strict, tag_field="type", tag="json_schema"):
    json_schema: _Schema


class _StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Strict):
    """A request. What is accepted and means nothing here stands last."""

    model: str
    messages: list[_System | _Developer | _User | _Assistant | _Tool]
    tools: list[_ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: _AnyText | _AnyObject | _OfSchema | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: Literal["minimal", "low", "medium", "high"] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = None
    store: bool | None = None
    logprobs: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None


_DECODER: Final = msgspec.json.Decoder(ChatRequest)


def chat_request(body: bytes) -> ChatRequest:
    """Reads a request.

    Raises: UnknownField, Invalid, naming the field.
    """
    asked = read(body, _DECODER)
    for field, set_to in (("store", asked.store), ("logprobs", asked.logprobs)):
        if set_to:
            raise Invalid(field, "must be false; it is not supported here")
    return asked


def prompt_of(asked: ChatRequest, *, default_output: int) -> Prompt:
    """Gives the prompt of a request.

    Args:
        default_output: longest answer of a request that names no limit, tokens.
    Raises: Invalid, naming the field as the dialect does.
    """
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    prompt = Prompt(
        messages=tuple(_messages(asked)),
        tools=tuple(
            ToolDefinition(
                name=tool.function.name,
                description=tool.function.description or "",
                input_schema=tool.function.parameters or {"type": "object", "properties": {}},
            )
            for tool in asked.tools or ()
        ),
        max_output_tokens=default_output if limit is None else limit,
        temperature=asked.temperature,
        stop_sequences=tuple(stop),
        tool_choice=_tool_choice(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        output_format=_output_format(asked.response_format),
        sampling=Sampling(
            top_p=asked.top_p,
            seed=asked.seed,
            frequency_penalty=asked.frequency_penalty,
            presence_penalty=asked.presence_penalty,
            reasoning_effort=None if asked.reasoning_effort is None else ReasoningEffort(asked.reasoning_effort),
        ),
    )
    try:
        return checked_prompt(prompt)
    except Invalid as refused:
        raise _in_dialect(refused, asked) from refused


#: Names of fields, ours and the dialect's.
_FIELDS: Final = (
    (re.compile(r"^stop_sequences"), "stop"),
    (re.compile(r"^output_format"), "response_format"),
    (re.compile(r"^sampling\."), ""),
    (re.compile(r"\.parts\b"), ".content"),
    (re.compile(r"^tools\[(\d+)\]\.input_schema"), r"tools[\1].function.parameters"),
    (re.compile(r"^tools\[(\d+)\]\.name"), r"tools[\1].function.name"),
)


def _in_dialect(refused: Invalid, asked: ChatRequest) -> Invalid:
    """Gives the same refusal with the name that the field has in the request."""
    field = refused.field or "body"
    if field == "max_output_tokens":
        field = _MOST_OUTPUT[asked.max_completion_tokens is None]
    for ours, theirs in _FIELDS:
        field = ours.sub(theirs, field)
    return Invalid(field, refused.sentence, **refused.metadata)


def _messages(asked: ChatRequest) -> Iterator[Message]:
    names: dict[str, str] = {}
    told = False
    for index, message in enumerate(asked.messages):
        match message:
            case _System() | _Developer():
                yield Message(role=MessageRole.SYSTEM, parts=_texts(message.content, SAID), name=message.name or "")
            case _User():
                parts = tuple(_user_parts(message.content, f"messages[{index}].content"))
                yield Message(role=MessageRole.USER, parts=parts, name=message.name or "")
            case _Assistant():
                label = BROUGHT if told else SAID
                calls = [_tool_call(call, f"messages[{index}].tool_calls") for call in message.tool_calls or ()]
                names.update({call.tool_call_id: call.name for call in calls})
                texts = _texts(message.content or message.refusal or "", label) if message.content or not calls else ()
                parts = (*texts, *(Part(call, label) for call in calls))
                yield Message(role=MessageRole.ASSISTANT, parts=parts, name=message.name or "")
            case _Tool(tool_call_id=call, content=content):
                told = True
                text = content if isinstance(content, str) else "\n".join(part.text for part in content)
                result = ToolResultPart(tool_call_id=call, name=names.get(call, ""), text=text)
                yield Message(role=MessageRole.TOOL, parts=(Part(result, BROUGHT),))


def _texts(content: "str | list[_Text] | list[_Text | _Refusal]", label: Label) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (text_part(content, label),)
    return tuple(text_part(part.text if isinstance(part, _Text) else part.refusal, label) for part in content)


def _user_parts(content: "str | list[_Text | _Image | _File]", field: str) -> Iterator[Part]:
    if isinstance(content, str):
        yield text_part(content, SAID)
        return
    for number, part in enumerate(content):
        place = f"{field}[{number}]"
        match part:
            case _Text(text=text):
                yield text_part(text, SAID)
            case _Image(image_url=image):
                yield Part(media_of(image.url, field=f"{place}.image_url.url", detail=image.detail), SAID)
            case _File(file=file):
                yield Part(media_of(file.file_data, field=f"{place}.file.file_data", title=file.filename), SAID)


def _tool_call(call: _Call, field: str) -> ToolCallPart:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Invalid(f"{field}.function.arguments", f"is no JSON object: {error}") from error
    return ToolCallPart(tool_call_id=call.id, name=call.function.name, arguments=arguments)


def _tool_choice(choice: "str | _NamedTool | None") -> ToolChoice:
    if isinstance(choice, _NamedTool):
        return ToolChoice(mode=ToolChoiceMode.TOOL, name=choice.function.name)
    return ToolChoice(mode=ToolChoiceMode(choice or "auto"))


def _output_format(wanted: "_AnyText | _AnyObject | _OfSchema | None") -> OutputFormat:
    match wanted:
        case None | _AnyText():
            return OutputFormat()
        case _AnyObject():
            return OutputFormat(kind=OutputKind.JSON_OBJECT)
        case _OfSchema(json_schema=schema):
            return OutputFormat(
                kind=OutputKind.JSON_SCHEMA, name=schema.name, schema=schema.schema or {}, strict=bool(schema.strict)
            )


_FINISH: Final = {
    StopReason.STOP: "stop",
    StopReason.LENGTH: "length",
    StopReason.TOOL_CALLS: "tool_calls",
    StopReason.CONTENT_FILTER: "content_filter",
    StopReason.REFUSAL: "stop",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """What stands in every part of one answer."""

    id: str
    #: Unix time, seconds.
    created: int
    #: Model that was asked for.
    model: str

    def whole(self, answer: Answer) -> bytes:
        """Writes an answer that is not streamed."""
        text, calls = text_and_calls(answer)
        refused = answer.stop_reason is StopReason.REFUSAL
        message: dict[str, object] = {
            "role": "assistant",
            "content": None if refused or (calls and not text) else text,
            "refusal": text if refused else None,
        }
        if calls:
            message["tool_calls"] = [_written(call) for call in calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH[answer.stop_reason]}
        return msgspec.json.encode(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": answer.model or self.model,
                "choices": [choice],
                "usage": usage(answer.usage) if answer.usage_known else None,
            }
        )

    def chunk(self, delta: Mapping[str, object], finish: str | None = None) -> bytes:
        """Writes a part of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._event([choice])

    def counts(self, answer: Answer) -> bytes:
        """Writes the part that holds what a streamed answer used."""
        return self._event([], usage=usage(answer.usage) if answer.usage_known else None)

    def _event(self, choices: Sequence[Mapping[str, object]], **beside: object) -> bytes:
        event = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **beside,
        }
        return b"data: %b\n\n" % msgspec.json.encode(event)


class ChatStream:
    """Writes one streamed answer, event by event."""

    def __init__(self, answer: ChatAnswer, *, include_usage: bool) -> None:
        self._answer = answer
        self._include_usage = include_usage
        self._shown = ""
        self._begun = False

    def text(self, text: str) -> bytes:
        """Writes text that the law passed."""
        self._shown += text
        return self._beginning() + self._answer.chunk({"content": text})

    def end(self, answer: Answer) -> bytes:
        """Writes what is left of the answer, why it ended, and what it used."""
        text, calls = text_and_calls(answer)
        events = [self._beginning()]
        finish = _FINISH[answer.stop_reason]
        if not text.startswith(self._shown):
            # The law took back what it had passed; what it says now cannot stand after that.
            finish = "content_filter"
        elif len(text) > len(self._shown):
            events.append(self._answer.chunk({"content": text[len(self._shown) :]}))
        events += (
            self._answer.chunk({"tool_calls": [{"index": index, **_written(call)}]}) for index, call in enumerate(calls)
        )
        events.append(self._answer.chunk({}, finish))
        if self._include_usage:
            events.append(self._answer.counts(answer))
        events.append(b"data: [DONE]\n\n")
        return b"".join(events)

    def broken(self, body: Mapping[str, object]) -> bytes:
        """Writes that it failed."""
        return b"data: %b\n\n" % msgspec.json.encode(body)

    def _beginning(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._answer.chunk({"role": "assistant", "content": "", "refusal": None})


def usage(used: Usage) -> dict[str, object]:
    """Writes what was used: details are contained in the totals."""
    completion = used.output + used.reasoning + used.audio_out
    cached, written = used.cache_read, used.cache_write_5m + used.cache_write_1h
    return {
        "prompt_tokens": used.total - completion,
        "completion_tokens": completion,
        "total_tokens": used.total,
        "prompt_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": written,
            "audio_tokens": used.audio_in,
        },
        "completion_tokens_details": {"reasoning_tokens": used.reasoning, "audio_tokens": used.audio_out},
    }


def _written(call: ToolCallPart) -> dict[str, object]:
    arguments = msgspec.json.encode(dict(call.arguments)).decode()
    return {"id": call.tool_call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
