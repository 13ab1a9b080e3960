"""Names on NATS. Three families that never overlap.

comitia.<service>.<noun>.<event>.v1     events, kept in the service's stream; of a tenant's work, then `.<tenant>`
comitia.live.<service>.<…>.v1.<tenant>… text deltas and wakes; no stream ever keeps them
comitia.dead.<durable>                  what a consumer could not handle
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_RESERVED: Final = frozenset({"live", "dead"})
DEAD_STREAM: Final = "COMITIA_DEAD"


def event_subject(service: str, noun: str, event: str) -> str:
    """Names the subject of an event: `comitia.tools.tool.approved.v1`.

    What others than services may listen to has `.<tenant>` behind it, so that a listener hears of no other.
    """
    if service in _RESERVED:
        raise ValueError(f"{service!r} is no service")
    return f"comitia.{_token(service)}.{_token(noun)}.{_token(event)}.v1"


def live_subject(service: str, noun: str, event: str, *, tenant: UUID | None = None, key: str | None = None) -> str:
    """Names a live subject: `comitia.live.orchestrator.turn.delta.v1`, then `.<tenant>` and `.<key>` where given.

    A tenant's text must name its tenant; wakes between replicas of one service may leave it out.
    """
    parts = ["comitia", "live", _token(service), _token(noun), _token(event), "v1"]
    if tenant is not None:
        parts.append(str(tenant))
    if key is not None:
        parts.append(_token(key))
    return ".".join(parts)


def dead_subject(durable: str) -> str:
    """Names the subject of a consumer's dead letters."""
    return f"comitia.dead.{_token(durable)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """A stream as it should be. Declared by the service that publishes to it and by those that consume it alike."""

    name: str
    subjects: tuple[str, ...]
    #: Messages older than this are dropped.
    max_age: timedelta = timedelta(days=7)
    #: The oldest messages are dropped above this size.
    max_bytes: int = 256 * 1024 * 1024
    #: A message id that comes again within this time is dropped.
    duplicate_window: timedelta = timedelta(minutes=2)
    #: True: a message is gone once acknowledged (one consumer per subject). False: kept until too old.
    work_queue: bool = False

    def covers(self, subject: str) -> bool:
        """Tells whether a message on this subject lands in this stream."""
        return any(_matches(pattern, subject) for pattern in self.subjects)


def service_stream(service: str) -> StreamSpec:
    """Describes the stream of all events of a service."""
    if service in _RESERVED:
        raise ValueError(f"{service!r} is no service")
    return StreamSpec(name=f"COMITIA_{_token(service).upper()}", subjects=(f"comitia.{service}.>",))


#: What could not be handled, for 30 days.
DEAD_LETTERS: Final = StreamSpec(name=DEAD_STREAM, subjects=("comitia.dead.>",), max_age=timedelta(days=30))


def _token(text: str) -> str:
    if _TOKEN.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no token of a subject: letters, digits, `_` and `-`")
    return text


def _matches(pattern: str, subject: str) -> bool:
    wanted, given = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)
