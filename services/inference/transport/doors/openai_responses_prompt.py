"""What a request at `/v1/responses` asks of a model. Pure."""

import re
from collections.abc import Sequence
from typing import Any, Final

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
from services.inference.domain.prompt_limits import MAX_PARTS
from services.inference.transport.doors.bodies import media_of
from services.inference.transport.doors.conversation import Conversation, Words
from services.inference.transport.doors.labels import SAID
from services.inference.transport.doors.openai_responses import (
    AnyObject,
    AnyText,
    CallItem,
    Content,
    InputFile,
    InputImage,
    InputText,
    NamedTool,
    OfSchema,
    OutputItem,
    OutputText,
    Refusal,
    ResponsesRequest,
    SaidItem,
    item_of,
    tool_of,
)
from services.meshkit.content import (
    ImagePart,
    Label,
    MessageRole,
    Part,
    ToolCallPart,
    text_part,
)
from services.meshkit.core.errors import Invalid

_ROLES: Final = {
    "user": MessageRole.USER,
    "assistant": MessageRole.ASSISTANT,
    "system": MessageRole.SYSTEM,
    "developer": MessageRole.SYSTEM,
}


_WORDS: Final = Words(
    parts={
        ".tool_result.tool_call_id": ".call_id",
        ".tool_call.name": ".name",
        ".tool_call.arguments": ".arguments",
        ".tool_call.tool_call_id": ".call_id",
        ".image": ".image_url",
        ".image.data": ".image_url",
        ".image.media_type": ".image_url",
        ".document.data": ".file_data",
        ".document.media_type": ".file_data",
    },
    fields=(
        (re.compile(r"^messages$"), "input"),
        (re.compile(r"^output_format\.json_schema"), "text.format"),
        (re.compile(r"^sampling\.reasoning_effort"), "reasoning.effort"),
        (re.compile(r"^sampling\."), ""),
        (re.compile(r"^tools\[(\d+)\]\.input_schema"), r"tools[\1].parameters"),
        (re.compile(r"^image\.detail"), "input_image.detail"),
        (re.compile(r"^document$"), "input_file"),
    ),
)


def conversation_of(asked: ResponsesRequest) -> Conversation:
    """Reads what was said. Raises: UnknownField, Invalid, naming the field."""
    said = Conversation(_WORDS)
    if asked.instructions is not None:
        _add(said, MessageRole.SYSTEM, text_part(asked.instructions, SAID), "instructions")
    if isinstance(asked.input, str):
        _add(said, MessageRole.USER, text_part(asked.input, SAID), "input")
        return said
    _check_count(asked.input, "input")
    for index, raw in enumerate(asked.input):
        place = f"input[{index}]"
        match item_of(raw, place):
            case SaidItem() as item:
                _add_message(said, item, f"{place}.content")
            case CallItem() as item:
                _begin(said, MessageRole.ASSISTANT, place)
                said.call(_called(item, place), said.of_model, place)
            case OutputItem(call_id=call, output=output):
                _begin(said, MessageRole.TOOL, place)
                text = output if isinstance(output, str) else "\n".join(part.text for part in output)
                said.result(call, text, place)
    return said


def prompt_of(asked: ResponsesRequest, said: Conversation, *, default_output: int) -> Prompt:
    """Gives the prompt of a request.

    Args:
        default_output: longest answer of a request that names no limit, tokens.
    Raises: UnknownField, Invalid, naming the field as the dialect does.
    """
    effort = None if asked.reasoning is None else asked.reasoning.effort
    return said.checked(
        Prompt(
            messages=said.messages(),
            tools=tuple(_tool(raw, f"tools[{index}]") for index, raw in enumerate(asked.tools or ())),
            max_output_tokens=default_output if asked.max_output_tokens is None else asked.max_output_tokens,
            temperature=asked.temperature,
            tool_choice=_tool_choice(asked.tool_choice),
            parallel_tool_calls=asked.parallel_tool_calls,
            output_format=_output_format(None if asked.text is None else asked.text.format),
            sampling=Sampling(top_p=asked.top_p, reasoning_effort=None if effort is None else ReasoningEffort(effort)),
        )
    )


def _begin(said: Conversation, role: MessageRole, place: str) -> None:
    """Begins a message, unless a model goes on: what it said in several items in a row was one answer."""
    if not (said.role is role is MessageRole.ASSISTANT):
        said.begin(role, place)


def _add(said: Conversation, role: MessageRole, part: Part, place: str) -> None:
    _begin(said, role, place)
    said.add(part, place)


def _add_message(said: Conversation, item: SaidItem, place: str) -> None:
    role = _ROLES[item.role]
    label = said.of_model if role is MessageRole.ASSISTANT else SAID
    if isinstance(item.content, str):
        _add(said, role, text_part(item.content, label), place)
        return
    if not item.content:
        raise Invalid(place, "must hold at least one part")
    _check_count(item.content, place)
    _begin(said, role, place)
    for number, content in enumerate(item.content):
        where = f"{place}[{number}]"
        said.add(_part(content, role, label, where), where)


def _check_count(listed: Sequence[object], place: str) -> None:
    """Refuses more than a prompt may hold before any of it is read."""
    if len(listed) > MAX_PARTS:
        raise Invalid(place, f"must not hold more than {MAX_PARTS}")


def _part(content: Content, role: MessageRole, label: Label, place: str) -> Part:
    match content:
        case OutputText(text=text) | Refusal(refusal=text) if role is MessageRole.ASSISTANT:
            return text_part(text, label)
        case InputText(text=text) if role is not MessageRole.ASSISTANT:
            return text_part(text, label)
        case InputImage(image_url=url, detail=detail) if role is MessageRole.USER:
            picture = media_of(url, field=f"{place}.image_url", detail=detail)
            if not isinstance(picture, ImagePart):
                raise Invalid(f"{place}.image_url", "is no picture")
            return Part(picture, label)
        case InputFile(file_data=url, filename=name) if role is MessageRole.USER:
            return Part(media_of(url, field=f"{place}.file_data", title=name or ""), label)
        case _:
            raise Invalid(f"{place}.type", f"does not stand in a message of the role {role}")


def _called(item: CallItem, place: str) -> ToolCallPart:
    try:
        arguments = msgspec.json.decode(item.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Invalid(f"{place}.arguments", f"is no JSON object: {error}") from error
    return ToolCallPart(tool_call_id=item.call_id, name=item.name, arguments=arguments)


def _tool(raw: bytes, place: str) -> ToolDefinition:
    tool = tool_of(raw, place)
    return ToolDefinition(
        name=tool.name,
        description=tool.description or "",
        input_schema=tool.parameters or {"type": "object", "properties": {}},
    )


def _tool_choice(choice: str | NamedTool | None) -> ToolChoice:
    if isinstance(choice, NamedTool):
        return ToolChoice(mode=ToolChoiceMode.TOOL, name=choice.name)
    return ToolChoice(mode=ToolChoiceMode(choice or "auto"))


def _output_format(wanted: AnyText | AnyObject | OfSchema | None) -> OutputFormat:
    match wanted:
        case None | AnyText():
            return OutputFormat()
        case AnyObject():
            return OutputFormat(kind=OutputKind.JSON_OBJECT)
        case OfSchema():
            return OutputFormat(
                kind=OutputKind.JSON_SCHEMA, name=wanted.name, schema=wanted.schema, strict=bool(wanted.strict)
            )
