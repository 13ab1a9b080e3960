"""`/v1/messages`: requests of Anthropic's dialect. Pure.

Source: the Anthropic API reference.
"""

from typing import Any, Final, Literal, TypeVar

import msgspec

from services.inference.transport.doors.bodies import UnknownField, read


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


class Text(_Block, tag_field="type", tag="text", kw_only=True):
    """Text."""

    text: str
    citations: None = None


class Base64(_Strict, tag_field="type", tag="base64"):
    """Bytes that stand in the request itself."""

    media_type: str
    data: str


class PlainText(_Strict, tag_field="type", tag="text"):
    """A document of plain text."""

    media_type: Literal["text/plain"]
    data: str


class Image(_Block, tag_field="type", tag="image", kw_only=True):
    """A picture."""

    source: Base64


class Document(_Block, tag_field="type", tag="document", kw_only=True):
    """A document."""

    source: Base64 | PlainText
    title: str | None = None
    context: None = None
    citations: None = None


class ToolUse(_Block, tag_field="type", tag="tool_use", kw_only=True):
    """A tool that a model called."""

    id: str
    name: str
    input: dict[str, Any]
    # Clients send back what they were sent.
    caller: Any = None


class ToolResult(_Block, tag_field="type", tag="tool_result", kw_only=True):
    """What a tool is said to have said."""

    tool_use_id: str
    content: str | list[Text] | None = None
    is_error: bool | None = None


class _Message(_Strict):
    role: Literal["user", "assistant"]
    content: str | list[Text | Image | Document | ToolUse | ToolResult]


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


class JsonSchema(_Strict, tag_field="type", tag="json_schema"):
    """JSON that keeps a schema."""

    schema: dict[str, Any]


class OutputConfig(_Strict):
    """The form of the answer, and how long a model may think."""

    format: JsonSchema | None = None
    effort: Literal["low", "medium", "high"] | None = None


class CountRequest(_Block, kw_only=True):
    """A prompt that is to be counted."""

    model: str
    messages: list[_Message]
    system: str | list[Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: OutputConfig | None = None
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
