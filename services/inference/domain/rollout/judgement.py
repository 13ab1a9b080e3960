"""What the judge of a rollout decides, by what was seen of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.inference.domain.rollout.evidence import EProcess, rate_bounds
from services.inference.domain.rollout.rollout import Rollout, RolloutKind, RolloutState
from services.inference.domain.rollout.scores import Scores
from services.inference.domain.rollout.watch import BadEvent, Metric, Tally
from services.inference.domain.route import Arm

#: Chance that a rollout whose canary is no worse is ever taken back.
ALPHA: Final = 0.05
#: At this value of any of four kinds of evidence the canary is taken back: four times 1/ALPHA, for the four.
ENOUGH: Final = 4 / ALPHA
#: A step is taken after so many units of the canary.
_LEAST_UNITS: Final = 200
#: How much more often a canary's units may have a bad event of a kind when it takes a step.
_MARGINS: Final = {Metric.ERROR: 0.02, Metric.SLOW_TAIL: 0.05}
#: A canary of whose step nothing can be said for so long, and for so many of its shortest times, is taken back.
_UNDECIDED_SECONDS: Final = 24 * 3600.0
_UNDECIDED_STEPS: Final = 2
UNDECIDED: Final = "undecided"
GOOD: Final = "as good as the stable version"


class Kind(StrEnum):
    """What evidence is about; latency is two kinds of bad events, quality is none: it has scores."""

    ERRORS = "errors"
    LATENCY = "latency"
    COST = "cost"
    QUALITY = "quality"


_METRICS: Final = {
    Kind.ERRORS: (Metric.ERROR,),
    Kind.LATENCY: (Metric.SLOW_HALF, Metric.SLOW_TAIL),
    Kind.COST: (Metric.DEAR,),
}


class Verdict(StrEnum):
    """What is to be done."""

    STAY = "stay"
    STEP = "step"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and why."""

    verdict: Verdict
    reason: str = ""


@dataclass(slots=True)
class Seen:
    """What is known of a rollout: evidence that the canary is worse, and how many units had which bad events."""

    evidence: dict[Metric, EProcess] = field(default_factory=lambda: {metric: EProcess() for metric in Metric})
    tallies: dict[Arm, Tally] = field(default_factory=lambda: {arm: Tally(0, dict.fromkeys(Metric, 0)) for arm in Arm})
    #: How good somebody said that answers were. A replica that is alone knows of none.
    scores: Scores = field(default_factory=Scores)

    def note(self, events: Iterable[BadEvent]) -> None:
        """Takes bad events in, each once."""
        for event in events:
            self.evidence[event.metric].note(event.arm, share_permille=event.share_permille)

    def value(self, kind: Kind) -> float:
        """Evidence of one kind: that of scores, or the mean of those of its bad events."""
        if kind is Kind.QUALITY:
            return self.scores.lower
        metrics = _METRICS[kind]
        return sum(self.evidence[metric].value for metric in metrics) / len(metrics)

    def events(self, kind: Kind, arm: Arm) -> int:
        """Bad events of one side; of quality its scores."""
        if kind is Kind.QUALITY:
            return self.scores.units[arm]
        found = [self.evidence[metric] for metric in _METRICS[kind]]
        return sum(one.canary if arm is Arm.CANARY else one.stable for one in found)


def judge(rollout: Rollout, seen: Seen, *, now: datetime) -> Judgement:
    """Decides what becomes of a rollout now. Only a CANARY takes steps by itself; each kind is taken back."""
    if rollout.state is not RolloutState.RUNNING:
        return Judgement(Verdict.STAY)
    for kind in Kind:
        value = seen.value(kind)
        if value >= ENOUGH:
            return Judgement(
                Verdict.BACK,
                f"{kind.value}: {_found(seen, kind)} at a share of {rollout.share_permille}/1000,"
                f" evidence {min(value, 1e9):.0f}",
            )
    if rollout.kind is not RolloutKind.CANARY:
        return Judgement(Verdict.STAY)
    seconds = (now - rollout.step_began).total_seconds()
    if seconds >= rollout.step_min_seconds and _as_good(seen, quality_margin=rollout.quality_margin):
        return Judgement(Verdict.STEP, GOOD)
    if seconds >= max(_UNDECIDED_SECONDS, _UNDECIDED_STEPS * rollout.step_min_seconds):
        return Judgement(Verdict.BACK, UNDECIDED)
    return Judgement(Verdict.STAY)


def _found(seen: Seen, kind: Kind) -> str:
    canary, stable = seen.events(kind, Arm.CANARY), seen.events(kind, Arm.STABLE)
    if kind is Kind.QUALITY:
        means = [f"{seen.scores.mean(arm):.2f}" for arm in (Arm.CANARY, Arm.STABLE)]
        return f"{canary} scores of the canary, {means[0]} on average, and {stable} of the stable version, {means[1]},"
    return f"{canary} bad events of the canary and {stable} of the stable version"


def _as_good(seen: Seen, *, quality_margin: float) -> bool:
    canary, stable = seen.tallies[Arm.CANARY], seen.tallies[Arm.STABLE]
    if canary.units < _LEAST_UNITS or stable.units == 0:
        return False
    for metric, margin in _MARGINS.items():
        _, most = rate_bounds(canary.bad[metric], canary.units, alpha=ALPHA)
        least, _ = rate_bounds(stable.bad[metric], stable.units, alpha=ALPHA)
        if most - least > margin:
            return False
    return quality_margin == 0 or seen.scores.kept >= 1 / ALPHA
