"""Turns what came of calls into bad events and tallies of a rollout."""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

from services.inference.domain.route import Arm, AttemptOutcome

#: Calls of the stable version that say what is usual.
_WINDOW: Final = 1_000
#: Fewer say nothing.
_LEAST: Final = 50
#: A call is dear above this many times what nine of ten cost.
_DEAR: Final = 1.25
#: Units of one rollout that a replica tells apart. Beyond, the one it has not heard of for longest is forgotten, and is
#: a new one when it comes again: memory stays bounded, and counting never ends.
MOST_UNITS: Final = 100_000
#: Failures that are the version's. Others are the caller's, the law's or the money's, and say nothing of it.
_ITS_FAULT: Final = frozenset(
    {
        "PROVIDER_FAILED",
        "PROVIDER_REFUSED",
        "PROVIDER_RATE_LIMITED",
        "PROVIDER_UNAVAILABLE",
        "ANSWER_BROKE_OFF",
        "OUTPUT_INVALID",
    }
)


class Metric(StrEnum):
    """A kind of bad event."""

    #: The version failed.
    ERROR = "error"
    #: Slower than half of the stable version's calls.
    SLOW_HALF = "slow50"
    #: Slower than 95 of 100 of them.
    SLOW_TAIL = "slow95"
    #: Dearer than a quarter above what nine of ten of them cost.
    DEAR = "dear"


@dataclass(frozen=True, slots=True)
class BadEvent:
    """Something bad that happened to a unit for the first time."""

    metric: Metric
    unit: bytes
    arm: Arm
    #: The canary's share when it happened.
    share_permille: int


class Usual:
    """What is usual: the last values, in order of time and of size."""

    def __init__(self) -> None:
        self._latest = deque[float]()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Takes one more value in, in place of the oldest."""
        if len(self._latest) == _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(value)
        insort(self._sorted, value)

    def quantile(self, part: float) -> float | None:
        """Gives the value that this part of the values is at most; None while there are too few."""
        if len(self._sorted) < _LEAST:
            return None
        return self._sorted[min(int(part * len(self._sorted)), len(self._sorted) - 1)]


@dataclass(slots=True)
class Tally:
    """Units of one side, and how many of them had a bad event of each kind."""

    units: int
    bad: dict[Metric, int]


_NOTHING: Final = frozenset[Metric]()


@dataclass(frozen=True, slots=True)
class _Known:
    """What was bad for a unit of one side."""

    #: The step in which it was heard of last, and what was bad in that.
    step: int
    in_step: frozenset[Metric]
    #: In all steps.
    ever: frozenset[Metric]


@cache
def _joined(known: _Known, found: tuple[Metric, ...]) -> _Known:
    """Gives one object for all units of which the same is known."""
    return _Known(known.step, known.in_step.union(found), known.ever.union(found))


@cache
def _in_step(step: int, ever: frozenset[Metric]) -> _Known:
    return _Known(step, _NOTHING, ever)


def _ever(known: _Known | None) -> frozenset[Metric]:
    return _NOTHING if known is None else known.ever


class Watch:
    """What one replica has seen of one rollout.

    A call is compared with what was usual *before* it, so that no call has a say in how it is judged itself.
    """

    def __init__(self) -> None:
        #: Of the step that is under way.
        self.tallies: Final = {arm: Tally(0, dict.fromkeys(Metric, 0)) for arm in Arm}
        self.step = 0
        #: What was bad for each unit of each side; who was heard of last is last.
        self._bad = OrderedDict[tuple[bytes, Arm], _Known]()
        self._latency = Usual()
        self._cost = Usual()

    def note(
        self, unit: bytes, arm: Arm, outcome: AttemptOutcome, *, share_permille: int, step: int = 0
    ) -> list[BadEvent]:
        """Takes in what came of asking the side of a unit; gives what was bad about it, and new.

        A unit that changes sides as the share grows is a unit of both in their tallies, and one that comes again in
        another step is a unit of that, too. What is bad for it is evidence once: who fails on any side would otherwise
        speak against the side that it comes to.

        Args:
            step: in which the call began. One of a step that is over counts in no tally.
        """
        if outcome.reason and outcome.reason not in _ITS_FAULT:
            return []
        if step > self.step:
            self._begin(step)
        found, known = self._found(outcome), self._bad.get((unit, arm))
        ever, elsewhere = _ever(known), _ever(self._bad.get((unit, arm.other)))
        if known is None and len(self._bad) >= MOST_UNITS:
            self._bad.popitem(last=False)
        if step == self.step:
            self._count(self.tallies[arm], known, found)
        if known is None or known.step < step:
            known = _in_step(step, ever)
        self._bad[unit, arm] = _joined(known, found)
        self._bad.move_to_end((unit, arm))
        if arm is Arm.STABLE and not outcome.reason:
            self._learn(outcome)
        fresh = [metric for metric in found if metric not in ever and metric not in elsewhere]
        return [BadEvent(metric, unit, arm, share_permille) for metric in fresh]

    def _begin(self, step: int) -> None:
        """Begins to count anew: how often units fared badly in another step says nothing of this one."""
        self.step = step
        for tally in self.tallies.values():
            tally.units, tally.bad = 0, dict.fromkeys(Metric, 0)

    def _count(self, tally: Tally, known: _Known | None, found: tuple[Metric, ...]) -> None:
        counted = known is not None and known.step == self.step
        tally.units += not counted
        for metric in found:
            if known is None or not counted or metric not in known.in_step:
                tally.bad[metric] += 1

    def _found(self, outcome: AttemptOutcome) -> tuple[Metric, ...]:
        if outcome.reason:
            return (Metric.ERROR,)
        found: list[Metric] = []
        half, tail = self._latency.quantile(0.5), self._latency.quantile(0.95)
        if half is not None and outcome.latency_us > half:
            found.append(Metric.SLOW_HALF)
        if tail is not None and outcome.latency_us > tail:
            found.append(Metric.SLOW_TAIL)
        usual_cost = self._cost.quantile(0.9)
        cost = outcome.cost_nano_usd
        if usual_cost is not None and cost is not None and cost > usual_cost * _DEAR:
            found.append(Metric.DEAR)
        return tuple(found)

    def _learn(self, outcome: AttemptOutcome) -> None:
        self._latency.add(outcome.latency_us)
        if outcome.cost_nano_usd is not None:
            self._cost.add(outcome.cost_nano_usd)
