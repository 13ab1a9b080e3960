"""What a request at `/v1/chat/completions` asks of a model. Pure."""

import re
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
from services.inference.transport.doors.bodies import media_of
from services.inference.transport.doors.conversation import Conversation, Words
from services.inference.transport.doors.labels import SAID
from services.inference.transport.doors.openai_chat import (
    AnyObject,
    AnyText,
    Assistant,
    Call,
    ChatRequest,
    Developer,
    File,
    Image,
    NamedTool,
    OfSchema,
    Refusal,
    System,
    Text,
    Told,
    User,
)
from services.meshkit.content import Label, MessageRole, Part, ToolCallPart, text_part
from services.meshkit.core.errors import Invalid

_PARTS: Final = {
    ".parts": ".content",
    ".tool_result.tool_call_id": ".tool_call_id",
    ".tool_call.tool_call_id": ".id",
    ".tool_call.name": ".function.name",
    ".tool_call.arguments": ".function.arguments",
    ".image": ".image_url",
    ".image.data": ".image_url.url",
    ".image.media_type": ".image_url.url",
    ".document.data": ".file.file_data",
    ".document.media_type": ".file.file_data",
}
_FIELDS: Final = (
    (re.compile(r"^stop_sequences"), "stop"),
    (re.compile(r"^max_output_tokens"), "max_completion_tokens"),
    (re.compile(r"^output_format"), "response_format"),
    (re.compile(r"^sampling\."), ""),
    (re.compile(r"^tools\[(\d+)\]\.input_schema"), r"tools[\1].function.parameters"),
    (re.compile(r"^tools\[(\d+)\]\.name"), r"tools[\1].function.name"),
    (re.compile(r"^tool_choice\.name"), "tool_choice.function.name"),
    (re.compile(r"^image\.detail"), "image_url.detail"),
    (re.compile(r"^document$"), "file"),
)
#: Of the older name of the limit, and of what is no list.
_OLDER: Final = (re.compile(r"^max_completion_tokens"), "max_tokens")
_ONE_STOP: Final = (re.compile(r"^stop\[0\]"), "stop")


def conversation_of(asked: ChatRequest) -> Conversation:
    """Reads what was said. Raises: Invalid, naming the field."""
    said = Conversation(_words(asked))
    for index, message in enumerate(asked.messages):
        place = f"messages[{index}]"
        match message:
            case System() | Developer():
                said.begin(MessageRole.SYSTEM, place, name=message.name)
                _add_texts(said, message.content, SAID, f"{place}.content")
            case User():
                said.begin(MessageRole.USER, place, name=message.name)
                _add_question(said, message.content, f"{place}.content")
            case Assistant():
                said.begin(MessageRole.ASSISTANT, place, name=message.name)
                _add_answer(said, message, place)
            case Told(tool_call_id=call, content=content):
                said.begin(MessageRole.TOOL, place)
                text = content if isinstance(content, str) else "\n".join(part.text for part in content)
                said.result(call, text, place)
    return said


def prompt_of(asked: ChatRequest, said: Conversation, *, default_output: int) -> Prompt:
    """Gives the prompt of a request.

    Args:
        default_output: longest answer of a request that names no limit, tokens.
    Raises: Invalid, naming the field as the dialect does.
    """
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    return said.checked(
        Prompt(
            messages=said.messages(),
            tools=tuple(
                ToolDefinition(
                    name=tool.function.name,
                    description=tool.function.description or "",
                    input_schema=tool.function.parameters or {"type": "object", "properties": {}},
                )
                for tool in asked.tools or ()
            ),
            max_output_tokens=default_output if limit is None else limit,
            temperature=asked.temperature,
            stop_sequences=tuple(stop),
            tool_choice=_tool_choice(asked.tool_choice),
            parallel_tool_calls=asked.parallel_tool_calls,
            output_format=_output_format(asked.response_format),
            sampling=Sampling(
                top_p=asked.top_p,
                seed=asked.seed,
                frequency_penalty=asked.frequency_penalty,
                presence_penalty=asked.presence_penalty,
                reasoning_effort=None if asked.reasoning_effort is None else ReasoningEffort(asked.reasoning_effort),
            ),
        )
    )


def _words(asked: ChatRequest) -> Words:
    older = () if asked.max_completion_tokens is not None else (_OLDER,)
    one_stop = (_ONE_STOP,) if isinstance(asked.stop, str) else ()
    return Words(parts=_PARTS, fields=(*_FIELDS, *older, *one_stop))


def _add_texts(said: Conversation, content: str | list[Text] | list[Text | Refusal], label: Label, place: str) -> None:
    if isinstance(content, str):
        said.add(text_part(content, label), place)
        return
    for number, part in enumerate(content):
        said.add(text_part(part.text if isinstance(part, Text) else part.refusal, label), f"{place}[{number}]")


def _add_question(said: Conversation, content: str | list[Text | Image | File], place: str) -> None:
    if isinstance(content, str):
        said.add(text_part(content, SAID), place)
        return
    for number, part in enumerate(content):
        where = f"{place}[{number}]"
        match part:
            case Text(text=text):
                said.add(text_part(text, SAID), where)
            case Image(image_url=image):
                picture = media_of(image.url, field=f"{where}.image_url.url", detail=image.detail)
                said.add(Part(picture, SAID), where)
            case File(file=file):
                document = media_of(file.file_data, field=f"{where}.file.file_data", title=file.filename)
                said.add(Part(document, SAID), where)


def _add_answer(said: Conversation, message: Assistant, place: str) -> None:
    label = said.of_model
    if message.content or not message.tool_calls:
        field = "content" if message.content or not message.refusal else "refusal"
        _add_texts(said, message.content or message.refusal or "", label, f"{place}.{field}")
    for number, call in enumerate(message.tool_calls or ()):
        where = f"{place}.tool_calls[{number}]"
        said.call(_tool_call(call, where), label, where)


def _tool_call(call: Call, place: str) -> ToolCallPart:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Invalid(f"{place}.function.arguments", f"is no JSON object: {error}") from error
    return ToolCallPart(tool_call_id=call.id, name=call.function.name, arguments=arguments)


def _tool_choice(choice: str | NamedTool | None) -> ToolChoice:
    if isinstance(choice, NamedTool):
        return ToolChoice(mode=ToolChoiceMode.TOOL, name=choice.function.name)
    return ToolChoice(mode=ToolChoiceMode(choice or "auto"))


def _output_format(wanted: AnyText | AnyObject | OfSchema | None) -> OutputFormat:
    match wanted:
        case None | AnyText():
            return OutputFormat()
        case AnyObject():
            return OutputFormat(kind=OutputKind.JSON_OBJECT)
        case OfSchema(json_schema=schema):
            return OutputFormat(
                kind=OutputKind.JSON_SCHEMA, name=schema.name, schema=schema.schema or {}, strict=bool(schema.strict)
            )
