"""Leases slices of rate limits to the replicas of all services."""

import math
from collections.abc import Sequence
from typing import Final

from services.gateway.usecases.rate_ports import Lease, RateBuckets
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid, MeshError
from services.meshkit.core.rate import LEASE_SECONDS, MOST_TOKENS, Ask, Slice
from services.meshkit.telemetry.logs import logger

MOST_ASKS: Final = 1_000
_MOST_CHARACTERS: Final = 300
#: An empty bucket is worth asking again once it holds this many seconds of its rate.
_WORTH_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 60.0
#: Pause between two looks for buckets that are full, seconds; and how many are forgotten at a time.
_FORGET_SECONDS: Final = 30.0
_FORGET_MOST: Final = 5_000

log = logger(__name__)


class LeaseRate:
    """Gives slices. Implements `meshkit.core.rate.LeaseSlices`, for the gateway's own doors."""

    def __init__(self, *, buckets: RateBuckets) -> None:
        self._buckets = buckets

    async def __call__(self, asks: Sequence[Ask]) -> list[Slice]:
        """Raises: Invalid: an ask is out of bounds. Unavailable: Postgres is away."""
        _check(asks)
        if not asks:
            return []
        leases = await self._buckets.lease(asks)
        return [_to_slice(ask, lease) for ask, lease in zip(asks, leases, strict=True)]


class ForgetFullBuckets:
    """Background work: keeps the table of buckets as small as the callers of the last moments."""

    def __init__(self, *, buckets: RateBuckets, clock: Clock) -> None:
        self._buckets = buckets
        self._clock = clock

    async def __call__(self) -> None:
        """Works until cancelled; an outage of the database only delays it."""
        while True:
            await self._clock.sleep(_FORGET_SECONDS)
            try:
                while await self._buckets.forget_full(_FORGET_MOST) == _FORGET_MOST:
                    pass
            except MeshError as error:
                log.warning("rate buckets are forgotten later", reason=error.reason, cause=error.message)


def _to_slice(ask: Ask, lease: Lease) -> Slice:
    wait = 0.0
    if lease.remaining < 1:
        worth = max(1.0, min(ask.tokens, ask.per_second * _WORTH_SECONDS))
        wait = min(_LONGEST_WAIT_SECONDS, (worth - lease.remaining) / ask.per_second)
    return Slice(tokens=lease.tokens, seconds=LEASE_SECONDS, remaining=lease.remaining, wait_seconds=wait)


def _check(asks: Sequence[Ask]) -> None:
    if len(asks) > MOST_ASKS:
        raise Invalid("asks", f"at most {MOST_ASKS} buckets", most=MOST_ASKS)
    seen: set[str] = set()
    for place, ask in enumerate(asks):
        at = f"asks[{place}]"
        if not 1 <= len(ask.bucket) <= _MOST_CHARACTERS or "\x00" in ask.bucket:
            raise Invalid(f"{at}.bucket", f"1 to {_MOST_CHARACTERS} characters")
        if ask.bucket in seen:
            raise Invalid(f"{at}.bucket", "is asked for twice")
        seen.add(ask.bucket)
        if not (math.isfinite(ask.per_second) and ask.per_second > 0):
            raise Invalid(f"{at}.per_second", "must be > 0")
        if not (math.isfinite(ask.burst) and ask.burst >= 1):
            raise Invalid(f"{at}.burst", "must be >= 1")
        for name, value in (("tokens", ask.tokens), ("spent", ask.spent), ("unused", ask.unused)):
            if not 0 <= value <= MOST_TOKENS:
                raise Invalid(f"{at}.{name}", f"must be 0 to {MOST_TOKENS}")
