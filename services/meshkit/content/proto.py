"""Content nouns to and from proto; pure, and the only place where they are converted."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Final, cast

from google.protobuf import json_format, struct_pb2
from google.protobuf.message import DecodeError

from comitia.common.v1 import content_pb2, usage_pb2
from services.meshkit.content.call import CallContext, CallId
from services.meshkit.content.label import Confidentiality, Integrity, Label
from services.meshkit.content.part import (
    BlobPart,
    DocumentPart,
    ImageDetail,
    ImagePart,
    Message,
    MessageRole,
    Part,
    PartContent,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from services.meshkit.content.usage import USAGE_CLASSES, Usage, usage_of
from services.meshkit.core.errors import Invalid

_ROLES: Final = {
    MessageRole.SYSTEM: content_pb2.MESSAGE_ROLE_SYSTEM,
    MessageRole.USER: content_pb2.MESSAGE_ROLE_USER,
    MessageRole.ASSISTANT: content_pb2.MESSAGE_ROLE_ASSISTANT,
    MessageRole.TOOL: content_pb2.MESSAGE_ROLE_TOOL,
}
_ROLE_OF: Final = {number: role for role, number in _ROLES.items()}
_DETAILS: Final = {
    ImageDetail.AUTO: content_pb2.IMAGE_DETAIL_UNSPECIFIED,
    ImageDetail.LOW: content_pb2.IMAGE_DETAIL_LOW,
    ImageDetail.HIGH: content_pb2.IMAGE_DETAIL_HIGH,
}
_DETAIL_OF: Final = {number: detail for detail, number in _DETAILS.items()}
_INTEGRITY_OF: Final = {int(integrity): integrity for integrity in Integrity}
_CONFIDENTIALITY_OF: Final = {int(confidentiality): confidentiality for confidentiality in Confidentiality}
#: Token counts of a message, in the order of the classes.
_COUNTS_OF: Final = attrgetter(*(f"{name}_tokens" for name in USAGE_CLASSES))
#: Parts of one message or list of parts.
_MAX_PARTS: Final = 256


def label_to_proto(label: Label) -> content_pb2.Label:
    """Writes a label; sources are sorted so that equal labels have equal bytes."""
    return content_pb2.Label(
        integrity=cast(content_pb2.Integrity.ValueType, int(label.integrity)),
        confidentiality=cast(content_pb2.Confidentiality.ValueType, int(label.confidentiality)),
        sources=sorted(label.sources),
    )


def label_from_proto(message: content_pb2.Label) -> Label:
    """Reads a label; what is unspecified or unknown is taken as untrusted and of the tenant."""
    return Label(
        integrity=_INTEGRITY_OF.get(message.integrity, Integrity.UNTRUSTED),
        confidentiality=_CONFIDENTIALITY_OF.get(message.confidentiality, Confidentiality.TENANT),
        sources=frozenset(message.sources),
    )


def usage_to_proto(usage: Usage) -> usage_pb2.Usage:
    """Writes token counts."""
    return usage_pb2.Usage(**{f"{name}_tokens": getattr(usage, name) for name in USAGE_CLASSES})


def usage_from_proto(message: usage_pb2.Usage, *, field: str = "usage") -> Usage:
    """Reads token counts.

    Raises: Invalid (naming `field`): a count is negative.
    """
    counts = _COUNTS_OF(message)
    if min(counts) < 0:
        name = next(name for name, count in zip(USAGE_CLASSES, counts, strict=True) if count < 0)
        raise Invalid(f"{field}.{name}_tokens", "must not be negative")
    return usage_of(counts)


def struct_to_dict(message: struct_pb2.Struct, *, field: str = "arguments") -> dict[str, object]:
    """Reads a JSON object; whole numbers come back as int, as JSON writers mean them.

    Raises: Invalid (naming `field`): it holds a number that JSON does not have.
    """
    try:
        values = json_format.MessageToDict(message)
    except (ValueError, json_format.SerializeToJsonError) as cause:
        raise Invalid(field, "must hold finite numbers only") from cause
    return cast(dict[str, object], _whole_numbers(values))


def _whole_numbers(value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in cast(dict[str, object], value).items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in cast(list[object], value)]
    return value


def struct_from_dict(value: dict[str, object], *, field: str = "arguments") -> struct_pb2.Struct:
    """Writes a JSON object.

    Raises: Invalid (naming `field`): it is nested too deep, or holds what a message cannot hold.
    """
    struct = struct_pb2.Struct()
    try:
        json_format.ParseDict(value, struct)
    except (json_format.ParseError, DecodeError, OverflowError, UnicodeEncodeError) as cause:
        raise Invalid(field, "is nested too deep, or holds a value or number that does not fit on the wire") from cause
    return struct


def part_to_proto(part: Part) -> content_pb2.Part:
    """Writes a part with its label."""
    label = label_to_proto(part.label)
    match part.content:
        case TextPart(text):
            return content_pb2.Part(text=content_pb2.TextPart(text=text), label=label)
        case ImagePart(media_type=media_type, data=data, detail=detail):
            return content_pb2.Part(
                image=content_pb2.ImagePart(media_type=media_type, data=data, detail=_DETAILS[detail]),
                label=label,
            )
        case DocumentPart(media_type=media_type, data=data, title=title):
            document = content_pb2.DocumentPart(media_type=media_type, data=data, title=title)
            return content_pb2.Part(document=document, label=label)
        case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
            tool_call = content_pb2.ToolCallPart(
                tool_call_id=call,
                name=name,
                arguments=struct_from_dict(dict(arguments)),
            )
            return content_pb2.Part(tool_call=tool_call, label=label)
        case ToolResultPart(tool_call_id=call, name=name, text=text, failed=failed):
            result = content_pb2.ToolResultPart(tool_call_id=call, name=name, text=text, failed=failed)
            return content_pb2.Part(tool_result=result, label=label)
        case BlobPart(blob_id=blob_id, media_type=media_type, size_bytes=size, owner=owner):
            blob = content_pb2.BlobPart(blob_id=blob_id, media_type=media_type, size_bytes=size, owner=owner)
            return content_pb2.Part(blob=blob, label=label)


def part_from_proto(message: content_pb2.Part, *, field: str = "part") -> Part:
    """Reads a part with its label.

    Raises: Invalid (naming `field`): no kind is set.
    """
    return Part(_content_from_proto(message, field), label_from_proto(message.label))


def _content_from_proto(message: content_pb2.Part, field: str) -> PartContent:
    match message.WhichOneof("kind"):
        case "text":
            return TextPart(message.text.text)
        case "image":
            image = message.image
            detail = _DETAIL_OF.get(image.detail, ImageDetail.AUTO)
            return ImagePart(media_type=image.media_type, data=image.data, detail=detail)
        case "document":
            document = message.document
            return DocumentPart(media_type=document.media_type, data=document.data, title=document.title)
        case "tool_call":
            call = message.tool_call
            return ToolCallPart(
                tool_call_id=call.tool_call_id,
                name=call.name,
                arguments=struct_to_dict(call.arguments),
            )
        case "tool_result":
            result = message.tool_result
            return ToolResultPart(
                tool_call_id=result.tool_call_id,
                name=result.name,
                text=result.text,
                failed=result.failed,
            )
        case "blob":
            blob = message.blob
            return BlobPart(
                blob_id=blob.blob_id,
                media_type=blob.media_type,
                size_bytes=blob.size_bytes,
                owner=blob.owner,
            )
        case _:
            raise Invalid(
                field,
                "must hold one of text, image, document, tool_call, tool_result, blob",
            )


def parts_to_proto(parts: Iterable[Part]) -> list[content_pb2.Part]:
    """Writes parts in order."""
    return [part_to_proto(part) for part in parts]


def parts_from_proto(messages: Iterable[content_pb2.Part], *, field: str = "parts") -> tuple[Part, ...]:
    """Reads parts in order.

    Raises: Invalid (naming the part): it is empty, or there are more than 256.
    """
    parts = tuple(part_from_proto(message, field=f"{field}[{index}]") for index, message in enumerate(messages))
    if len(parts) > _MAX_PARTS:
        raise Invalid(field, f"must not have more than {_MAX_PARTS} parts")
    return parts


def message_to_proto(message: Message) -> content_pb2.Message:
    """Writes a message."""
    return content_pb2.Message(
        role=_ROLES[message.role],
        parts=parts_to_proto(message.parts),
        name=message.name,
    )


def message_from_proto(message: content_pb2.Message, *, field: str = "message") -> Message:
    """Reads a message.

    Raises: Invalid (naming the place under `field`): no role, no parts, or an empty part.
    """
    role = _ROLE_OF.get(message.role)
    if role is None:
        raise Invalid(f"{field}.role", "must be one of SYSTEM, USER, ASSISTANT, TOOL")
    parts = parts_from_proto(message.parts, field=f"{field}.parts")
    if not parts:
        raise Invalid(f"{field}.parts", "must have at least one part")
    return Message(role=role, parts=parts, name=message.name)


def call_id_to_proto(call_id: CallId) -> content_pb2.CallId:
    """Writes a call id."""
    message = content_pb2.CallId()
    write_call_id(call_id, message)
    return message


def write_call_id(call_id: CallId, message: content_pb2.CallId) -> None:
    """Writes a call id into an empty message."""
    message.run_id = call_id.run_id
    message.path = call_id.path
    message.attempt_group = call_id.attempt_group
    message.call_index = call_id.index


def call_id_from_proto(message: content_pb2.CallId) -> CallId:
    """Reads a call id."""
    return CallId(
        run_id=message.run_id,
        path=message.path,
        attempt_group=message.attempt_group,
        index=message.call_index,
    )


def context_to_proto(context: CallContext) -> content_pb2.CallContext:
    """Writes what travels with a call."""
    return content_pb2.CallContext(
        call_id=call_id_to_proto(context.call_id),
        budget_ids=context.budget_ids,
        agent_name=context.agent_name,
        agent_version=context.agent_version,
        project=context.project,
        residency_region=context.residency_region,
        bundle=context.bundle,
        bundle_digest=context.bundle_digest,
        parent_steps=context.parent_steps,
    )


def context_from_proto(message: content_pb2.CallContext) -> CallContext:
    """Reads what travels with a call."""
    return CallContext(
        call_id=call_id_from_proto(message.call_id),
        budget_ids=tuple(message.budget_ids),
        agent_name=message.agent_name,
        agent_version=message.agent_version,
        project=message.project,
        residency_region=message.residency_region,
        bundle=message.bundle,
        bundle_digest=message.bundle_digest,
        parent_steps=tuple(message.parent_steps),
    )
