"""JSON values inside of programs: read from and written to protobuf, within bounds.

What a graph computes can grow with every node, so everything that it writes is measured on the way out.
"""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Final, cast

from google.protobuf import struct_pb2

#: Most that one value may take, about; an answer that holds it still fits into one message.
MAX_VALUE_BYTES: Final = 3 * 1024 * 1024
#: Levels of lists and objects; protobuf reads about three times as many messages inside each other.
MAX_LEVELS: Final = 30
#: What each part of a value takes besides its text.
_PART_BYTES: Final = 4
#: Whole numbers up to here are the same as a double.
_MAX_WHOLE: Final = 2**53

#: JSON is open by nature.
Json = object


class ValueTooLarge(Exception):
    """A value is larger, or nested deeper, than a fact may hold."""

    reason = "VALUE_TOO_LARGE"


class NotJson(Exception):
    """A value is none that JSON knows."""


def to_value(value: Json) -> struct_pb2.Value:
    """Writes a JSON value. Raises: ValueTooLarge, NotJson."""
    message = struct_pb2.Value()
    _Writer().write(message, value, 0)
    return message


def to_struct(fields: Mapping[str, Json]) -> struct_pb2.Struct:
    """Writes a JSON object. Raises: ValueTooLarge, NotJson."""
    message = struct_pb2.Struct()
    writer = _Writer()
    for name, value in fields.items():
        writer.count(name)
        writer.write(message.fields[name], value, 1)
    return message


def from_value(message: struct_pb2.Value) -> Json:
    """Reads a JSON value; whole numbers become integers, and a value that was never set is null."""
    match message.WhichOneof("kind"):
        case "string_value":
            return message.string_value
        case "number_value":
            return _number(message.number_value)
        case "bool_value":
            return message.bool_value
        case "struct_value":
            return from_struct(message.struct_value)
        case "list_value":
            return [from_value(item) for item in message.list_value.values]
        case _:
            return None


def from_struct(message: struct_pb2.Struct) -> dict[str, Json]:
    """Reads a JSON object, its keys in order: those of protobuf have none."""
    return {name: from_value(message.fields[name]) for name in sorted(message.fields)}


def as_text(value: Json) -> str:
    """Writes a value for people and models: a text as it is, anything else as JSON.

    Raises: ValueTooLarge, NotJson.
    """
    if isinstance(value, str):
        return value
    _Writer().write(struct_pb2.Value(), value, 0)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _number(value: float) -> Json:
    return int(value) if value.is_integer() and abs(value) <= _MAX_WHOLE else value


class _Writer:
    """Writes one value and counts what it takes."""

    def __init__(self) -> None:
        self._left = MAX_VALUE_BYTES

    def count(self, text: str = "") -> None:
        """Takes what a part takes. Raises: ValueTooLarge."""
        self._left -= _PART_BYTES + len(text)
        if self._left < 0:
            raise ValueTooLarge(f"the value takes more than {MAX_VALUE_BYTES} bytes; give less of it")

    def write(self, message: struct_pb2.Value, value: Json, level: int) -> None:
        """Writes a value with all that is in it. Raises: ValueTooLarge, NotJson."""
        if level > MAX_LEVELS:
            raise ValueTooLarge(f"the value is nested deeper than {MAX_LEVELS} levels; make it flatter")
        match value:
            case str():
                self.count(value)
                message.string_value = value
            case None:
                self.count()
                message.null_value = struct_pb2.NULL_VALUE
            case bool():
                self.count()
                message.bool_value = value
            case int() | float():
                self.count()
                message.number_value = _finite(value)
            case dict():
                self.count()
                target = message.struct_value.fields
                message.struct_value.SetInParent()
                for name, part in cast("dict[object, Json]", value).items():
                    if not isinstance(name, str):
                        raise NotJson("an object has a key that is no text")
                    self.count(name)
                    self.write(target[name], part, level + 1)
            case list() | tuple():
                self.count()
                message.list_value.SetInParent()
                for part in cast("list[Json]", value):
                    self.write(message.list_value.values.add(), part, level + 1)
            case _:
                raise NotJson("the value is none that JSON knows")


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError as cause:
        raise NotJson("a number is too large") from cause
    if not isfinite(number):
        raise NotJson("a number is not finite")
    return number
