"""The chat-completions dialect as it stands on the wire, and its conversions. Pure.

Source: the OpenAI API reference; `tests/contract/wire` checks requests and answers against the official SDK's types.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

import msgspec

from services.inference.domain.answer import StopReason
from services.inference.domain.media import PDF
from services.inference.domain.output_format import OutputFormat, OutputKind, fits_strict
from services.inference.domain.prompt import Prompt, ToolChoice, ToolChoiceMode, ToolDefinition
from services.inference.providers import failures
from services.inference.providers.instruction import CannotBeTold, in_words
from services.meshkit.content import (
    MAX_ARGUMENT_LEVELS,
    DocumentPart,
    ImageDetail,
    ImagePart,
    Message,
    MessageRole,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
    nests_deeper,
)

#: Which field carries the limit of the answer: OpenAI renamed it, the servers that speak its dialect did not.
LimitField = Literal["max_completion_tokens", "max_tokens"]


class ToolChoices(Enum):
    """What of a choice of tools a server understands."""

    ALL = "all"
    #: Not the name of a tool; the named one is then the only one shown.
    MODES = "modes"
    #: None of it.
    NOTHING = "nothing"


class JsonForm(Enum):
    """How a server is told the schema of an answer."""

    #: As OpenAI is.
    RESPONSE_FORMAT = "response_format"
    #: TGI: `response_format` with the schema itself as its value.
    VALUE = "value"
    #: In words: it knows no schemas, or nobody knows whether it does.
    WORDS = "words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a server speaks the dialect. The default is OpenAI's way."""

    limit_field: LimitField = "max_completion_tokens"
    #: True where the dialect's `name` reaches the model; else the name is written into the text.
    names: bool = True
    #: True when a stream without `[DONE]` at its end was cut off.
    ends_with_done: bool = True
    json_form: JsonForm = JsonForm.RESPONSE_FORMAT
    #: True where only some schemas can be kept to strictly: those that close their objects and require all of them.
    strict_subset: bool = True
    tool_choices: ToolChoices = ToolChoices.ALL
    #: True where it can be told to call one tool at a time.
    parallel_tool_calls: bool = True
    #: True where it reads PDFs.
    pdfs: bool = True
    #: Ways of sampling that it understands.
    sampling: frozenset[str] = frozenset({"top_p", "seed", "frequency_penalty", "presence_penalty", "reasoning_effort"})


_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STOPS: Final = {
    "stop": StopReason.STOP,
    "length": StopReason.LENGTH,
    "max_tokens": StopReason.LENGTH,
    "tool_calls": StopReason.TOOL_CALLS,
    "function_call": StopReason.TOOL_CALLS,
    "content_filter": StopReason.CONTENT_FILTER,
}


