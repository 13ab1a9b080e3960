"""What a limit of calls per second is made of: token buckets, and slices leased from them."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

#: Limit of an RPC whose guard names none, calls of a tenant per second.
DEFAULT_PER_SECOND: Final = 100
#: A bucket holds this many seconds of its rate, and `LEAST_BURST` tokens at least.
BURST_SECONDS: Final = 2.0
LEAST_BURST: Final = 5.0
#: A slice is at most this many seconds of the rate, and `MOST_TOKENS`.
SLICE_SECONDS: Final = 0.25
MOST_TOKENS: Final = 1_000
#: Part of a slice that may be spent before the gateway was asked: one in so many tokens, one at least.
_AHEAD_PART: Final = 5
#: Life of a leased slice, seconds.
LEASE_SECONDS: Final = 1.0


def burst_of(per_second: float) -> float:
    """Gives the most tokens that a bucket of this rate holds."""
    return max(LEAST_BURST, BURST_SECONDS * per_second)


def slice_of(per_second: float) -> int:
    """Gives the most tokens of a bucket that one replica holds at a time."""
    return max(1, min(MOST_TOKENS, math.ceil(per_second * SLICE_SECONDS)))


def ahead_of(per_second: float) -> int:
    """Gives the most tokens that one replica spends of a bucket before they are booked."""
    return max(1, slice_of(per_second) // _AHEAD_PART)


def most_admitted(per_second: float, *, seconds: float, replicas: int) -> float:
    """Gives what all replicas together admit at most within any span of time; docs/decisions/0004 says why."""
    held = replicas * (slice_of(per_second) + ahead_of(per_second))
    return per_second * seconds + burst_of(per_second) + held


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a replica asks of one bucket, after telling what it did with it."""

    bucket: str
    #: Tokens that flow in per second, > 0.
    per_second: float
    burst: float
    #: Tokens wanted.
    tokens: int
    #: Tokens spent ahead: taken out first, whether they are there or not.
    spent: int = 0
    #: Tokens of earlier leases that are handed back.
    unused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What an ask got."""

    tokens: int
    #: Life of the tokens, seconds.
    seconds: float
    #: What the bucket holds now; below zero when more was spent than there was.
    remaining: float
    #: Seconds until asking again is worth while; 0 when all was given.
    wait_seconds: float


#: Leases slices: one for each ask, in order. Raises: MeshError: there are no leases right now.
LeaseSlices = Callable[[Sequence[Ask]], Awaitable[Sequence[Slice]]]
