"""When a failed attempt is made again: exponential backoff, its chance from a hash, so that a replay waits the same."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from google.protobuf.duration_pb2 import Duration

from comitia.orchestrator.v1 import workflow_pb2

_MAX_ATTEMPTS: Final = 3
_FIRST_MS: Final = 1_000
_MOST_MS: Final = 60_000
_FACTOR: Final = 2.0
_JITTER: Final = 0.2
_DICE: Final = 2.0**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often, and after how long."""

    #: In all, the first one included.
    max_attempts: int
    first_ms: int
    factor: float
    most_ms: int
    #: Share of each wait that is left to chance.
    jitter: float

    @classmethod
    def of(cls, policy: workflow_pb2.RetryPolicy) -> Self:
        """Reads a policy; what it leaves open has its default."""
        first = _milliseconds(policy.first_backoff) if policy.HasField("first_backoff") else _FIRST_MS
        most = _milliseconds(policy.max_backoff) if policy.HasField("max_backoff") else max(_MOST_MS, first)
        return cls(
            max_attempts=policy.max_attempts or _MAX_ATTEMPTS,
            first_ms=first,
            factor=policy.factor or _FACTOR,
            most_ms=most,
            jitter=policy.jitter if policy.HasField("jitter") else _JITTER,
        )

    def wait_ms(self, tries: int, place: str) -> int:
        """Gives the wait after so many failed attempts, at least 1 ms.

        Args:
            place: what makes this wait different from all others: run, path, attempt group and attempt.
        """
        wait = float(self.first_ms)
        # Multiplied step by step: powers of floats differ between machines, products do not.
        for _ in range(tries - 1):
            wait = min(wait * self.factor, float(self.most_ms))
        chance = int.from_bytes(sha256(place.encode()).digest()[:8], "big") / _DICE
        return max(1, round(min(wait, float(self.most_ms)) * (1.0 - self.jitter * chance)))


def _milliseconds(duration: Duration) -> int:
    return duration.ToMilliseconds()
