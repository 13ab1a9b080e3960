"""The hash of an event of a run: over one form of it that every language writes alike.

That form is the event's proto3 JSON with the contract's names, without empty fields and without the hash itself, put
in order as RFC 8785 says.
"""

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import sha256
from typing import Final

from google.protobuf.unknown_fields import UnknownFieldSet

from comitia.orchestrator.v1.run_event_pb2 import RunEvent
from comitia_sdk.audit.canonical import timestamp_text

_NUMBERS: Final = ("cost_nano_usd", "sequence")
#: In the order of RFC 8785, which for these names is that of their letters.
_FIELDS: Final = tuple(sorted(name for name in RunEvent.DESCRIPTOR.fields_by_name if name != "envelope_sha256"))
#: All that one commit records has one time.
_time_text: Final = lru_cache(maxsize=64)(timestamp_text)
_quoted: Final[Callable[[str], str]] = json.JSONEncoder(ensure_ascii=False).encode


class EventUnreadable(ValueError):
    """The event holds fields that this release does not know, so its hash cannot be checked; take a newer release."""


def canonical_event(event: RunEvent) -> bytes:
    """Writes an event in the form that is hashed."""
    # Written out: this is done for each event of each run, and takes a fifth of what `canonical_json` would.
    return f"{{{','.join(_members(event))}}}".encode()


def _members(event: RunEvent) -> Iterator[str]:
    for name in _FIELDS:
        value = getattr(event, name)
        if name == "event_time":
            if event.HasField(name):
                yield f'"{name}":"{_time_text(value.seconds, value.nanos)}"'
        elif not value:
            continue
        elif name in _NUMBERS:
            # Whole numbers of 64 bits are texts in proto3 JSON.
            yield f'"{name}":"{value}"'
        else:
            yield f'"{name}":{_quoted(value)}'


def envelope_sha256(event: RunEvent) -> bytes:
    """Gives the hash that belongs to an event: 32 bytes."""
    return sha256(canonical_event(event)).digest()


def is_whole(event: RunEvent) -> bool:
    """Tells whether an event is what its hash was made of. Raises: EventUnreadable."""
    if len(UnknownFieldSet(event)):
        raise EventUnreadable("the event holds fields that this release does not know; take a newer one")
    return event.envelope_sha256 == envelope_sha256(event)
