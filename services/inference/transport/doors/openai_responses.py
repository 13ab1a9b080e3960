"""`/v1/responses`: requests of OpenAI's newer dialect. Pure.

Nothing is kept between requests, so whatever refers to an earlier one is refused by its name, and so is what only the
provider's own servers can do. Source: the OpenAI API reference; the tests speak to it with the official client.
"""

from typing import Any, Final, Literal

import msgspec

from services.inference.transport.doors.bodies import UnknownField, read
from services.meshkit.core.errors import Invalid


class _Strict(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    pass


class InputText(_Strict, tag_field="type", tag="input_text"):
    """Text of whoever asks."""

    text: str


class OutputText(_Strict, tag_field="type", tag="output_text"):
    """Text of an earlier answer, as it was sent."""

    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(_Strict, tag_field="type", tag="refusal"):
    """What a model said that refused."""

    refusal: str


class InputImage(_Strict, tag_field="type", tag="input_image"):
    """A picture."""

    image_url: str
    detail: Literal["auto", "low", "high"] | None = None
    file_id: None = None


class InputFile(_Strict, tag_field="type", tag="input_file"):
    """A document."""

    file_data: str
    filename: str | None = None
    detail: Literal["auto"] | None = None
    file_id: None = None
    file_url: None = None


Content = InputText | OutputText | Refusal | InputImage | InputFile


class _Item(_Strict):
    # What clients send back as they were sent it.
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class SaidItem(_Item, kw_only=True):
    """A message."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Content]
    type: Literal["message"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class CallItem(_Item, tag_field="type", tag="function_call", kw_only=True):
    """A tool that a model called."""

    call_id: str
    name: str
    arguments: str
    # What the official client made of the arguments.
    parsed_arguments: Any = None


class OutputItem(_Item, tag_field="type", tag="function_call_output", kw_only=True):
    """What a tool is said to have said."""

    call_id: str
    output: str | list[InputText]


Item = SaidItem | CallItem | OutputItem


class Tool(_Strict, tag_field="type", tag="function"):
    """A tool of the client's own."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    # The provider checks the arguments, or the client does: nobody here relies on it.
    strict: bool | None = None


class NamedTool(_Strict):
    """The tool that is to be called."""

    type: str
    name: str = ""


class AnyText(_Strict, tag_field="type", tag="text"):
    """Text of any form."""


class AnyObject(_Strict, tag_field="type", tag="json_object"):
    """Any JSON object."""


class OfSchema(_Strict, tag_field="type", tag="json_schema"):
    """JSON that keeps a schema."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _TextConfig(_Strict):
    format: AnyText | AnyObject | OfSchema | None = None
    verbosity: Literal["medium"] | None = None


class _Reasoning(_Strict):
    effort: Literal["minimal", "low", "medium", "high"] | None = None
    summary: None = None
    generate_summary: None = None


class _StreamOptions(_Strict):
    include_obfuscation: bool | None = None


class ResponsesRequest(_Strict):
    """A request. What is accepted and means nothing here stands last, and after that what is refused unless empty."""

    model: str
    # Read one by one, by what each says that it is.
    input: str | list[msgspec.Raw]
    instructions: str | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: _TextConfig | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning: _Reasoning | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    store: bool | None = None
    truncation: Literal["disabled"] | None = None
    top_logprobs: Literal[0] | None = None
    service_tier: Literal["auto", "default"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    background: Any = None
    conversation: Any = None
    include: Any = None
    max_tool_calls: Any = None
    previous_response_id: Any = None
    prompt: Any = None


_FUNCTION: Final = "function"
#: What needs a server that keeps what it was told, or has tools of its own.
_ELSEWHERE: Final = ("background", "conversation", "include", "max_tool_calls", "previous_response_id", "prompt")


class _Kind(msgspec.Struct):
    type: str | None = None


_REQUESTS: Final = msgspec.json.Decoder(ResponsesRequest)
_KINDS: Final = msgspec.json.Decoder(_Kind)
_SAID: Final = msgspec.json.Decoder(SaidItem)
_CALLED: Final = msgspec.json.Decoder(CallItem | OutputItem)
_TOOLS: Final = msgspec.json.Decoder(Tool)


def responses_request(body: bytes) -> ResponsesRequest:
    """Reads a request.

    Raises: UnknownField, Invalid, naming the field.
    """
    asked = read(body, _REQUESTS)
    for name in _ELSEWHERE:
        if getattr(asked, name):
            raise UnknownField(name)
    if asked.store:
        raise Invalid("store", "must be false; nothing is kept here")
    if isinstance(asked.tool_choice, NamedTool) and asked.tool_choice.type != _FUNCTION:
        raise UnknownField("tool_choice.type", asked.tool_choice.type)
    return asked


def item_of(raw: bytes, place: str) -> Item:
    """Reads an item of the input. Raises: as `responses_request`."""
    match _kind_of(raw, place):
        case None | "message":
            return read(raw, _SAID, place=place)
        case "function_call" | "function_call_output":
            return read(raw, _CALLED, place=place)
        case other:
            raise UnknownField(f"{place}.type", other)


def tool_of(raw: bytes, place: str) -> Tool:
    """Reads a tool. Raises: as `responses_request`."""
    kind = _kind_of(raw, place)
    if kind is not None and kind != _FUNCTION:
        raise UnknownField(f"{place}.type", kind)
    return read(raw, _TOOLS, place=place)


def _kind_of(raw: bytes, place: str) -> str | None:
    return read(raw, _KINDS, place=place).type
