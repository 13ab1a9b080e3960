"""The form that an answer must have: what may be asked for, and whether an answer keeps it.

Whoever was asked, and whatever their server promises, each answer is held against its form here.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, cast

from services.meshkit.content import nests_deeper
from services.meshkit.core.errors import Invalid
from services.meshkit.documents.schema import Schema, SchemaUnusable, compile_schema

#: What a model is told that is asked for JSON in words.
IN_WORDS: Final = "Answer with one JSON object and nothing else: no code block, no text before or after it."
#: Levels of objects and lists in a schema.
MAX_DEPTH: Final = 32
#: Schemas that are kept ready: a workflow asks for the same few again and again.
_KEPT: Final = 128
_WHOLE: Final = "the whole answer"
#: What a provider that keeps to a schema strictly takes in it; with another keyword it refuses the request.
_STRICT_KEYWORDS: Final = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "description",
        "title",
    }
    | {"$ref", "$defs"}
)

#: JSON Schema and JSON values are open by nature.
Json = Mapping[str, object]


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


@dataclass(frozen=True, slots=True)
class Conformed:
    """The part of an answer that keeps the form: the JSON without what a model wrote around it."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Why an answer does not keep its form. Holds nothing of the answer."""

    #: Where, such as `.items[0]`.
    place: str
    rule: str


def checked_output_format(wanted: OutputFormat) -> OutputFormat:
    """Gives the format back when answers can be held against it.

    Raises: Invalid, naming the field.
    """
    if wanted.schema is None:
        return wanted
    if nests_deeper(wanted.schema, MAX_DEPTH):
        raise Invalid("output_format.json_schema.schema", f"must not be nested deeper than {MAX_DEPTH} levels")
    try:
        _compiled(json.dumps(wanted.schema))
    except SchemaUnusable as unusable:
        place = unusable.path.replace("/", ".")
        raise Invalid(f"output_format.json_schema.schema{place}", unusable.sentence) from unusable
    return wanted


def conform(text: str, wanted: OutputFormat) -> Conformed | Violation:
    """Holds an answer against the form: the JSON of it, whatever a model wrote around that."""
    if wanted.kind is OutputKind.TEXT:
        return Conformed(text)
    violation = Violation(place=_WHOLE, rule="must be one JSON value, and nothing else")
    for written in _candidates(text):
        try:
            value = json.loads(written, parse_constant=_refuse)
        except (ValueError, RecursionError):
            continue
        problem = _problem(value, wanted)
        if problem is None:
            return Conformed(written)
        violation = problem
        break
    return violation


def fits_strict(schema: Json) -> bool:
    """Says whether a schema is one that providers keep to strictly: objects closed, all their properties required."""
    return all(_is_strict(node) for node in _nodes(schema))


def _is_strict(node: Json) -> bool:
    if not _STRICT_KEYWORDS.issuperset(node):
        return False
    properties = node.get("properties")
    if node.get("type") != "object" and properties is None:
        return True
    named = set(cast(Json, properties or {}))
    return node.get("additionalProperties") is False and set(cast("list[str]", node.get("required", []))) == named


def _problem(value: object, wanted: OutputFormat) -> Violation | None:
    if wanted.schema is None:
        return None if isinstance(value, dict) else Violation(place=_WHOLE, rule="must be a JSON object")
    problem = _compiled(json.dumps(wanted.schema)).problem(value)
    return None if problem is None else Violation(place=problem[0] or _WHOLE, rule=problem[1])


def _candidates(text: str) -> Iterator[str]:
    """Gives what may be the JSON of an answer: all of it, then what stands between its outermost brackets."""
    stripped = text.strip()
    yield stripped
    for opening, closing in (("{", "}"), ("[", "]")):
        start, end = stripped.find(opening), stripped.rfind(closing)
        if 0 <= start < end and (start, end) != (0, len(stripped) - 1):
            yield stripped[start : end + 1]


@lru_cache(maxsize=_KEPT)
def _compiled(schema: str) -> Schema:
    """Raises: SchemaUnusable."""
    return compile_schema(json.loads(schema), object_only=False)


def _nodes(schema: Json) -> Iterator[Json]:
    """Gives all schemas inside a schema, itself included."""
    yield schema
    for name in ("properties", "$defs"):
        for child in cast(Json, schema.get(name) or {}).values():
            yield from _nodes(cast(Json, child))
    items = schema.get("items")
    for child in (items, *cast("list[object]", schema.get("anyOf") or [])):
        if isinstance(child, Mapping):
            yield from _nodes(cast(Json, child))


def _refuse(name: str) -> object:
    """JSON has no `NaN` and no `Infinity`, though Python reads them."""
    raise ValueError(name)
