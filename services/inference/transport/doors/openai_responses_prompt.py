"""What a request at `/v1/responses` asks of a model. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import (
    MAX_PARTS,
    Prompt,
    ReasoningEffort,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
    checked_prompt,
)
from services.inference.transport.doors.bodies import media_of
from services.inference.transport.doors.labels import BROUGHT, SAID
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
    Message,
    MessageRole,
    Part,
    ToolCallPart,
    ToolResultPart,
    text_part,
)
from services.meshkit.core.errors import Invalid

_ROLES: Final = {
    "user": MessageRole.USER,
    "assistant": MessageRole.ASSISTANT,
    "system": MessageRole.SYSTEM,
    "developer": MessageRole.SYSTEM,
}


def prompt_of(asked: ResponsesRequest, *, default_output: int) -> Prompt:
    """Gives the prompt of a request.

    Args:
        default_output: longest answer of a request that names no limit, tokens.
    Raises: UnknownField, Invalid, naming the field as the dialect does.
    """
    said = _Conversation()
    said.read(asked)
    effort = None if asked.reasoning is None else asked.reasoning.effort
    prompt = Prompt(
        messages=said.messages(),
        tools=tuple(_tool(raw, f"tools[{index}]") for index, raw in enumerate(asked.tools or ())),
        max_output_tokens=default_output if asked.max_output_tokens is None else asked.max_output_tokens,
        temperature=asked.temperature,
        tool_choice=_tool_choice(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        output_format=_output_format(None if asked.text is None else asked.text.format),
        sampling=Sampling(top_p=asked.top_p, reasoning_effort=None if effort is None else ReasoningEffort(effort)),
    )
    try:
        return checked_prompt(prompt)
    except Invalid as refused:
        raise Invalid(said.in_dialect(refused.field or "body"), refused.sentence, **refused.metadata) from refused


@dataclass(slots=True)
class _Conversation:
    """Messages as they come together from items, and where in the request each part of them stands."""

    roles: list[MessageRole] = field(default_factory=list[MessageRole])
    #: Of each message.
    parts: list[list[Part]] = field(default_factory=list[list[Part]])
    places: list[list[str]] = field(default_factory=list[list[str]])
    #: Tools by the ids of their calls.
    names: dict[str, str] = field(default_factory=dict[str, str])
    #: True once a tool is said to have said something.
    told: bool = False

    def messages(self) -> tuple[Message, ...]:
        """Gives what was read."""
        said = zip(self.roles, self.parts, strict=True)
        return tuple(Message(role=role, parts=tuple(parts)) for role, parts in said)

    def read(self, asked: ResponsesRequest) -> None:
        """Takes all that a request says. Raises: UnknownField, Invalid."""
        if asked.instructions is not None:
            self._add(MessageRole.SYSTEM, text_part(asked.instructions, SAID), "instructions")
        if isinstance(asked.input, str):
            self._add(MessageRole.USER, text_part(asked.input, SAID), "input")
            return
        _check_count(asked.input, "input")
        for index, raw in enumerate(asked.input):
            place = f"input[{index}]"
            match item_of(raw, place):
                case SaidItem() as item:
                    self._say(item, f"{place}.content")
                case CallItem() as item:
                    self.names[item.call_id] = item.name
                    self._add(MessageRole.ASSISTANT, Part(_called(item, place), self._of_model()), place)
                case OutputItem(call_id=call, output=output):
                    self.told = True
                    text = output if isinstance(output, str) else "\n".join(part.text for part in output)
                    result = ToolResultPart(tool_call_id=call, name=self.names.get(call, ""), text=text)
                    self._add(MessageRole.TOOL, Part(result, BROUGHT), place)

    def _say(self, item: SaidItem, place: str) -> None:
        role = _ROLES[item.role]
        label = self._of_model() if role is MessageRole.ASSISTANT else SAID
        if isinstance(item.content, str):
            self._add(role, text_part(item.content, label), place)
            return
        if not item.content:
            raise Invalid(place, "must hold at least one part")
        _check_count(item.content, place)
        for number, content in enumerate(item.content):
            where = f"{place}[{number}]"
            self._add(role, _part(content, role, label, where), where, goes_on=number > 0)

    def _of_model(self) -> Label:
        """Gives the label of what a model said: it may have read what a tool said."""
        return BROUGHT if self.told else SAID

    def _add(self, role: MessageRole, part: Part, place: str, *, goes_on: bool = False) -> None:
        """Adds a part. What a model said in several items in a row was one answer."""
        one_answer = bool(self.roles) and self.roles[-1] is role is MessageRole.ASSISTANT
        if goes_on or one_answer:
            self.parts[-1].append(part)
            self.places[-1].append(place)
        else:
            self.roles.append(role)
            self.parts.append([part])
            self.places.append([place])

    def in_dialect(self, name: str) -> str:
        """Gives the name that a field has in the request."""
        placed = _PLACED.fullmatch(name)
        if placed is not None:
            message, part, rest = int(placed[1]), int(placed[2] or 0), placed[3]
            return f"{self.places[message][part]}{_RESTS.get(rest, rest)}"
        for ours, theirs in _FIELDS:
            name = ours.sub(theirs, name)
        return name


#: Names of fields, ours and the dialect's.
_PLACED: Final = re.compile(r"messages\[(\d+)\](?:\.parts\[(\d+)\])?(.*)")
_RESTS: Final = {
    ".tool_result.tool_call_id": ".call_id",
    ".tool_call": ".name",
    ".tool_call.arguments": ".arguments",
    ".tool_call.tool_call_id": ".call_id",
    ".image.data": ".image_url",
    ".image.media_type": ".image_url",
    ".document.media_type": ".file_data",
}
_FIELDS: Final = (
    (re.compile(r"^messages$"), "input"),
    (re.compile(r"^output_format\.json_schema"), "text.format"),
    (re.compile(r"^sampling\.reasoning_effort"), "reasoning.effort"),
    (re.compile(r"^sampling\."), ""),
    (re.compile(r"^tools\[(\d+)\]\.input_schema"), r"tools[\1].parameters"),
)


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
