"""What a prompt may hold."""

import hashlib
import json
import math
import re
from collections import OrderedDict
from typing import Final

from services.inference.domain.errors import MediaInvalid
from services.inference.domain.media import MAX_MEDIA_BYTES, check_document, check_picture, is_pdf, media_bytes
from services.inference.domain.output_format import MAX_DEPTH, OutputFormat, OutputKind, checked_output_format
from services.inference.domain.prompt import Prompt, Sampling, ToolChoiceMode, ToolDefinition
from services.meshkit.content import (
    MAX_ARGUMENT_LEVELS,
    BlobPart,
    DocumentPart,
    ImagePart,
    Message,
    MessageRole,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    nests_deeper,
)
from services.meshkit.core.errors import Invalid
from services.meshkit.documents.schema import MAX_SCHEMA_BYTES, schema_problem

MAX_PROMPT_BYTES: Final = 256 * 1024
#: Parts over all messages, and one for what stands beside them: what the law judges at once.
MAX_PARTS: Final = 256
MAX_TOOLS: Final = 32
MAX_OUTPUT_TOKENS: Final = 32_768
MAX_STOP_SEQUENCES: Final = 4
MAX_STOP_LENGTH: Final = 64
MAX_NAME_LENGTH: Final = 64
MAX_CALL_ID_LENGTH: Final = 256
MAX_TEMPERATURE: Final = 2.0
MAX_PENALTY: Final = 2.0
MAX_TOP_K: Final = 1_000

#: What all providers accept as the name of a tool, and of a schema.
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Schemas of tools that were looked at before: each call of an agent shows the same ones.
_KEPT_SCHEMAS: Final = 512
_NAME_RULE: Final = "must be 1 to 64 letters, digits, `_` and `-`"


def checked_prompt(prompt: Prompt) -> Prompt:
    """Gives the prompt back when it keeps all limits.

    Raises: Invalid, naming the field.
    """
    if not prompt.messages:
        raise Invalid("messages", "must hold at least one message")
    if len(prompt.parts) > MAX_PARTS:
        raise Invalid("messages", f"must not hold more than {MAX_PARTS} parts in all")
    if not 1 <= prompt.max_output_tokens <= MAX_OUTPUT_TOKENS:
        raise Invalid("max_output_tokens", f"must be 1 to {MAX_OUTPUT_TOKENS}")
    _check_sampling(prompt)
    _check_ways(prompt.sampling)
    schemas = _written_schemas(prompt.tools)
    _check_choice(prompt)
    _check_output_format(prompt.output_format)
    _check_messages(prompt.messages)
    size = sum(_size(part) for part in prompt.parts) + sum(
        len(tool.description.encode()) + len(schema) for tool, schema in zip(prompt.tools, schemas, strict=True)
    )
    if size > MAX_PROMPT_BYTES:
        raise Invalid(
            "messages",
            f"must be at most {MAX_PROMPT_BYTES} bytes in all, tools included; these are {size}",
            bytes=size,
            most=MAX_PROMPT_BYTES,
        )
    _check_beside(prompt)
    media = sum(map(media_bytes, prompt.parts))
    if media > MAX_MEDIA_BYTES:
        raise MediaInvalid(
            "messages", f"must hold at most {MAX_MEDIA_BYTES} bytes of pictures and PDFs in all; these are {media}"
        )
    _check_schemas(schemas)
    return prompt


def _check_beside(prompt: Prompt) -> None:
    """Looks whether the law can be shown what stands beside the messages, as one part more."""
    beside = prompt.beside
    if beside is None:
        return
    if len(prompt.parts) >= MAX_PARTS:
        raise Invalid("messages", f"must not hold more than {MAX_PARTS - 1} parts in all with tools, a form or names")
    if _size(beside) > MAX_PROMPT_BYTES:
        raise Invalid("messages", f"must come with at most {MAX_PROMPT_BYTES} bytes of tools, form and names")


def _check_sampling(prompt: Prompt) -> None:
    temperature = prompt.temperature
    if temperature is not None and not (math.isfinite(temperature) and 0 <= temperature <= MAX_TEMPERATURE):
        raise Invalid("temperature", f"must be 0 to {MAX_TEMPERATURE:g}")
    if len(prompt.stop_sequences) > MAX_STOP_SEQUENCES:
        raise Invalid("stop_sequences", f"must not hold more than {MAX_STOP_SEQUENCES}")
    for index, stop in enumerate(prompt.stop_sequences):
        if not stop.strip() or len(stop) > MAX_STOP_LENGTH:
            raise Invalid(f"stop_sequences[{index}]", f"must be 1 to {MAX_STOP_LENGTH} characters, not only spaces")


def _check_ways(sampling: Sampling) -> None:
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise Invalid("sampling.top_p", "must be above 0 to 1")
    if sampling.top_k is not None and not 1 <= sampling.top_k <= MAX_TOP_K:
        raise Invalid("sampling.top_k", f"must be 1 to {MAX_TOP_K}")
    for name in ("frequency_penalty", "presence_penalty"):
        penalty: float | None = getattr(sampling, name)
        if penalty is not None and not -MAX_PENALTY <= penalty <= MAX_PENALTY:
            raise Invalid(f"sampling.{name}", f"must be -{MAX_PENALTY:g} to {MAX_PENALTY:g}")


def _check_choice(prompt: Prompt) -> None:
    choice = prompt.tool_choice
    if choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL) and not prompt.tools:
        raise Invalid("tool_choice", "asks for a tool, and none is shown")
    if choice.mode is ToolChoiceMode.TOOL and choice.name not in {tool.name for tool in prompt.tools}:
        raise Invalid("tool_choice.name", "names no tool that is shown")
    if choice.mode is not ToolChoiceMode.TOOL and choice.name:
        raise Invalid("tool_choice.name", "is taken where one certain tool is to be called, and only there")


