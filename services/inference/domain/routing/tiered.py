"""The order in which a tiered route asks its members, by what this replica has seen of them.

First come those that are likely to keep the route's time: 19 of 20 of their last answers did. Among them the cheapest
comes first, by what their last answers cost; of equal cost the better tier, then the faster. Then come the others, the
fastest first. One that was not heard of for a minute is tried anew, and one of which nothing is known is tried first.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from services.inference.domain.deployment import DeploymentVersion

#: Answers that are remembered, and how long without another one they say something of the time that a next one takes.
_LATEST: Final = 100
_FRESH_SECONDS: Final = 60.0


class Pace:
    """How fast and how dear the last answers of one version were."""

    def __init__(self) -> None:
        self._latencies = deque[int](maxlen=_LATEST)
        self._costs = deque[int](maxlen=_LATEST)
        self._cost = 0
        self._heard = 0.0
        self._p95: int | None = None

    def note(self, *, latency_us: int, cost_nano_usd: int | None, now: float) -> None:
        """Takes an answer in."""
        if now - self._heard > _FRESH_SECONDS:
            self._latencies.clear()
        self._heard = now
        self._latencies.append(latency_us)
        self._p95 = None
        if cost_nano_usd is not None:
            if len(self._costs) == _LATEST:
                self._cost -= self._costs[0]
            self._costs.append(cost_nano_usd)
            self._cost += cost_nano_usd

    def p95_us(self, now: float) -> int:
        """Gives the time that 19 of 20 of the last answers took at most; 0 while nobody knows."""
        if not self._latencies or now - self._heard > _FRESH_SECONDS:
            return 0
        if self._p95 is None:
            ordered = sorted(self._latencies)
            self._p95 = ordered[len(ordered) * 19 // 20]
        return self._p95

    @property
    def cost(self) -> float:
        """What an answer cost on average, nano-USD; 0 while nobody knows."""
        return self._cost / len(self._costs) if self._costs else 0.0


_UNKNOWN: Final = Pace()


def keeps(pace: Pace | None, *, sla_seconds: float | None, now: float) -> bool:
    """Tells whether a version is likely to answer in time."""
    return sla_seconds is None or (pace or _UNKNOWN).p95_us(now) <= sla_seconds * 1_000_000


def tiered(
    versions: Sequence[DeploymentVersion],
    paces: Mapping[str, Pace],
    *,
    sla_seconds: float | None,
    now: float,
) -> list[DeploymentVersion]:
    """Orders versions.

    Args:
        paces: by full name.
        sla_seconds: time that an answer may take; None: any.
    """

    def rank(version: DeploymentVersion) -> tuple[float, ...]:
        pace = paces.get(version.full_name, _UNKNOWN)
        p95 = pace.p95_us(now)
        if keeps(pace, sla_seconds=sla_seconds, now=now):
            return 0, pace.cost, -version.tier, p95
        return 1, p95

    return sorted(versions, key=rank)