class PromptDetails(msgspec.Struct):
    """How the prompt's tokens divide."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """How the answer's tokens divide."""

    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """Tokens as the dialect counts them: details are contained in the totals."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class FunctionDelta(msgspec.Struct):
    """A piece of a tool call. Some servers send the arguments as an object instead of text."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCallDelta(msgspec.Struct):
    """A piece of one of the tool calls. Some servers leave out the index, or the id."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(msgspec.Struct):
    """What a chunk adds, or the whole of an answer that is not streamed."""

    content: str | None = None
    refusal: str | None = None
    # Servers with reasoning models show their thinking under either name.
    reasoning_content: str | None = None
    reasoning: str | None = None
    # Older TGI sends the one call itself instead of a list.
    tool_calls: list[ToolCallDelta] | ToolCallDelta | None = None

    @property
    def calls(self) -> list[ToolCallDelta]:
        """The pieces of tool calls, none or more."""
        if isinstance(self.tool_calls, ToolCallDelta):
            return [self.tool_calls]
        return self.tool_calls or []


class Choice(msgspec.Struct):
    """One of the answers; only one is ever asked for."""

    delta: Delta | None = None
    # In the place of `delta` where nothing is streamed.
    message: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """One event of a stream, or the whole answer."""

    choices: list[Choice] = []
    # Read apart, by `UsageCounter`: counts that make no sense spoil no answer.
    usage: msgspec.Raw = msgspec.Raw()
    model: str | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def failed(self) -> bool:
        """True when the event says that the answer broke off."""
        return bytes(self.error) not in _NOTHING


_USAGE: Final = msgspec.json.Decoder(WireUsage)
#: What stands where there is no usage.
_NOTHING: Final = (b"", b"null")


def request_body(prompt: Prompt, *, model: str, manners: Manners, stream: bool) -> bytes:
    """Writes the request. Only parameters whose price is bounded are ever sent; one answer.

    Raises: CannotBeTold.
    """
    prompt = in_words(prompt, schema=manners.json_form is JsonForm.WORDS)
    body: dict[str, object] = {
        "model": model,
        "messages": [item for message in prompt.messages for item in _messages(message, manners)],
        manners.limit_field: prompt.max_output_tokens,
        **_sampling(prompt, manners),
        **_tools(prompt, manners),
        **_response_format(prompt.output_format, manners),
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if prompt.stop_sequences:
        body["stop"] = list(prompt.stop_sequences)
    return msgspec.json.encode(body)


def _sampling(prompt: Prompt, manners: Manners) -> dict[str, object]:
    asked = prompt.sampling.asked()
    for name in asked:
        if name not in manners.sampling:
            raise CannotBeTold(f"sampling.{name}")
    return asked if prompt.temperature is None else {"temperature": prompt.temperature, **asked}


def _tools(prompt: Prompt, manners: Manners) -> dict[str, object]:
    shown, choice = _shown_tools(prompt, manners.tool_choices)
    if not shown:
        return {}
    written: dict[str, object] = {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": {"type": "object", **tool.input_schema},
                },
            }
            for tool in shown
        ]
    }
    if choice is not None:
        written["tool_choice"] = choice
    if prompt.parallel_tool_calls is not None and manners.parallel_tool_calls:
        written["parallel_tool_calls"] = prompt.parallel_tool_calls
    elif prompt.parallel_tool_calls is False:
        raise CannotBeTold("parallel_tool_calls")
    return written


def _shown_tools(prompt: Prompt, known: ToolChoices) -> tuple[Sequence[ToolDefinition], object]:
    """Gives the tools to show and what is written about their choice, None for nothing."""
    match prompt.tool_choice:
        case ToolChoice(mode=ToolChoiceMode.AUTO):
            return prompt.tools, None
        case ToolChoice(mode=ToolChoiceMode.NONE) if known is ToolChoices.NOTHING:
            # What is not shown is not called.
            return (), None
        case ToolChoice() if known is ToolChoices.NOTHING:
            raise CannotBeTold("tool_choice")
        case ToolChoice(mode=ToolChoiceMode.TOOL, name=name) if known is ToolChoices.MODES:
            return [tool for tool in prompt.tools if tool.name == name], "required"
        case ToolChoice(mode=ToolChoiceMode.TOOL, name=name):
            return prompt.tools, {"type": "function", "function": {"name": name}}
        case ToolChoice(mode=mode):
            return prompt.tools, str(mode)


def _response_format(wanted: OutputFormat, manners: Manners) -> dict[str, object]:
    if wanted.kind is OutputKind.TEXT or manners.json_form is JsonForm.WORDS:
        return {}
    if wanted.schema is None:
        return {"response_format": {"type": "json_object"}}
    if manners.json_form is JsonForm.VALUE:
        return {"response_format": {"type": "json_object", "value": wanted.schema}}
    strict = wanted.strict and (not manners.strict_subset or fits_strict(wanted.schema))
    described = {"name": wanted.name, "schema": wanted.schema, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def _messages(message: Message, manners: Manners) -> list[dict[str, object]]:
    if message.role is MessageRole.TOOL:
        return [
            {"role": "tool", "tool_call_id": part.content.tool_call_id, "content": part.content.text}
            for part in message.parts
            if isinstance(part.content, ToolResultPart)
        ]
    written: dict[str, object] = {"role": str(message.role)}
    named = manners.names and _NAME.fullmatch(message.name) is not None
    if named:
        written["name"] = message.name
    prefix = f"{message.name}: " if message.name and not named else ""
    calls = [part.content for part in message.parts if isinstance(part.content, ToolCallPart)]
    if calls:
        written["tool_calls"] = [_tool_call(call) for call in calls]
    content = _content(message, prefix, pdfs=manners.pdfs)
    if content or not calls:
        written["content"] = content
    return [written]


def _content(message: Message, prefix: str, *, pdfs: bool) -> str | list[dict[str, object]]:
    """Gives plain text where there is only text: every server takes that, not every one takes lists."""
    texts = [part.content.text for part in message.parts if isinstance(part.content, TextPart)]
    if all(isinstance(part.content, TextPart | ToolCallPart) for part in message.parts):
        joined = "\n".join(texts)
        return f"{prefix}{joined}" if joined else ""
    items: list[dict[str, object]] = [{"type": "text", "text": prefix.strip()}] if prefix else []
    for part in message.parts:
        match part.content:
            case TextPart(text):
                items.append({"type": "text", "text": text})
            case ImagePart(media_type=media_type, data=data, detail=detail):
                shown = {"url": f"data:{media_type};base64,{base64.b64encode(data).decode()}"}
                if detail is not ImageDetail.AUTO:
                    shown["detail"] = str(detail)
                items.append({"type": "image_url", "image_url": shown})
            case DocumentPart(media_type=media_type) if media_type == PDF:
                if not pdfs:
                    raise CannotBeTold("document")
                items.append({"type": "file", "file": pdf_file(part.content)})
            case DocumentPart(data=data, title=title):
                # Of other documents only plain text passes the money bound.
                heading = f"{title}\n\n" if title else ""
                items.append({"type": "text", "text": heading + data.decode("utf-8", "replace")})
            case _:
                continue
    return items


def pdf_file(document: DocumentPart) -> dict[str, object]:
    """Writes a PDF as a file that stands in the request."""
    data = base64.b64encode(document.data).decode()
    return {"filename": document.title or "document.pdf", "file_data": f"data:{PDF};base64,{data}"}


def _tool_call(call: ToolCallPart) -> dict[str, object]:
    arguments = msgspec.json.encode(dict(call.arguments)).decode()
    return {"id": call.tool_call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


class UsageCounter:
    """Keeps the newest counts of an answer: who reports more than once counts from the beginning each time."""

    def __init__(self) -> None:
        self._newest: Usage | None = None

    def take(self, usage: msgspec.Raw) -> None:
        """Takes a report. None, and one of zeros, says nothing; one that makes no sense makes the usage unknown."""
        if bytes(usage) in _NOTHING:
            return
        try:
            said = _USAGE.decode(usage)
        except failures.UNREADABLE:
            self._newest = None
            return
        if said.prompt_tokens or said.completion_tokens:
            self._newest = usage_of(said)

    def total(self) -> Usage | None:
        """Gives the tokens in classes that do not overlap; None: unknown."""
        return self._newest


def usage_of(usage: WireUsage) -> Usage | None:
    """Divides the tokens into classes that do not overlap; None when the counts contradict each other.

    Tokens of a rejected prediction are answer tokens like any other, and pictures are prompt tokens priced as text.
    """
    prompt = usage.prompt_tokens_details or PromptDetails()
    completion = usage.completion_tokens_details or CompletionDetails()
    cached, written, heard = prompt.cached_tokens or 0, prompt.cache_write_tokens or 0, prompt.audio_tokens or 0
    reasoning, spoken = completion.reasoning_tokens or 0, completion.audio_tokens or 0
    answer, sum_of_both = usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens
    total = sum_of_both if usage.total_tokens is None else usage.total_tokens
    if total == sum_of_both + reasoning:
        # xAI counts reasoning beside the answer instead of in it, and the total tells.
        answer += reasoning
    elif total != sum_of_both:
        return None
    classes = Usage(
        input=usage.prompt_tokens - cached - written - heard,
        cache_read=cached,
        # The dialect knows one kind of written cache; its price stands in this class.
        cache_write_5m=written,
        output=answer - reasoning - spoken,
        reasoning=reasoning,
        audio_in=heard,
        audio_out=spoken,
    )
    return classes if classes.plausible else None


def stop_reason_of(finish_reason: str, *, tool_calls: bool) -> StopReason:
    """Gives why the model stopped. Some servers say `stop` for tool calls, or `eos_token` for the end."""
    if tool_calls:
        return StopReason.TOOL_CALLS
    return _STOPS.get(finish_reason, StopReason.STOP)


class ToolCalls:
    """Puts tool calls together from their pieces."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, str, list[str]]] = []
        self._places: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: ToolCallDelta) -> None:
        """Takes the next piece."""
        function = piece.function or FunctionDelta()
        place = self._places.get(piece.index) if piece.index is not None else None
        if place is None and (piece.index is not None or function.name or not self._calls):
            place = len(self._calls)
            if piece.index is not None:
                self._places[piece.index] = place
            self._calls.append((piece.id or f"call_{place}", function.name or "", []))
        elif place is None:
            place = len(self._calls) - 1
        call, name, arguments = self._calls[place]
        self._calls[place] = (call, name or function.name or "", arguments)
        if isinstance(function.arguments, str):
            arguments.append(function.arguments)
        elif function.arguments is not None:
            arguments.append(msgspec.json.encode(function.arguments).decode())

    def whole(self) -> tuple[ToolCallPart, ...]:
        """Gives the calls.

        Raises: msgspec.MsgspecError: the arguments of one are no JSON object, or it has no name.
        """
        return tuple(tool_call(call, name, "".join(arguments)) for call, name, arguments in self._calls)

    def written(self) -> list[dict[str, object]]:
        """Gives the calls as the dialect writes them, arguments as they came."""
        return [
            {"id": call, "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
            for call, name, arguments in self._calls
        ]


def tool_call(call: str, name: str, arguments: str) -> ToolCallPart:
    """Makes a tool call of its written arguments.

    Raises: msgspec.MsgspecError: they are no JSON object or nest too deep, or the name is missing.
    """
    if not name:
        raise msgspec.ValidationError("a tool call has no name")
    try:
        parsed = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except RecursionError as error:
        raise msgspec.ValidationError("the arguments are nested too deeply") from error
    if nests_deeper(parsed, MAX_ARGUMENT_LEVELS):
        raise msgspec.ValidationError("the arguments are nested too deeply")
    return ToolCallPart(tool_call_id=call, name=name, arguments=parsed)