def _check_output_format(wanted: OutputFormat) -> None:
    if wanted.kind is OutputKind.JSON_SCHEMA and _TOOL_NAME.fullmatch(wanted.name) is None:
        raise Invalid("output_format.json_schema.name", _NAME_RULE)
    checked_output_format(wanted)


def _written_schemas(tools: tuple[ToolDefinition, ...]) -> tuple[str, ...]:
    """Gives the schemas of tools as JSON. Raises: Invalid: a tool, or the size of its schema, is wrong."""
    if len(tools) > MAX_TOOLS:
        raise Invalid("tools", f"must not hold more than {MAX_TOOLS}")
    seen: set[str] = set()
    schemas: list[str] = []
    for index, tool in enumerate(tools):
        if _TOOL_NAME.fullmatch(tool.name) is None:
            raise Invalid(f"tools[{index}].name", _NAME_RULE)
        if tool.name in seen:
            raise Invalid(f"tools[{index}].name", f"{tool.name!r} stands twice in the list")
        if tool.input_schema.get("type", "object") != "object":
            raise Invalid(f"tools[{index}].input_schema.type", "must be `object`")
        if nests_deeper(tool.input_schema, MAX_DEPTH):
            raise Invalid(f"tools[{index}].input_schema", f"must not be nested deeper than {MAX_DEPTH} levels")
        schema = tool.schema_json()
        if len(schema.encode("utf-8", "surrogatepass")) > MAX_SCHEMA_BYTES:
            raise Invalid(f"tools[{index}].input_schema", f"must have at most {MAX_SCHEMA_BYTES} bytes as JSON")
        seen.add(tool.name)
        schemas.append(schema)
    return tuple(schemas)


def _check_schemas(schemas: tuple[str, ...]) -> None:
    for index, schema in enumerate(schemas):
        problem = _PROBLEMS.of(schema)
        if problem is not None:
            raise Invalid(f"tools[{index}].input_schema{problem[0]}", problem[1])


class SchemaProblems:
    """What is wrong with the schemas that were looked at last. They themselves are not kept, only their digests."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, tuple[str, str] | None] = OrderedDict()

    def of(self, schema: str) -> tuple[str, str] | None:
        """Gives the path of what is wrong in a schema, and a sentence; None when it is a JSON Schema."""
        digest = hashlib.sha256(schema.encode("utf-8", "surrogatepass")).digest()
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return self._kept[digest]
        problem = self._kept[digest] = schema_problem(json.loads(schema))
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return problem


_PROBLEMS: Final = SchemaProblems(most=_KEPT_SCHEMAS)


def _check_messages(messages: tuple[Message, ...]) -> None:
    called: set[str] = set()
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if len(message.name) > MAX_NAME_LENGTH:
            raise Invalid(f"{place}.name", f"must be at most {MAX_NAME_LENGTH} characters")
        if not message.parts:
            raise Invalid(f"{place}.parts", "must hold at least one part")
        for number, part in enumerate(message.parts):
            _check_part(message.role, part, called, f"{place}.parts[{number}]")
    if all(message.role is MessageRole.SYSTEM for message in messages):
        raise Invalid("messages", "must hold at least one message beside what the system says")


def _check_part(role: MessageRole, part: Part, called: set[str], place: str) -> None:
    match part.content:
        case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
            if role is not MessageRole.ASSISTANT:
                raise Invalid(place, "a tool call stands in a message of the role ASSISTANT only")
            if not call:
                raise Invalid(f"{place}.tool_call.tool_call_id", "must not be empty")
            if _TOOL_NAME.fullmatch(name) is None:
                raise Invalid(f"{place}.tool_call.name", _NAME_RULE)
            if nests_deeper(arguments, MAX_ARGUMENT_LEVELS):
                sentence = f"must not be nested deeper than {MAX_ARGUMENT_LEVELS} levels"
                raise Invalid(f"{place}.tool_call.arguments", sentence)
            if len(call) > MAX_CALL_ID_LENGTH:
                raise Invalid(f"{place}.tool_call.tool_call_id", f"must be at most {MAX_CALL_ID_LENGTH} characters")
            called.add(call)
        case ToolResultPart(tool_call_id=call):
            if role is not MessageRole.TOOL:
                raise Invalid(place, "a tool result stands in a message of the role TOOL only")
            if call not in called:
                raise Invalid(f"{place}.tool_result.tool_call_id", "answers no tool call of an earlier message")
        case TextPart():
            if role is MessageRole.TOOL:
                raise Invalid(place, "a message of the role TOOL holds tool results only")
        case ImagePart() | DocumentPart() | BlobPart():
            if role is not MessageRole.USER:
                raise Invalid(place, "pictures, documents and blobs stand in messages of the role USER only")
            if isinstance(part.content, ImagePart):
                check_picture(part.content, place)
            if isinstance(part.content, DocumentPart):
                check_document(part.content, place)


def _size(part: Part) -> int:
    match part.content:
        case TextPart(text):
            return len(text.encode())
        case ToolResultPart(tool_call_id=call, text=text):
            return len(call.encode()) + len(text.encode())
        case DocumentPart(data=data, title=title):
            return len(title.encode()) + (0 if is_pdf(part) else len(data))  # A PDF is counted with the pictures.
        case ImagePart():
            return 0  # Counted apart: a picture is no text.
        case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
            return (
                len(call.encode()) + len(name) + len(json.dumps(arguments, separators=(",", ":"), ensure_ascii=False))
            )
        case BlobPart(size_bytes=size):
            return max(0, size)
