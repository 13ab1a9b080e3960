"""Follows a writer stream of a service without losing an entry, and notices when the stream is not what it was.

The newest known entry of a stream is asked for again with every pull. So what comes must begin with it: a stream that
was cut, restored from an old copy or rewritten is noticed even though its positions look well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from services.gateway.domain.audit_entry import FedEntry
from services.gateway.domain.audit_errors import AuditFeedMalformed


class BreakKind(StrEnum):
    """What happened to a stream."""

    #: Entries between the newest known one and what came are missing.
    GAP = "gap"
    #: The newest known entry is no longer there, or is another one.
    REWOUND = "rewound"


@dataclass(frozen=True, slots=True)
class StreamBreak:
    """A place at which a stream is not whole."""

    service: str
    stream: int
    #: First position that is missing, or is another entry than before.
    position: int
    kind: BreakKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """That somebody has looked into a break, and what came out."""

    actor: str
    time: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBreak:
    """A break that was recorded. It stays; acknowledged, it is no alarm."""

    found: StreamBreak
    notice_time: datetime
    acknowledged: Acknowledgement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a stream is known."""

    #: Newest known position; 0 before the first.
    position: int = 0
    #: Leaf hash of the entry there; empty before the first.
    leaf_hash: bytes = b""
    #: True while a stream that was rewound is read again from its beginning; what is chained already is left out.
    again: bool = False

    @property
    def ask_after(self) -> int:
        """The position to ask after, so that the newest known entry comes once more."""
        return max(0, self.position - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What one pull brought of a stream."""

    #: New entries, in order.
    fresh: Sequence[FedEntry]
    cursor: Cursor
    found: StreamBreak | None = None


def follow(service: str, stream: int, cursor: Cursor, entries: Sequence[FedEntry], *, last: bool) -> Followed:
    """Goes on from a cursor over what a pull brought, up to the first break.

    Args:
        entries: of this stream, in the order in which they came.
        last: True when the service had no more, of any stream.
    Raises: AuditFeedMalformed: positions do not rise.
    """
    if any(later.position <= earlier.position for earlier, later in pairwise(entries)):
        raise AuditFeedMalformed(service, f"positions of stream {stream} do not rise")
    rest = list(entries)
    if cursor.position:
        overlaps = bool(rest) and rest[0].position == cursor.position
        same = overlaps and rest[0].leaf_hash == cursor.leaf_hash
        if not same and (rest or last):
            broken = StreamBreak(service, stream, cursor.position, BreakKind.REWOUND)
            return Followed(fresh=(), cursor=Cursor(again=True), found=broken)
        rest = rest[1:]
    fresh: list[FedEntry] = []
    expected = cursor.position + 1
    for entry in rest:
        if entry.position != expected and not (cursor.again and expected == 1):
            broken = StreamBreak(service, stream, expected, BreakKind.GAP)
            return Followed(fresh=fresh, cursor=_after(cursor, fresh), found=broken)
        fresh.append(entry)
        expected = entry.position + 1
    return Followed(fresh=fresh, cursor=_after(cursor, fresh, settled=last))


def step_over(followed: Followed, entries: Sequence[FedEntry]) -> Followed:
    """Takes what lies behind a gap that is really there."""
    assert followed.found is not None
    rest = [entry for entry in entries if entry.position >= followed.found.position]
    first = rest[:1]
    return Followed(fresh=(*followed.fresh, *first), cursor=_after(followed.cursor, first), found=followed.found)


def _after(cursor: Cursor, fresh: Sequence[FedEntry], *, settled: bool = False) -> Cursor:
    again = cursor.again and not settled
    if not fresh:
        return Cursor(position=cursor.position, leaf_hash=cursor.leaf_hash, again=again)
    return Cursor(position=fresh[-1].position, leaf_hash=fresh[-1].leaf_hash, again=again)
