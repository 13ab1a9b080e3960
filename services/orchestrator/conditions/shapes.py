"""What is known of a value before there is one: read from JSON Schemas, told to the type checker of CEL."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast

#: Properties that CEL can name as fields; four words are its own.
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_WORDS: Final = frozenset({"in", "true", "false", "null"})
#: Deeper levels may be anything.
_MAX_LEVELS: Final = 12


class Scalar(Enum):
    """A value without parts, or of which nothing is known."""

    ANY = "any"
    TEXT = "string"
    WHOLE = "integer"
    NUMBER = "number"
    TRUTH = "boolean"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of values alike."""

    item: "Shape"


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object with any keys."""

    value: "Shape"


@dataclass(frozen=True, slots=True)
class Record:
    """An object whose fields are known, and no others."""

    fields: Mapping[str, "Shape"]


Shape = Scalar | ListOf | MapOf | Record
ANY: Final = Scalar.ANY
_SCALARS: Final = {scalar.value: scalar for scalar in Scalar if scalar is not ANY}


def shape_of(schema: Mapping[str, object] | None) -> Shape:
    """Reads what a schema says of a value; what it leaves open is ANY.

    Args:
        schema: one that compiles, so that its references end.
    """
    return ANY if schema is None else _Shapes(schema).shape(schema, 0)


class _Shapes:
    def __init__(self, root: Mapping[str, object]) -> None:
        self._root = root

    def shape(self, schema: object, level: int) -> Shape:
        if not isinstance(schema, Mapping) or level > _MAX_LEVELS:
            return ANY
        known = cast(Mapping[str, object], schema)
        reference = known.get("$ref")
        if isinstance(reference, str):
            return self.shape(self._target(reference), level + 1)
        kind = known.get("type")
        match kind:
            case "array":
                items = known.get("items")
                return ListOf(ANY if "prefixItems" in known else self.shape(items, level + 1))
            case "object":
                return self._object(known, level)
            case str():
                return _SCALARS.get(kind, ANY)
            case _:
                return ANY

    def _object(self, schema: Mapping[str, object], level: int) -> Shape:
        properties, more = schema.get("properties"), schema.get("additionalProperties")
        if not isinstance(properties, Mapping) or not properties:
            return MapOf(self.shape(more, level + 1))
        known = cast(Mapping[str, object], properties)
        closed = more in (None, False) and "patternProperties" not in schema
        if not closed or not all(_FIELD.fullmatch(name) and name not in _WORDS for name in known):
            return MapOf(ANY)
        return Record({name: self.shape(part, level + 1) for name, part in known.items()})

    def _target(self, reference: str) -> object:
        node = cast(object, self._root)
        for step in reference.lstrip("#/").split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping):
                node = cast(Mapping[str, object], node).get(key)
            elif isinstance(node, list) and key.isdigit():
                items = cast(list[object], node)
                node = items[int(key)] if int(key) < len(items) else None
            else:
                return None
        return node
