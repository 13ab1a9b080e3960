"""`/v1/chat/completions`: requests of OpenAI's dialect. Pure.

Source: the OpenAI API reference; the tests speak to it with the official client.
"""

from typing import Any, Final, Literal

import msgspec

from services.inference.transport.doors.bodies import read
from services.meshkit.core.errors import Invalid


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Part(_Strict):
    # A hint to the provider: taken, and not passed on.
    prompt_cache_breakpoint: dict[str, Any] | None = None


class Text(_Part, tag_field="type", tag="text", kw_only=True):
    """Text."""

    text: str


class Refusal(_Strict, tag_field="type", tag="refusal"):
    """What a model said that refused."""

    refusal: str


class _Url(_Strict):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class Image(_Part, tag_field="type", tag="image_url", kw_only=True):
    """A picture."""

    image_url: _Url


class _FileData(_Strict):
    file_data: str
    filename: str = ""


class File(_Part, tag_field="type", tag="file", kw_only=True):
    """A document."""

    file: _FileData


class _Function(_Strict):
    name: str
    arguments: str = ""
    # What the official client made of the arguments.
    parsed_arguments: Any = None


class Call(_Strict):
    """A tool that a model called."""

    id: str
    function: _Function
    index: int | None = None
    type: Literal["function"] = "function"


class System(_Strict, tag_field="role", tag="system"):
    """What the client says of the task."""

    content: str | list[Text]
    name: str | None = None


class Developer(_Strict, tag_field="role", tag="developer"):
    """As `System`, to newer models."""

    content: str | list[Text]
    name: str | None = None


class User(_Strict, tag_field="role", tag="user"):
    """What is asked."""

    content: str | list[Text | Image | File]
    name: str | None = None


class Assistant(_Strict, tag_field="role", tag="assistant"):
    """What a model said."""

    content: str | list[Text | Refusal] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    # Clients send back what they were sent.
    annotations: list[Any] | None = None
    parsed: Any = None
    audio: None = None
    function_call: None = None


class Told(_Strict, tag_field="role", tag="tool"):
    """What a tool is said to have said."""

    content: str | list[Text]
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


class NamedTool(_Strict):
    """The tool that is to be called."""

    type: Literal["function"]
    function: _NamedFunction


class _Schema(_Strict):
    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class AnyText(_Strict, tag_field="type", tag="text"):
    """Text of any form."""


class AnyObject(_Strict, tag_field="type", tag="json_object"):
    """Any JSON object."""


class OfSchema(_Strict, tag_field="type", tag="json_schema"):
    """JSON that keeps a schema."""

    json_schema: _Schema


class _StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Strict):
    """A request. What is accepted and means nothing here stands last."""

    model: str
    messages: list[System | Developer | User | Assistant | Told]
    tools: list[_ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: AnyText | AnyObject | OfSchema | None = None
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
