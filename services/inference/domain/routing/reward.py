"""What an answer is worth to a bandit: a number from 0 to 1 of its quality, its cost and its latency.

    reward = (w_q · quality + w_c · (1 - cost / dear) + w_l · (1 - latency / slow)) / (weights of what is known)

Each term is kept within 0 and 1. Who fails earns 0. Quality is what `ReportModelQuality` says, cost what the ledger
charged for the answer (at the doors what was held for it), latency the time that the provider took for the whole
answer, as the replica measured it. What is not known has no say: as long as nobody reports a quality, the others share
its weight, and a report that comes later corrects what was earned.
"""

from dataclasses import dataclass
from typing import Final

#: Time in which an answer earns nothing for its latency, on a route without an `sla`, seconds.
USUAL_SLOW_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardPolicy:
    """What a route's bandit goes by: weights that add up to 1000, and what is dear."""

    quality_permille: int = 500
    cost_permille: int = 250
    latency_permille: int = 250
    #: An answer that costs as much earns nothing for its cost, nano-USD; 1 cent.
    dear_nano_usd: int = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Earned:
    """What an answer has earned by what is known of it."""

    #: Sum of the known terms, each times its weight, and of these weights.
    points: float
    weight: float
    #: Weight of the quality, which is not among them.
    quality_weight: float = 0.0

    @property
    def reward(self) -> float | None:
        """From 0 to 1; None while nothing with a weight is known."""
        return self.points / self.weight if self.weight > 0 else None

    def judged(self, quality: float) -> "Earned":
        """Takes in how good the answer was, 0 to 1."""
        return Earned(points=self.points + self.quality_weight * quality, weight=self.weight + self.quality_weight)


def earned(policy: RewardPolicy, *, latency_us: int, cost_nano_usd: int | None, slow_seconds: float) -> Earned:
    """Gives what an answer has earned before anybody says how good it was."""
    points = policy.latency_permille * max(0.0, 1 - latency_us / (slow_seconds * 1_000_000))
    weight = float(policy.latency_permille)
    if cost_nano_usd is not None:
        points += policy.cost_permille * max(0.0, 1 - cost_nano_usd / policy.dear_nano_usd)
        weight += policy.cost_permille
    return Earned(points=points, weight=weight, quality_weight=policy.quality_permille)
