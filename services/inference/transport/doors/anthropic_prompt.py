"""What a request at `/v1/messages` asks of a model. Pure."""

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import (
    Prompt,
    ReasoningEffort,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
)
from services.inference.transport.doors.anthropic_messages import (
    Base64,
    CountRequest,
    Document,
    Image,
    JsonSchema,
    MessagesRequest,
    OutputConfig,
    PlainText,
    Text,
    ToolResult,
    ToolUse,
)
from services.inference.transport.doors.conversation import Conversation, Words
from services.inference.transport.doors.labels import SAID
from services.meshkit.content import (
    DocumentPart,
    ImagePart,
    MessageRole,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_part,
)
from services.meshkit.core.errors import Invalid

_Block = Text | Image | Document | ToolUse | ToolResult
#: Bytes that count as one token where no provider has counted yet.
_BYTES_PER_TOKEN: Final = 4
#: What providers are told that a schema is called; the dialect has no name for it.
_SCHEMA_NAME: Final = "answer"
_CHOICES: Final = {
    "auto": ToolChoiceMode.AUTO,
    "any": ToolChoiceMode.REQUIRED,
    "tool": ToolChoiceMode.TOOL,
    "none": ToolChoiceMode.NONE,
}
_WORDS: Final = Words(
    parts={
        ".parts": ".content",
        ".tool_result.tool_call_id": ".tool_use_id",
        ".tool_call.tool_call_id": ".id",
        ".tool_call.name": ".name",
        ".tool_call.arguments": ".input",
        ".image": "",
        ".image.data": ".source.data",
        ".image.media_type": ".source.media_type",
        ".document.data": ".source.data",
        ".document.media_type": ".source.media_type",
    },
    fields=(
        (re.compile(r"^max_output_tokens"), "max_tokens"),
        (re.compile(r"^output_format\.json_schema"), "output_config.format"),
        (re.compile(r"^sampling\.reasoning_effort"), "output_config.effort"),
        (re.compile(r"^sampling\."), ""),
        (re.compile(r"^parallel_tool_calls"), "tool_choice.disable_parallel_tool_use"),
    ),
)


def conversation_of(asked: CountRequest) -> Conversation:
    """Reads what was said. Raises: Invalid, naming the field."""
    said = Conversation(_WORDS)
    if asked.system:
        said.begin(MessageRole.SYSTEM, "system")
        _add_system(said, asked.system)
    for index, message in enumerate(asked.messages):
        place = f"messages[{index}]"
        if isinstance(message.content, str):
            blocks = [(f"{place}.content", Text(text=message.content))]
        else:
            blocks = [(f"{place}.content[{number}]", block) for number, block in enumerate(message.content)]
        if not blocks:
            raise Invalid(f"{place}.content", "must hold at least one part")
        if message.role == "assistant":
            said.begin(MessageRole.ASSISTANT, place)
            for where, block in blocks:
                _add_answer(said, block, where)
        else:
            _add_question(said, blocks, place)
    return said


def prompt_of(asked: CountRequest, said: Conversation) -> Prompt:
    """Gives the prompt of a request.

    Raises: Invalid, naming the field as the dialect does.
    """
    choice, config = asked.tool_choice, asked.output_config or OutputConfig()
    parallel = None if choice is None or not choice.disable_parallel_tool_use else False
    prompt = Prompt(
        messages=said.messages(),
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
    return said.checked(prompt)


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


def _output_format(wanted: JsonSchema | None) -> OutputFormat:
    if wanted is None:
        return OutputFormat()
    return OutputFormat(kind=OutputKind.JSON_SCHEMA, name=_SCHEMA_NAME, schema=wanted.schema, strict=True)


def _add_system(said: Conversation, system: str | list[Text]) -> None:
    if isinstance(system, str):
        said.add(text_part(system, SAID), "system")
        return
    for number, block in enumerate(system):
        said.add(text_part(block.text, SAID), f"system[{number}]")


def _add_answer(said: Conversation, block: _Block, place: str) -> None:
    match block:
        case Text(text=text):
            said.add(text_part(text, said.of_model), place)
        case ToolUse():
            call = ToolCallPart(tool_call_id=block.id, name=block.name, arguments=block.input)
            said.call(call, said.of_model, place)
        case _:
            raise Invalid(place, "of the assistant holds text and tool_use only")


def _add_question(said: Conversation, blocks: Sequence[tuple[str, _Block]], place: str) -> None:
    """Adds what the user says: what tools said first, as a message of its own."""
    results = [(where, block) for where, block in blocks if isinstance(block, ToolResult)]
    if results:
        said.begin(MessageRole.TOOL, place)
    for where, block in results:
        content = block.content or ""
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        said.result(block.tool_use_id, text, where, failed=bool(block.is_error))
    rest = [(where, block) for where, block in blocks if not isinstance(block, ToolResult)]
    if rest:
        said.begin(MessageRole.USER, place)
    for where, block in rest:
        said.add(_question_part(block, where), where)


def _question_part(block: _Block, place: str) -> Part:
    match block:
        case Text(text=text):
            return text_part(text, SAID)
        case Image(source=source):
            return Part(ImagePart(media_type=source.media_type, data=_decoded(source, place)), SAID)
        case Document(source=PlainText(data=data), title=title):
            return Part(DocumentPart(media_type="text/plain", data=data.encode(), title=title or ""), SAID)
        case Document(source=Base64() as source, title=title):
            data = _decoded(source, place)
            return Part(DocumentPart(media_type=source.media_type, data=data, title=title or ""), SAID)
        case _:
            raise Invalid(place, "of the user holds no tool_use")


def _decoded(source: Base64, place: str) -> bytes:
    try:
        return base64.b64decode(source.data, validate=True)
    except ValueError as error:
        raise Invalid(f"{place}.source.data", f"is no base64: {error}") from error
