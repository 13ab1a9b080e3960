"""How good estimates are of what was never run: calibrated on generated runs, held against others."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random

from services.orchestrator.domain.estimator import Estimate, Habits, estimate, learn
from services.orchestrator.domain.run_shape import Amount
from tests.support.estimated_runs import PRICES, Generated, an_input_length, make, one_run
from tests.support.shipped_workflows import VERSIONS

_FIFTHS = 5
#: Answers are so many times as long after the shift.
_SHIFT = 1.7
#: Of so many requests of a split it is found out what they take in the middle, by making each of them so many times.
_REQUESTS, _TIMES = 40, 300
#: While runs after the shift are learnt from, one that is left out is estimated after so many of them.
_EVERY = 5


@dataclass
class Held:
    """Estimates of one amount held against what came, over all splits."""

    #: By split: whether intervals held what came, after all was learnt.
    intervals: list[list[bool]] = field(default_factory=list[list[bool]])
    #: Workflow and median of the estimate over the median of what the same request takes, less one.
    off: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    #: Whether intervals held what came while the shift was being learnt.
    meanwhile: list[bool] = field(default_factory=list[bool])

    @property
    def coverage(self) -> float:
        """Averaged over the splits."""
        return statistics.mean(statistics.mean(split) for split in self.intervals)

    @property
    def bias(self) -> float:
        """The middle of how far medians are apart, with its sign."""
        return statistics.median(off for _, off in self.off)

    @property
    def distance(self) -> float:
        """The middle of how far medians are apart, whichever is more."""
        return statistics.median(abs(off) for _, off in self.off)

    @property
    def worst_workflow(self) -> tuple[str, float]:
        """The workflow whose estimates are the furthest to one side, and how far."""
        names = sorted({name for name, _ in self.off})
        found = {name: statistics.median(off for one, off in self.off if one == name) for name in names}
        return max(found.items(), key=lambda one: abs(one[1]))


def splits(
    seeds: Iterable[int], *, calibrated_on: int = 1_000, held_out: int = 300, shift_at: int | None = None
) -> dict[Amount, Held]:
    """For each seed anew: calibrates on runs that leave out a version of all workflows and a fifth of all input
    lengths, then estimates runs of just those. What is estimated is never learnt from.

    Args:
        shift_at: from this run on answers are longer, in those that are estimated too.
    """
    found = {amount: Held() for amount in Amount}
    for seed in seeds:
        _Split(seed, shift_at).add(found, calibrated_on, held_out)
    return found


class _Split:
    def __init__(self, seed: int, shift_at: int | None) -> None:
        self._random = Random(seed)
        self._habits = Habits()
        self._shift_at = shift_at
        #: What the generator does just now.
        self._longer = 1.0
        self._version, fifth = self._random.randrange(VERSIONS), self._random.randrange(_FIFTHS)
        lengths = sorted(an_input_length(self._random) for _ in range(2_000))
        self._shortest = 0 if fifth == 0 else lengths[fifth * len(lengths) // _FIFTHS]
        last = fifth == _FIFTHS - 1
        self._longest = 10**9 if last else lengths[(fifth + 1) * len(lengths) // _FIFTHS - 1]

    def add(self, found: dict[Amount, Held], calibrated_on: int, held_out: int) -> None:
        """Calibrates, and adds how far off estimates are then."""
        known, left_out = self._runs(left_out=False), self._runs(left_out=True)
        for number in range(calibrated_on):
            self._longer = _SHIFT if self._shift_at is not None and number >= self._shift_at else 1.0
            run = next(known)
            learn(run.shape, run.seen, self._habits, PRICES)
            if self._longer > 1 and number % _EVERY == 0:
                asked, given = self._estimated(left_out)
                for amount in Amount:
                    found[amount].meanwhile.append(_holds(given, asked, amount))
        for amount in Amount:
            found[amount].intervals.append([])
        for number in range(held_out):
            run, given = self._estimated(left_out)
            for amount in Amount:
                found[amount].intervals[-1].append(_holds(given, run, amount))
            if number < _REQUESTS:
                again = [make(self._random, run.shape, self._longer).totals for _ in range(_TIMES)]
                for amount in Amount:
                    actual = statistics.median(totals[amount] for totals in again)
                    found[amount].off.append((run.shape.name, given.of(amount).median / actual - 1))

    def _estimated(self, runs: Iterator[Generated]) -> tuple[Generated, Estimate]:
        run = next(runs)
        return run, estimate(run.shape, self._habits, PRICES)

    def _runs(self, *, left_out: bool) -> Iterator[Generated]:
        while True:
            run = one_run(self._random, longer=self._longer)
            if (run.version == self._version or self._shortest <= run.input_bytes <= self._longest) is left_out:
                yield run


def _holds(given: Estimate, run: Generated, amount: Amount) -> bool:
    expected = given.of(amount)
    return expected.low <= run.seen.totals[amount] <= expected.high
