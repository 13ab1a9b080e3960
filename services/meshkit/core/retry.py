"""Backoff with jitter, and a budget that keeps retries from multiplying load."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential waits with full jitter.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first_seconds: float = 0.1
    factor: float = 2.0
    most_seconds: float = 10.0
    #: Attempts in all, the first included; None means without end.
    attempts: int | None = None

    def waits(self, random: Random) -> Iterator[float]:
        """Gives the seconds to wait before the second attempt, the third, and so on."""
        ceiling = self.first_seconds
        made = 1
        while self.attempts is None or made < self.attempts:
            yield random.uniform(ceiling / 2, ceiling)
            ceiling = min(ceiling * self.factor, self.most_seconds)
            made += 1


class RetryBudget:
    """Allows retries in proportion to calls, so that an outage is never amplified beyond `1 + ratio`.

    Args:
        ratio: retries that each call earns, 0 to 1.
        reserve: retries that may be spent at once after a quiet time.
    """

    def __init__(self, *, ratio: float = 0.25, reserve: float = 10.0) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._tokens = reserve

    def earn(self) -> None:
        """Counts a first attempt."""
        self._tokens = min(self._tokens + self._ratio, self._reserve)

    def spend(self) -> bool:
        """Takes one retry out of the budget; False means: report the failure instead."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
