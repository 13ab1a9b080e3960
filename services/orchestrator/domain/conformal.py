"""Intervals that hold what they promise, whatever the errors of an estimate are distributed like.

What is kept of each run that has ended is by how much the logarithm of its estimate was wrong, an estimate that was
made before the run was learnt from. The quantiles of these errors are the interval (split conformal, made one run after
the other); newer runs count more, so a slow change is followed; a quick one is found by the mean of the latest errors,
and what was before it is forgotten. The share of runs that may lie outside is itself adapted to the share that did, so
that coverage comes back after any change.

Source: Vovk et al., Algorithmic Learning in a Random World (split conformal); Gibbs and Candès 2021 (adaptive
coverage); Barber et al. 2023 (weights where runs are not exchangeable).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

#: Share of runs that an interval is to hold.
COVERAGE: Final = 0.9
#: Runs that are kept, and those after which an older one counts half.
MOST_KEPT: Final = 200
_HALF_LIFE: Final = 100.0
#: Errors from which on their own quantiles are taken: with fewer the outermost one is not far enough out.
ENOUGH: Final = 28
#: Steps by which the share outside is adapted.
_ADAPT: Final = 0.01
#: What is aimed at: a little less than what may lie outside, for the run that is asked about may be of a version, or of
#: inputs, that none of those had which are kept (measured: tests/bench/estimates.py).
_TAIL: Final = 0.85 * (1.0 - COVERAGE) / 2
_LEAST_TAIL: Final = 0.004
_MOST_TAIL: Final = 0.2
#: The mean of the latest errors, in its standard errors, from which on a change is taken for one.
_LATEST: Final = 8
#: A normal distribution strays so many times less on average than its standard deviation says.
_OF_MEAN_STRAY: Final = math.sqrt(math.pi / 2)
_CHANGED: Final = 4.5
#: What nobody has learnt of yet: an amount is off by a factor of three in every tenth run.
UNKNOWN_SPREAD: Final = 0.67
#: No interval is narrower than what a factor of this says.
_LEAST_SPREAD: Final = 0.01


@dataclass(frozen=True, slots=True)
class Error:
    """By how much one estimate was wrong."""

    #: log(actual) - log(estimated).
    off: float
    #: Spread of it that the run's own parts explain, as a standard deviation.
    own: float


@dataclass(frozen=True, slots=True)
class Interval:
    """Logarithms that an estimate is to be moved by."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class _Fit:
    """What follows from the errors that are kept."""

    middle: float
    #: The spread that the runs' parts do not explain.
    common: float
    #: Where the low bound, the median and the high bound lie, from the middle, in spreads.
    places: tuple[float, float, float]


@dataclass(slots=True)
class ErrorWindow:
    """Errors of the runs of one kind, the oldest first."""

    errors: list[Error] = field(default_factory=list[Error])
    #: Shares that may lie below and above.
    low_tail: float = _TAIL
    high_tail: float = _TAIL
    #: Intervals that were held against what came, and how many of them held it. Kept through changes.
    judged: int = 0
    covered: int = 0
    _fit: "_Fit | None" = field(default=None, init=False, repr=False, compare=False)

    @property
    def enough(self) -> bool:
        """True when its own quantiles are taken."""
        return len(self.errors) >= ENOUGH

    def interval(self, own: float) -> Interval:
        """Gives where the logarithm of an actual amount lies, from that of its estimate.

        Args:
            own: spread that the parts of the run explain.
        """
        count = len(self.errors)
        if count == 0:
            reach = 1.645 * math.hypot(own, UNKNOWN_SPREAD)
            return Interval(-reach, 0.0, reach)
        if self._fit is None:
            self._fit = self._fit_now()
        fit = self._fit
        spread = math.hypot(own, fit.common)
        if not self.enough:
            # Student's t by its first term; the middle is not known well yet, either.
            reach = 1.645 * (1 + 1.5 / count) * spread * math.sqrt(1 + 1.6 / count)
            return Interval(fit.middle - reach, fit.middle, fit.middle + reach)
        return Interval(*(fit.middle + spread * place for place in fit.places))

    def learn(self, error: Error, given: Interval, *, judged: bool) -> bool:
        """Takes the error of the next run; says whether things have changed, and forgets what was before if so.

        Args:
            given: the interval that was given for it.
            judged: False when it was given by another window.
        """
        if judged:
            below, above = error.off < given.low, error.off > given.high
            self.judged += 1
            self.covered += not (below or above)
            if self.enough:
                self.low_tail = _bounded(self.low_tail + _ADAPT * (_TAIL - below))
                self.high_tail = _bounded(self.high_tail + _ADAPT * (_TAIL - above))
        self.errors.append(error)
        del self.errors[:-MOST_KEPT]
        self._fit = None
        if self._changed():
            self.errors.clear()
            return True
        return False

    def _fit_now(self) -> "_Fit":
        offs, weights = [error.off for error in self.errors], _weights(len(self.errors))
        total = sum(weights)
        # The median, drawn towards none while there are few.
        middle = _reached(sorted(zip(offs, weights, strict=True)), total / 2) * len(offs) / (len(offs) + 1)
        unexplained = sum(
            weight * ((error.off - middle) ** 2 - error.own**2)
            for weight, error in zip(weights, self.errors, strict=True)
        )
        # What is not known yet counts as two runs, less with every one that comes.
        prior = 2.0 / len(offs)
        common = math.sqrt(max(_LEAST_SPREAD**2, (unexplained + prior * UNKNOWN_SPREAD**2) / (total + prior)))
        ordered = sorted(
            ((error.off - middle) / math.hypot(error.own, common), weight)
            for error, weight in zip(self.errors, weights, strict=True)
        )
        half = _reached(ordered, total / 2)
        # The run that is asked about counts as one more, which might lie anywhere.
        high = _reached(ordered, (1 - self.high_tail) * (total + 1.0))
        low = -_reached([(-place, weight) for place, weight in reversed(ordered)], (1 - self.low_tail) * (total + 1.0))
        return _Fit(middle, common, (min(low, half), half, max(high, half)))

    def _changed(self) -> bool:
        earlier, latest = self.errors[:-_LATEST], self.errors[-_LATEST:]
        if len(earlier) < ENOUGH:
            return False
        middle = sum(error.off for error in earlier) / len(earlier)
        # By how much errors stray on average: one outlier hides no change, two peaks make none.
        spread = sum(abs(error.off - middle) for error in earlier) / len(earlier) * _OF_MEAN_STRAY
        mean = sum(error.off for error in latest) / len(latest) - middle
        return abs(mean) * math.sqrt(len(latest)) > _CHANGED * max(spread, _LEAST_SPREAD)


def _weights(count: int) -> Sequence[float]:
    """Gives what each of so many runs counts, the oldest first."""
    return _WEIGHTS[MOST_KEPT - count :]


def _reached(ordered: Sequence[tuple[float, float]], at: float) -> float:
    """Gives the value at which so much weight is reached; where all of it is less, one further out than the last."""
    gathered = 0.0
    for value, weight in ordered:
        gathered += weight
        if gathered >= at:
            return value
    return max(ordered[-1][0], 0.0) * 1.25 + 0.5


def _bounded(tail: float) -> float:
    return min(max(tail, _LEAST_TAIL), _MOST_TAIL)


_WEIGHTS: Final = tuple(0.5 ** ((MOST_KEPT - 1 - place) / _HALF_LIFE) for place in range(MOST_KEPT))
