"""The Responses dialect as it stands on the wire, and its conversions. Pure.

The provider is told to keep nothing, so a request says the whole conversation. Source: the OpenAI API reference;
`tests/contract/wire` checks requests and answers against the official SDK's types.
"""

import base64
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from services.inference.domain.media import PDF
from services.inference.domain.output_format import OutputFormat, OutputKind, fits_strict
from services.inference.domain.prompt import Prompt, ToolChoiceMode
from services.inference.providers import failures
from services.inference.providers.instruction import CannotBeTold, in_words
from services.inference.providers.openai.chat_wire import (
    CompletionDetails,
    PromptDetails,
    WireUsage,
    pdf_file,
    usage_of,
)
from services.meshkit.content import (
    DocumentPart,
    ImagePart,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)


class WireContent(msgspec.Struct):
    """A piece of what a model said."""

    text: str | None = None
    refusal: str | None = None


class WireItem(msgspec.Struct):
    """One thing that a model did: it said, thought or called something."""

    type: str = ""
    content: list[WireContent] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class IncompleteDetails(msgspec.Struct):
    """Why a response is not whole."""

    reason: str | None = None


class WireResponse(msgspec.Struct):
    """A response: the whole answer, or the last thing that a stream says."""

    status: str | None = None
    model: str | None = None
    output: list[WireItem] | None = None
    incomplete_details: IncompleteDetails | None = None
    # Read apart, by `usage_in`: counts that make no sense spoil no answer.
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class WireEvent(msgspec.Struct):
    """One event of a stream."""

    type: str = ""
    # Text in the events that are read here; open in others.
    delta: Any = None
    item: WireItem | None = None
    response: WireResponse | None = None
    error: msgspec.Raw = msgspec.Raw()


class _WireUsage(msgspec.Struct):
    """Tokens as the dialect counts them: details are contained in the totals."""

    input_tokens: int
    output_tokens: int
    total_tokens: int | None = None
    input_tokens_details: PromptDetails | None = None
    output_tokens_details: CompletionDetails | None = None


_USAGE: Final = msgspec.json.Decoder(_WireUsage)


def request_body(prompt: Prompt, *, model: str, stream: bool) -> bytes:
    """Writes the request. Only parameters whose price is bounded are ever sent.

    Raises: CannotBeTold.
    """
    if prompt.stop_sequences:
        raise CannotBeTold("stop_sequences")
    prompt = in_words(prompt, schema=False)
    body: dict[str, object] = {
        "model": model,
        "input": [item for message in prompt.messages for item in _items(message)],
        "max_output_tokens": prompt.max_output_tokens,
        "store": False,
        **_sampling(prompt),
        **_tools(prompt),
        **_text_format(prompt.output_format),
    }
    if stream:
        body["stream"] = True
    return msgspec.json.encode(body)


def _sampling(prompt: Prompt) -> dict[str, object]:
    written: dict[str, object] = {} if prompt.temperature is None else {"temperature": prompt.temperature}
    for name, value in prompt.sampling.asked().items():
        match name:
            case "top_p":
                written["top_p"] = value
            case "reasoning_effort":
                written["reasoning"] = {"effort": value}
            case _:
                raise CannotBeTold(f"sampling.{name}")
    return written


def _tools(prompt: Prompt) -> dict[str, object]:
    if not prompt.tools:
        return {}
    written: dict[str, object] = {
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": {"type": "object", **tool.input_schema},
                # Said, because the dialect takes silence for yes and then rewrites schemas.
                "strict": False,
            }
            for tool in prompt.tools
        ]
    }
    choice = prompt.tool_choice
    if choice.mode is ToolChoiceMode.TOOL:
        written["tool_choice"] = {"type": "function", "name": choice.name}
    elif choice.mode is not ToolChoiceMode.AUTO:
        written["tool_choice"] = str(choice.mode)
    if prompt.parallel_tool_calls is not None:
        written["parallel_tool_calls"] = prompt.parallel_tool_calls
    return written


def _text_format(wanted: OutputFormat) -> dict[str, object]:
    if wanted.kind is OutputKind.TEXT:
        return {}
    if wanted.schema is None:
        return {"text": {"format": {"type": "json_object"}}}
    strict = wanted.strict and fits_strict(wanted.schema)
    return {"text": {"format": {"type": "json_schema", "name": wanted.name, "schema": wanted.schema, "strict": strict}}}


def _items(message: Message) -> Iterator[dict[str, object]]:
    """Writes a message: what is said as one item, and each call and each result of a tool as one of its own."""
    content = _content(message)
    if content:
        yield {"role": str(message.role), "content": content}
    for part in message.parts:
        match part.content:
            case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
                written = msgspec.json.encode(dict(arguments)).decode()
                yield {"type": "function_call", "call_id": call, "name": name, "arguments": written}
            case ToolResultPart(tool_call_id=call, text=text):
                yield {"type": "function_call_output", "call_id": call, "output": text}
            case _:
                continue


def _content(message: Message) -> str | list[dict[str, object]]:
    """Gives plain text where there is only text. The dialect knows no names of speakers, so they stand in it."""
    prefix = f"{message.name}: " if message.name else ""
    if not any(isinstance(part.content, ImagePart | DocumentPart) for part in message.parts):
        joined = "\n".join(part.content.text for part in message.parts if isinstance(part.content, TextPart))
        return f"{prefix}{joined}" if joined else ""
    items: list[dict[str, object]] = [{"type": "input_text", "text": prefix.strip()}] if prefix else []
    for part in message.parts:
        match part.content:
            case TextPart(text):
                items.append({"type": "input_text", "text": text})
            case ImagePart(media_type=media_type, data=data, detail=detail):
                url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
                items.append({"type": "input_image", "image_url": url, "detail": str(detail)})
            case DocumentPart(media_type=media_type) if media_type == PDF:
                items.append({"type": "input_file", **pdf_file(part.content)})
            case DocumentPart(data=data, title=title):
                # Of other documents only plain text passes the money bound.
                heading = f"{title}\n\n" if title else ""
                items.append({"type": "input_text", "text": heading + data.decode("utf-8", "replace")})
            case _:
                continue
    return items


def usage_in(written: msgspec.Raw) -> Usage | None:
    """Gives the tokens in classes that do not overlap; None: unknown, as when counts contradict each other."""
    try:
        said = _USAGE.decode(written)
    except failures.UNREADABLE:
        return None
    if not (said.input_tokens or said.output_tokens):
        return None
    return usage_of(
        WireUsage(
            prompt_tokens=said.input_tokens,
            completion_tokens=said.output_tokens,
            total_tokens=said.total_tokens,
            prompt_tokens_details=said.input_tokens_details,
            completion_tokens_details=said.output_tokens_details,
        )
    )
