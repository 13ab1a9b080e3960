"""How good estimates are of what was never run: calibrated on a part of generated runs, held against the rest."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from services.orchestrator.domain.estimator import Habits, estimate, learn
from services.orchestrator.domain.run_shape import Amount
from tests.support.estimated_runs import PRICES, generate

#: Runs that are learnt from before estimates are held against what came.
_LEARNT = 60


@dataclass(frozen=True)
class Figures:
    """Means over the splits."""

    coverage: dict[Amount, float]
    #: Median over the runs of estimate / actual, less one.
    off: dict[Amount, float]
    #: Runs that were estimated, in all.
    count: int


def splits(seeds: Iterable[int], *, runs: int = 1_000, shift_at: int | None = None) -> Figures:
    """Calibrates on a part of the runs and estimates the rest, for each seed anew."""
    coverage: dict[Amount, list[float]] = {amount: [] for amount in Amount}
    off: dict[Amount, list[float]] = {amount: [] for amount in Amount}
    count = 0
    for seed in seeds:
        covered, ratios = _split(seed, runs, shift_at)
        count += len(covered[Amount.COST])
        for amount in Amount:
            coverage[amount].append(statistics.mean(covered[amount]))
            off[amount].append(statistics.median(ratios[amount]) - 1)
    return Figures(
        coverage={amount: statistics.mean(values) for amount, values in coverage.items()},
        off={amount: statistics.mean(values) for amount, values in off.items()},
        count=count,
    )


def _split(seed: int, runs: int, shift_at: int | None) -> tuple[dict[Amount, list[bool]], dict[Amount, list[float]]]:
    covered: dict[Amount, list[bool]] = {amount: [] for amount in Amount}
    ratios: dict[Amount, list[float]] = {amount: [] for amount in Amount}
    made, random, habits, learnt = generate(seed, runs, shift_at=shift_at), Random(seed), Habits(), 0
    lengths, fifth, version = sorted(run.input_bytes for run in made), random.randrange(5), random.randrange(5)
    shortest, longest = lengths[fifth * runs // 5], lengths[(fifth + 1) * runs // 5 - 1]
    for run in made:
        if run.version != version and not shortest <= run.input_bytes <= longest:
            learn(run.shape, run.seen, habits, PRICES)
            learnt += 1
        elif learnt >= _LEARNT:
            given = estimate(run.shape, habits, PRICES)
            for amount in Amount:
                expected, actual = given.of(amount), run.seen.totals[amount]
                covered[amount].append(expected.low <= actual <= expected.high)
                ratios[amount].append(expected.median / actual)
    return covered, ratios
