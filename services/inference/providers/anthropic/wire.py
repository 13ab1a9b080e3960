"""The messages dialect as it stands on the wire, and its conversions. Pure.

Source: the Anthropic API reference; `tests/contract/wire` checks requests and answers against the official SDK's types.
"""

import base64
from typing import Any, Final

import msgspec

from services.inference.domain.answer import StopReason
from services.inference.domain.media import PDF
from services.inference.domain.output_format import OutputFormat, fits_strict
from services.inference.domain.prompt import Prompt, ReasoningEffort, ToolChoiceMode
from services.inference.providers import failures
from services.inference.providers.instruction import CannotBeTold, in_words
from services.meshkit.content import (
    DocumentPart,
    ImageDetail,
    ImagePart,
    Message,
    MessageRole,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

#: The dialect's own most; ours goes to 2.
_MAX_TEMPERATURE: Final = 1.0
_CHOICES: Final = {
    ToolChoiceMode.AUTO: "auto",
    ToolChoiceMode.NONE: "none",
    ToolChoiceMode.REQUIRED: "any",
    ToolChoiceMode.TOOL: "tool",
}
_STOPS: Final = {
    "end_turn": StopReason.STOP,
    "stop_sequence": StopReason.STOP,
    "max_tokens": StopReason.LENGTH,
    "model_context_window_exceeded": StopReason.LENGTH,
    "tool_use": StopReason.TOOL_CALLS,
    "refusal": StopReason.REFUSAL,
}


class CacheCreation(msgspec.Struct):
    """Tokens written to caches, by how long those live."""

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    """How the answer's tokens divide."""

    thinking_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """Tokens as the dialect counts them: the input classes are disjoint, thinking is part of the output."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None


class MessageStart(msgspec.Struct):
    """The message of a `message_start`."""

    model: str | None = None
    # Read apart, by `UsageCounter`: counts that make no sense spoil no answer.
    usage: msgspec.Raw = msgspec.Raw()


class Block(msgspec.Struct):
    """A content block as it starts."""

    type: str
    id: str = ""
    name: str = ""
    text: str = ""
    input: dict[str, Any] | None = None


class Delta(msgspec.Struct):
    """What a `content_block_delta` or `message_delta` adds."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class Event(msgspec.Struct):
    """One event of a stream, of any type, or the whole message."""

    type: str
    index: int = 0
    # Of a whole message.
    model: str | None = None
    content: list[Block] = []
    stop_reason: str | None = None
    message: MessageStart | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: msgspec.Raw = msgspec.Raw()


_USAGE: Final = msgspec.json.Decoder(WireUsage)
#: What stands where there is no usage.
_NOTHING: Final = (b"", b"null")


def request_body(prompt: Prompt, *, model: str, schemas: bool, stream: bool) -> bytes:
    """Writes the request. Only parameters whose price is bounded are ever sent.

    Args:
        schemas: True when the model can be held to a schema by its provider.
    Raises: CannotBeTold.
    """
    native = schemas and _is_native(prompt.output_format)
    prompt = in_words(prompt, schema=not native)
    body: dict[str, object] = {
        "model": model,
        "max_tokens": prompt.max_output_tokens,
        "messages": _turns(prompt.messages),
        **_sampling(prompt),
        **_tools(prompt),
    }
    if stream:
        body["stream"] = True
    system = "\n\n".join(
        part.content.text
        for message in prompt.messages
        if message.role is MessageRole.SYSTEM
        for part in message.parts
        if isinstance(part.content, TextPart) and part.content.text.strip()
    )
    if system:
        body["system"] = system
    if prompt.stop_sequences:
        body["stop_sequences"] = list(prompt.stop_sequences)
    config = _output_config(prompt, native=native)
    if config:
        body["output_config"] = config
    return msgspec.json.encode(body)


def _is_native(wanted: OutputFormat) -> bool:
    """Says whether the provider can keep to a schema: it takes closed objects only."""
    return wanted.schema is not None and fits_strict(wanted.schema)


def _sampling(prompt: Prompt) -> dict[str, object]:
    sampling = prompt.sampling
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        if getattr(sampling, name) is not None:
            raise CannotBeTold(f"sampling.{name}")
    asked: dict[str, object] = {}
    if prompt.temperature is not None:
        asked["temperature"] = min(prompt.temperature, _MAX_TEMPERATURE)
    if sampling.top_p is not None:
        asked["top_p"] = sampling.top_p
    if sampling.top_k is not None:
        asked["top_k"] = sampling.top_k
    return asked


def _output_config(prompt: Prompt, *, native: bool) -> dict[str, object]:
    config: dict[str, object] = {}
    effort = prompt.sampling.reasoning_effort
    if effort is ReasoningEffort.MINIMAL:
        raise CannotBeTold("sampling.reasoning_effort")
    if effort is not None:
        config["effort"] = str(effort)
    if native:
        config["format"] = {"type": "json_schema", "schema": prompt.output_format.schema}
    return config


def _tools(prompt: Prompt) -> dict[str, object]:
    if not prompt.tools:
        return {}
    choice: dict[str, object] = {"type": _CHOICES[prompt.tool_choice.mode]}
    if prompt.tool_choice.name:
        choice["name"] = prompt.tool_choice.name
    if prompt.parallel_tool_calls is not None and prompt.tool_choice.mode is not ToolChoiceMode.NONE:
        choice["disable_parallel_tool_use"] = not prompt.parallel_tool_calls
    tools = [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": {"type": "object", **tool.input_schema},
        }
        for tool in prompt.tools
    ]
    # Said only when it says something: what most ask for is what the provider does.
    return {"tools": tools} if choice == {"type": "auto"} else {"tools": tools, "tool_choice": choice}


