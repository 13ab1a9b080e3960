"""Reads the bytes of a request, and says what is wrong with those that cannot be read, and where.

gRPC itself refuses a message beyond its limit with a bare RESOURCE_EXHAUSTED. So our servers let it take more
(`RECEIVED_BYTES`) than we do (`MAX_MESSAGE_BYTES`), and what lies between is refused here with a reason. Beyond that,
only callers inside the mesh get the bare one: the edge holds back what is larger than ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from services.meshkit.core.errors import ErrorKind, Invalid, MeshError

#: Largest message either way, bytes; larger content travels as a blob.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
#: Largest message that gRPC hands to us, bytes.
RECEIVED_BYTES: Final = 2 * MAX_MESSAGE_BYTES

_LENGTH_DELIMITED: Final = 2
_NOWHERE: Final = "request"
#: Deeper messages are not searched for the fault.
_MAX_DEPTH: Final = 32


class MalformedRequest(Invalid):
    """The bytes of the request are no such message, or a text in it is not UTF-8. Fix the client."""

    reason = "MALFORMED_REQUEST"


class RequestTooLarge(MeshError):
    """The message is larger than any may be. Send less, or the content in parts."""

    kind: ClassVar[ErrorKind] = ErrorKind.INVALID
    reason: ClassVar[str] = "REQUEST_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class InParts:
    """Reads frames of a stream whose parts are judged one by one, so that one that is too large costs no other.

    What gRPC hands over is read whatever its size. Beyond that gRPC ends the stream, and says nothing of why to us.
    """

    kind: type[Message]

    def __call__(self, raw: bytes) -> Message:
        """Reads one. Raises: DecodeError."""
        return self.kind.FromString(raw)


def decoder(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Gives a reader that refuses what it cannot read.

    Args:
        parse: `FromString` of the message, or `InParts`.
    Raises (the reader): RequestTooLarge, MalformedRequest.
    """
    most = RECEIVED_BYTES if isinstance(parse, InParts) else MAX_MESSAGE_BYTES

    def decode(raw: bytes) -> Any:
        if len(raw) > most:
            raise RequestTooLarge(
                f"the message has {len(raw)} bytes and may have {most}; send less, or the content in parts",
                limit_bytes=most,
            )
        try:
            return parse(raw)
        except DecodeError as error:
            raise _malformed(raw, parse) from error

    return decode


def _malformed(raw: bytes, parse: Callable[[bytes], Any]) -> MalformedRequest:
    kind = parse.kind if isinstance(parse, InParts) else cast("type[Message] | None", getattr(parse, "__self__", None))
    field = _bad_text(raw, cast(Descriptor, kind.DESCRIPTOR), 0) if kind is not None else None
    if field is not None:
        return MalformedRequest(field, "is not UTF-8; encode texts as UTF-8 and content that is none as bytes")
    return MalformedRequest(_NOWHERE, "cannot be read: its bytes are no such message")


def _bad_text(raw: bytes, message: Descriptor, depth: int) -> str | None:
    """Finds the first text in a message that is not UTF-8; None when the bytes are wrong in another way."""
    if depth > _MAX_DEPTH:
        return None
    try:
        seen = UnknownFieldSet(Empty.FromString(raw))
    except DecodeError:
        return None
    counts: dict[int, int] = {}
    for one in seen:
        field = message.fields_by_number.get(one.field_number)
        if field is None or one.wire_type != _LENGTH_DELIMITED:
            continue
        index = counts[field.number] = counts.get(field.number, -1) + 1
        found = _bad_inside(cast(bytes, one.data), field, depth)
        if found is not None:
            place = f"{field.name}[{index}]" if field.is_repeated and not _is_map(field) else field.name
            return f"{place}.{found}".rstrip(".")
    return None


def _bad_inside(data: bytes, field: FieldDescriptor, depth: int) -> str | None:
    """Gives the place below the field, empty for the field itself; None when its texts are good."""
    if field.message_type is not None:
        found = _bad_text(data, field.message_type, depth + 1)
        return "" if found is not None and _is_map(field) else found
    if field.type != FieldDescriptor.TYPE_STRING:
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return ""
    return None


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
