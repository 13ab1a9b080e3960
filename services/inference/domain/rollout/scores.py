"""How good somebody said that the answers of both sides were, and what that shows at any time one cares to look.

A unit's first score counts, from 0 to 1. Units are divided by a hash, so the next score is the canary's with a
probability of its share p. With c, what the stable version's scores were on average before it,

    y = (c - score - margin) / p    of the canary
    y = (score - c) / (1 - p)       of the stable version

is on average by how much more than the margin the canary's scores are lower, however scores scatter and whatever c is.
Who bets a part of the capital on y wins nothing on average while that is at most 0, so the chance that the capital ever
grows to 1/alpha is at most alpha (Ville 1939). Betting on -y shows that the canary is lower by less. As c is usual and
the margin is charged to the canary alone, the stable version's scores say nothing by themselves, and a side whose
answers are scored more or less often than its share explains is not thought better or worse for that.

Sources: I. Waudby-Smith, A. Ramdas, Estimating means of bounded random variables by betting, 2024; S. Shekhar,
A. Ramdas, Nonparametric two-sample testing by betting, 2023; D. G. Horvitz, D. J. Thompson, 1952, for the weights 1/p.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, fsum, log1p
from typing import Final

from services.inference.domain.rollout.rollout import ALL
from services.inference.domain.route import Arm

#: Parts of what may be lost at most; each is bet alike.
PARTS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
#: Scores of the stable version that say what is usual, and how many say nothing yet.
USUAL_OF: Final = 200
USUAL_FROM: Final = 20
#: Beyond this, evidence is as good as certain and no float overflows.
_MOST_LOG: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good answers of one side were, and so many of them alike."""

    arm: Arm
    #: The canary's share when they were given.
    share_permille: int
    score: float
    #: What the stable version's scores were on average before; None: too few were known.
    usual: float | None
    times: int = 1
    #: False: their units had scores in an earlier step.
    first: bool = True
    #: True: they were given in the step that is under way.
    in_step: bool = True


@dataclass(slots=True)
class Scores:
    """What became of bets on all scores of a rollout that count: sums, as many whether of ten scores or of millions."""

    #: Of units that have a score.
    units: dict[Arm, int] = field(default_factory=lambda: dict.fromkeys(Arm, 0))
    #: Sums of their first ones.
    totals: dict[Arm, float] = field(default_factory=lambda: dict.fromkeys(Arm, 0.0))
    #: Logarithms of what became of 1 that was bet on lower than by the margin; and on not so low, in this step.
    lower_logs: list[float] = field(default_factory=lambda: [0.0] * len(PARTS))
    kept_logs: list[float] = field(default_factory=lambda: [0.0] * len(PARTS))

    def note(self, scores: Iterable[Score], *, margin: float) -> "Scores":
        """Takes scores in, each once.

        Args:
            margin: by how much the canary's may be lower; the same for all scores of a rollout.
        """
        for one in scores:
            if one.first:
                self.units[one.arm] += one.times
                self.totals[one.arm] += one.times * one.score
                _bet(self.lower_logs, one, margin, sign=1)
            if one.in_step:
                _bet(self.kept_logs, one, margin, sign=-1)
        return self

    def add(self, other: "Scores", *, in_step: bool) -> None:
        """Takes in what was summed elsewhere; of another step, only what counts in all."""
        for arm in Arm:
            self.units[arm] += other.units[arm]
            self.totals[arm] += other.totals[arm]
        self.lower_logs = [one + more for one, more in zip(self.lower_logs, other.lower_logs, strict=True)]
        if in_step:
            self.kept_logs = [one + more for one, more in zip(self.kept_logs, other.kept_logs, strict=True)]

    @property
    def lower(self) -> float:
        """Evidence that the canary's are lower by more than the margin; at most 1 on average when they are not."""
        return _capital(self.lower_logs)

    @property
    def kept(self) -> float:
        """Evidence that in this step the canary's are not lower by the margin or more."""
        return _capital(self.kept_logs)

    def mean(self, arm: Arm) -> float:
        """Gives the average of one side; 0 without scores."""
        return self.totals[arm] / max(self.units[arm], 1)


def _bet(logs: list[float], one: Score, margin: float, *, sign: int) -> None:
    """Multiplies what was bet by what it became with these scores.

    Args:
        sign: 1: on lower than by the margin; -1: on not so low.
    """
    if one.usual is None or not 0 < one.share_permille < ALL:
        return
    share, usual = one.share_permille / ALL, one.usual
    y = (usual - one.score - margin) / share if one.arm is Arm.CANARY else (one.score - usual) / (1 - share)
    # The most that one score can lose; above 0, as usual and margin cannot both be at the end that makes it 0.
    if sign > 0:
        most = max((1 - usual + margin) / share, usual / (1 - share))
    else:
        most = max((usual - margin) / share, (1 - usual) / (1 - share))
    for index, part in enumerate(PARTS):
        logs[index] += one.times * log1p(part * sign * y / most)


def _capital(logs: Iterable[float]) -> float:
    return fsum(exp(min(one, _MOST_LOG)) for one in logs) / len(PARTS)
