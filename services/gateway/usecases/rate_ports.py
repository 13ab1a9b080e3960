"""What leasing rates needs from outside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.meshkit.core.rate import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What came of one ask."""

    #: Tokens that were taken out for the asker.
    tokens: int
    #: Tokens left; below zero when more was spent than there was.
    remaining: float


class RateBuckets(Protocol):
    """Token buckets that all gateways share."""

    async def lease(self, asks: Sequence[Ask]) -> list[Lease]:
        """Refills each bucket to now, puts back, takes out what was spent, then what is there of what is asked.

        Args:
            asks: 1 to 1,000, each of another bucket. A bucket that is not there is full.
        Returns: one for each, in order.
        Concurrency: several callers never take the same token.
        """
        ...

    async def forget_full(self, most: int) -> int:
        """Forgets up to so many buckets that are full; gives how many."""
        ...
