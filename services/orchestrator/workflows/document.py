"""A workflow as its canonical document: what is stored, digested and sent."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import timedelta
from enum import Enum
from hashlib import sha256
from typing import Any, Final, cast

from services.orchestrator.domain.workflow import KINDS, Cel, JsonPath, Literal, Workflow
from services.orchestrator.workflows.faults import Faults
from services.orchestrator.workflows.fields import canonical
from services.orchestrator.workflows.parse import parse

Document = dict[str, object]

_MICROSECOND: Final = timedelta(microseconds=1)
_NAMES: Final[Mapping[type, str]] = {kind: name for name, kind in KINDS.items()}
#: Where 0 is not the default.
_ZERO_COUNTS: Final = "jitter"


def document_of(workflow: Workflow) -> Document:
    """Writes a workflow with every field in its full form; what is not set is left out."""
    return _fields(workflow)


def canonical_bytes(workflow: Workflow) -> bytes:
    """Writes the canonical definition, in RFC 8785."""
    return canonical(document_of(workflow))


def digest_of(definition: bytes) -> str:
    """Gives the digest of a canonical definition, hex."""
    return sha256(definition).hexdigest()


def workflow_of(document: object) -> Workflow:
    """Reads a document that was checked before, such as a stored one.

    Raises: ValueError: it never was, which is a bug of ours or damage.
    """
    faults = Faults(None)
    parsed = parse(document, faults)
    if parsed is None or faults:
        raise ValueError(f"not a checked workflow: {faults.found[0]}")
    return parsed.workflow


def _fields(part: Any) -> Document:  # any of the dataclasses that a workflow is made of
    document: Document = {}
    for field in fields(part):
        value: object = getattr(part, field.name)
        if field.name == "kind":
            document[_NAMES[type(value)]] = _fields(value)
            continue
        if (
            value is None
            or (value in ("", 0, ()) and field.name != _ZERO_COUNTS)
            or (value == {} and not _is_schema(field.name))
        ):
            continue
        written = _written(value)
        # A part that says nothing is as good as none; an empty schema says that any JSON will do.
        if written or not is_dataclass(value):
            document[field.name] = written
    return document


def _is_schema(name: str) -> bool:
    return name.endswith("_schema")


def _written(value: object) -> object:
    match value:
        case Literal():
            return {"literal": value.value}
        case Cel():
            return {"cel": value.text}
        case JsonPath():
            return {"jsonpath": value.text}
        case Enum():
            return value.value
        case timedelta():
            seconds, rest = divmod(value // _MICROSECOND, 1_000_000)
            return f"{seconds}.{rest:06d}".rstrip("0").rstrip(".") + "s"
        case tuple():
            return [_written(item) for item in cast("tuple[object, ...]", value)]
        case Mapping():
            return {key: _written(item) for key, item in cast(Mapping[str, object], value).items()}
        case _ if is_dataclass(value):
            return _fields(value)
        case _:
            return value