def _turns(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    """Writes the messages, neighbours of one role as one turn: the dialect wants roles in alternation."""
    turns: list[dict[str, object]] = []
    blocks: list[dict[str, object]] = []
    speaking = ""
    for message in messages:
        if message.role is MessageRole.SYSTEM:
            continue
        role = "assistant" if message.role is MessageRole.ASSISTANT else "user"
        written = _blocks(message)
        if not written:
            continue
        if role != speaking:
            blocks = []
            turns.append({"role": role, "content": blocks})
            speaking = role
        blocks.extend(written)
    return turns


def _blocks(message: Message) -> list[dict[str, object]]:
    prefix = f"{message.name}: " if message.name else ""
    blocks: list[dict[str, object]] = []
    for part in message.parts:
        block = _block(part, prefix)
        if block is None:
            continue
        if block["type"] == "text":
            prefix = ""
        blocks.append(block)
    return blocks


def _block(part: Part, prefix: str) -> dict[str, object] | None:
    match part.content:
        case TextPart(text):
            # An empty text block is refused by the provider.
            return {"type": "text", "text": f"{prefix}{text}"} if text.strip() else None
        case ImagePart(detail=ImageDetail.LOW):
            raise CannotBeTold("image.detail")
        case ImagePart(media_type=media_type, data=data):
            encoded = base64.b64encode(data).decode()
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": encoded}}
        case DocumentPart(media_type=media_type, data=data, title=title) if media_type == PDF:
            source = {"type": "base64", "media_type": PDF, "data": base64.b64encode(data).decode()}
            return {"type": "document", "source": source, **({"title": title} if title else {})}
        case DocumentPart(data=data, title=title):
            # Of other documents only plain text passes the money bound.
            source = {"type": "text", "media_type": "text/plain", "data": data.decode("utf-8", "replace")}
            return {"type": "document", "source": source, **({"title": title} if title else {})}
        case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
            return {"type": "tool_use", "id": call, "name": name, "input": dict(arguments)}
        case ToolResultPart(tool_call_id=call, text=text, failed=failed):
            result: dict[str, object] = {"type": "tool_result", "tool_use_id": call, "content": text}
            return {**result, "is_error": True} if failed else result
        case _:
            return None


class UsageCounter:
    """Keeps the newest counts of an answer: each event repeats what it knows, cumulatively."""

    def __init__(self) -> None:
        self._said = WireUsage()
        self._ended = False
        self._understood = True

    def start(self, usage: msgspec.Raw) -> None:
        """Takes the counts of `message_start`."""
        self._take(usage)

    def end(self, usage: msgspec.Raw) -> None:
        """Takes the counts of `message_delta`. Before one says so, nobody knows how long the answer is."""
        self._ended |= self._take(usage).output_tokens is not None

    def _take(self, usage: msgspec.Raw) -> WireUsage:
        if bytes(usage) in _NOTHING:
            return WireUsage()
        try:
            said = _USAGE.decode(usage)
        except failures.UNREADABLE:
            self._understood = False
            return WireUsage()
        for name in said.__struct_fields__:
            if getattr(said, name) is not None:
                setattr(self._said, name, getattr(said, name))
        return said

    def total(self) -> Usage | None:
        """Gives the tokens in classes that do not overlap; None: unknown."""
        return usage_of(self._said) if self._understood and self._ended else None


def usage_of(usage: WireUsage) -> Usage | None:
    """Divides the tokens into classes that do not overlap; None when some were not said, or contradict each other."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    lives = usage.cache_creation or CacheCreation()
    minutes, hour = lives.ephemeral_5m_input_tokens, lives.ephemeral_1h_input_tokens or 0
    written = usage.cache_creation_input_tokens
    if minutes is None:
        # Five minutes is how long a cache lives unless the request says otherwise.
        minutes = 0 if written is None else written - hour
    if written is not None and written != minutes + hour:
        return None
    thinking = (usage.output_tokens_details or OutputDetails()).thinking_tokens or 0
    classes = Usage(
        input=usage.input_tokens,
        cache_read=usage.cache_read_input_tokens or 0,
        cache_write_5m=minutes,
        cache_write_1h=hour,
        output=usage.output_tokens - thinking,
        reasoning=thinking,
    )
    return classes if classes.plausible else None


def stop_reason_of(stop_reason: str) -> StopReason:
    """Gives why the model stopped."""
    return _STOPS.get(stop_reason, StopReason.STOP)
