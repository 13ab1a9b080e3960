"""Inputs and outputs of steps: JSON, as protobuf carries it."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, cast

from google.protobuf import struct_pb2

#: Largest output, encoded.
MAX_OUTPUT_BYTES: Final = 256 * 1024
#: Whole numbers up to here are exact in JSON.
_EXACT: Final = 2**53
_MAX_LEVELS: Final = 60


class NotJson(Exception):
    """A value is none that JSON can hold; the message says where and why."""


def from_value(value: struct_pb2.Value) -> Any:
    """Reads a value. Whole numbers come as `int`."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return {name: from_value(field) for name, field in value.struct_value.fields.items()}
        case "list_value":
            return [from_value(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def to_value(found: object, *, place: str = "the output", levels: int = _MAX_LEVELS) -> struct_pb2.Value:
    """Writes a value. Raises: NotJson."""
    value = struct_pb2.Value()
    _fill(value, found, place, levels)
    return value


def _fill(value: struct_pb2.Value, found: object, place: str, levels: int) -> None:
    if levels == 0:
        raise NotJson(f"{place} lies more than {_MAX_LEVELS} levels deep")
    match found:
        case None:
            value.null_value = struct_pb2.NULL_VALUE
        case bool():
            value.bool_value = found
        case int() | float():
            value.number_value = _number(found, place)
        case str():
            value.string_value = _text(found, place)
        case Mapping():
            _fill_object(value.struct_value, cast("Mapping[object, object]", found), place, levels)
        case bytes() | bytearray():
            raise NotJson(f"{place} is bytes; JSON has none, encode them as text")
        case Sequence():
            value.list_value.SetInParent()
            for number, item in enumerate(cast("Sequence[object]", found)):
                _fill(value.list_value.values.add(), item, f"{place}[{number}]", levels - 1)
        case _:
            kind = type(found).__name__
            raise NotJson(f"{place} is a {kind}; a step gives None, bool, int, float, str, a list or a dict of them")


def _fill_object(struct: struct_pb2.Struct, found: Mapping[object, object], place: str, levels: int) -> None:
    struct.SetInParent()
    for name, item in found.items():
        if not isinstance(name, str):
            raise NotJson(f"{place} has the key {name!r}; keys are text")
        _fill(struct.fields[_text(name, place)], item, f"{place}.{name}", levels - 1)


def _number(found: float, place: str) -> float:
    if isinstance(found, int) and abs(found) > _EXACT:
        raise NotJson(f"{place} is {found}, which is not exact in JSON; give it as text")
    if not isfinite(found):
        raise NotJson(f"{place} is {found}; JSON has no such number")
    return found


def _text(found: str, place: str) -> str:
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise NotJson(f"{place} holds text that is no Unicode: {error.reason}") from error
    return found
