"""JSON Schemas that people write. Nothing outside of a schema is ever fetched for it.

Checking takes time in proportion to schema times value: a schema that refers to itself, or that unfolds to more than
10,000 parts, could take exponential time and is refused, and so is a value that is too large for its schema. Patterns
are linear-time regular expressions.
"""

from collections.abc import Iterator, Mapping
from typing import Final, cast

import jsonschema_rs
import rfc8785

from services.meshkit.documents.checking_cost import Cost, Costs

MAX_SCHEMA_BYTES: Final = 32 * 1024
MAX_PARTS: Final = 10_000
#: What stands for a value in sentences: values stay out of them.
_MASK: Final = "it"
#: Says that a value is not checked at all.
TOO_MUCH: Final = "is too large to be held against its schema; give less, or ask for less in anyOf, enum and the like"
_REFUSED: Final = ("$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor")

#: JSON Schema and JSON values are open by nature.
Json = Mapping[str, object]


class SchemaUnusable(Exception):
    """A schema cannot be used. Carries why, and where in the schema, such as `/properties/x`."""

    def __init__(self, sentence: str, *, path: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.path = path


class Schema:
    """A schema that is ready to check values."""

    def __init__(self, validator: jsonschema_rs.Validator, cost: Cost) -> None:
        self._validator = validator
        self._cost = cost

    def problem(self, value: object) -> tuple[str, str] | None:
        """Gives the path of the first wrong value, such as `.items[0]`, and a sentence; None when all is well."""
        if self._cost.too_much(value):
            return "", TOO_MUCH
        try:
            # Whatever JSON holds.
            self._validator.validate(cast("dict[str, object]", value))
        except jsonschema_rs.ValidationError as error:
            return _path(error), error.message
        return None


def compile_schema(schema: Json, *, object_only: bool) -> Schema:
    """Compiles a schema.

    Args:
        object_only: True where the values are objects, so that the schema must ask for `type: object`.
    Raises: SchemaUnusable.
    """
    try:
        size = len(rfc8785.dumps(cast("dict[str, str]", schema)))
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise SchemaUnusable("must hold what JSON carries exactly: text, and integers up to 2^53") from error
    if size > MAX_SCHEMA_BYTES:
        raise SchemaUnusable(f"must have at most {MAX_SCHEMA_BYTES} bytes as JSON")
    if object_only and schema.get("type") != "object":
        raise SchemaUnusable('must say "type": "object"', path="/type")
    cost = checking_cost(schema)
    try:
        validator = jsonschema_rs.validator_for(
            dict(schema), pattern_options=jsonschema_rs.RegexOptions(), mask=_MASK, offline=True
        )
    except jsonschema_rs.ValidationError as error:
        raise SchemaUnusable(error.message, path=_pointer(error.instance_path)) from error
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise SchemaUnusable(str(error).partition("\n")[0]) from error
    return Schema(validator, cost)


def schema_problem(schema: Json) -> tuple[str, str] | None:
    """Says whether this is a JSON Schema at all: None when it is, else the path of what is wrong, and a sentence."""
    try:
        jsonschema_rs.meta.validate(dict(schema))
    except jsonschema_rs.ValidationError as error:
        return "".join(f".{step}" for step in error.instance_path), "is no JSON Schema"
    except (jsonschema_rs.ReferencingError, ValueError):
        return ".$schema", "names no draft of JSON Schema that is known here"
    return None


def checking_cost(schema: Json) -> Cost:
    """Gives what checking values against a schema costs. Raises: SchemaUnusable: it has no bound."""
    unfolding = _Unfolding(schema)
    unfolding.count(schema, ())
    return Costs(count=lambda node: unfolding.count(node, ()), target=lambda name: unfolding.target(name, "")).of(
        schema
    )


def _path(error: jsonschema_rs.ValidationError) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.Required(property=name):
            return f"{path}.{name}"
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=names):
            return f"{path}.{names[0]}"
        case _:
            return path


def _pointer(steps: list[str | int]) -> str:
    return "".join(f"/{step}" for step in steps)


class _Unfolding:
    """Counts the parts of a schema with every reference in place of which it stands."""

    def __init__(self, schema: Json) -> None:
        self._schema = schema
        self._counts: dict[str, int] = {}
        self._open: set[str] = set()

    def count(self, node: object, path: tuple[str, ...]) -> int:
        """Gives how many parts a node unfolds to. Raises: SchemaUnusable."""
        total = 1
        if isinstance(node, Mapping):
            mapping = cast(Json, node)
            self._refuse(mapping, path)
            reference = mapping.get("$ref")
            if isinstance(reference, str):
                total += self._count_target(reference, path)
        for key, child in _children(cast(object, node)):
            total += self.count(child, (*path, key))
        if total > MAX_PARTS:
            raise SchemaUnusable(f"unfolds to more than {MAX_PARTS} parts", path="/" + "/".join(path))
        return total

    def _refuse(self, node: Json, path: tuple[str, ...]) -> None:
        for keyword in _REFUSED:
            if isinstance(node.get(keyword), str):
                raise SchemaUnusable(f"{keyword} is not taken", path="/" + "/".join((*path, keyword)))

    def _count_target(self, reference: str, path: tuple[str, ...]) -> int:
        place = "/" + "/".join((*path, "$ref"))
        if not reference.startswith("#"):
            raise SchemaUnusable("a reference must stay inside the schema and begin with #", path=place)
        if reference in self._open or not reference.strip("#/"):
            raise SchemaUnusable("a schema must not refer to itself", path=place)
        if reference not in self._counts:
            self._open.add(reference)
            self._counts[reference] = self.count(self.target(reference, place), tuple(reference[2:].split("/")))
            self._open.discard(reference)
        return self._counts[reference]

    def target(self, reference: str, place: str) -> object:
        """Gives what a reference names. Raises: SchemaUnusable."""
        node: object = self._schema
        for step in reference[2:].split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            found = next((child for name, child in _children(node) if name == key), None)
            if found is None:
                raise SchemaUnusable(f"{reference} names nothing in this schema", path=place)
            node = found
        return node


def _children(node: object) -> Iterator[tuple[str, object]]:
    if isinstance(node, Mapping):
        yield from cast(Json, node).items()
    elif isinstance(node, list):
        for index, child in enumerate(cast("list[object]", node)):
            yield str(index), child
