"""The hash of an event of a run: over one form of it that every language writes alike.

That form is the event's proto3 JSON with the contract's names, without empty fields and without the hash itself, put
in order as RFC 8785 says.
"""

from hashlib import sha256
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from comitia.orchestrator.v1.run_event_pb2 import RunEvent
from comitia_sdk.audit.canonical import canonical_json, timestamp_text

_TEXTS = (
    "event_id",
    "tenant_id",
    "run_id",
    "kind",
    "path",
    "reason",
    "program",
    "workflow",
    "parent_run_id",
    "forked_from_run_id",
    "agent",
)
_NUMBERS = ("sequence", "cost_nano_usd")


class EventUnreadable(ValueError):
    """The event holds fields that this release does not know, so its hash cannot be checked; take a newer release."""


def canonical_event(event: RunEvent) -> bytes:
    """Writes an event in the form that is hashed."""
    found: dict[str, Any] = {name: value for name in _TEXTS if (value := getattr(event, name))}
    # Whole numbers of 64 bits are texts in proto3 JSON.
    found |= {name: str(value) for name in _NUMBERS if (value := getattr(event, name))}
    if event.HasField("event_time"):
        found["event_time"] = timestamp_text(event.event_time.seconds, event.event_time.nanos)
    return canonical_json(found)


def envelope_sha256(event: RunEvent) -> bytes:
    """Gives the hash that belongs to an event: 32 bytes."""
    return sha256(canonical_event(event)).digest()


def is_whole(event: RunEvent) -> bool:
    """Tells whether an event is what its hash was made of. Raises: EventUnreadable."""
    if len(UnknownFieldSet(event)):
        raise EventUnreadable("the event holds fields that this release does not know; take a newer one")
    return event.envelope_sha256 == envelope_sha256(event)
