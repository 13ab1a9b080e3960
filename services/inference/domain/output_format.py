"""The form that an answer must have."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class OutputKind(StrEnum):
    """What an answer is."""

    TEXT = "text"
    #: Any JSON object.
    JSON_OBJECT = "json_object"
    #: JSON that keeps a schema.
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """The form that an answer must have: text, unless told otherwise."""

    kind: OutputKind = OutputKind.TEXT
    #: What the provider is told that the schema is called.
    name: str = ""
    #: JSON Schema; open by nature. With `JSON_SCHEMA` only.
    schema: Mapping[str, object] | None = None
    #: True to have the provider itself keep to it, where it can.
    strict: bool = False
