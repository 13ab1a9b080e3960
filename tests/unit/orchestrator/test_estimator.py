import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.domain.conformal import ENOUGH, MOST_KEPT, Error, ErrorWindow
from services.orchestrator.domain.estimator import Habits, estimate, learn
from services.orchestrator.domain.run_shape import Amount, PartShape, Prices, RunShape, TurnShape
from services.orchestrator.domain.turn_habits import MOST_TURNS, PartHabits
from tests.support.estimate_splits import splits
from tests.support.estimated_runs import PRICES, claim, generate, greet, make, summaries

_OFF = st.floats(-30, 30, allow_nan=False)
_OWN = st.floats(0, 3, allow_nan=False)


@given(st.lists(st.tuples(_OFF, _OWN), max_size=80), _OWN)
@settings(max_examples=150, deadline=None)
def test_an_interval_is_ordered_and_finite_whatever_the_errors_were(
    errors: list[tuple[float, float]], own: float
) -> None:
    window = ErrorWindow()
    for off, spread in errors:
        window.learn(Error(off, spread), window.interval(spread), judged=True)
    interval = window.interval(own)
    assert math.isfinite(interval.low)
    assert math.isfinite(interval.high)
    assert interval.low <= interval.median <= interval.high
    assert 0 <= window.covered <= window.judged == len(errors)
    assert len(window.errors) <= MOST_KEPT


@pytest.mark.parametrize(
    "noise",
    [
        lambda random: random.gauss(0.4, 0.3),
        lambda random: random.expovariate(2.0),
        lambda random: random.choice((-1.0, 1.0)) + random.gauss(0, 0.05),
        # Student's t with three degrees of freedom: tails that no normal distribution has.
        lambda random: random.gauss(0, 1) / math.sqrt(sum(random.gauss(0, 1) ** 2 for _ in range(3)) / 3),
    ],
    ids=["normal", "one-sided", "two-peaks", "heavy-tails"],
)
def test_nine_in_ten_lie_inside_whatever_the_noise(noise: Callable[[Random], float]) -> None:
    covered = judged = 0
    for seed in range(12):
        random, window = Random(seed), ErrorWindow()
        for number in range(400):
            interval, off = window.interval(0.0), noise(random)
            if number >= ENOUGH:
                judged += 1
                covered += interval.low <= off <= interval.high
            window.learn(Error(off, 0.0), interval, judged=True)
    assert 0.88 <= covered / judged <= 0.93


def test_coverage_comes_back_after_a_change_and_the_median_follows() -> None:
    random, window, after = Random(7), ErrorWindow(), list[bool]()
    forgotten = 0
    for number in range(600):
        off = random.gauss(0.0 if number < 300 else 1.5, 0.3)
        interval = window.interval(0.0)
        if number >= 300:
            after.append(interval.low <= off <= interval.high)
        forgotten += window.learn(Error(off, 0.0), interval, judged=True)
    assert forgotten >= 1
    assert sum(after) / len(after) >= 0.87
    assert window.interval(0.0).median == pytest.approx(1.5, abs=0.15)


def test_noise_alone_is_seldom_taken_for_a_change() -> None:
    changes = 0
    for seed in range(20):
        random, window = Random(seed), ErrorWindow()
        for _ in range(400):
            changes += window.learn(Error(random.gauss(0, 0.5), 0.0), window.interval(0.0), judged=True)
    # 8,000 runs.
    assert changes <= 4


def test_runs_that_stray_more_get_wider_intervals() -> None:
    random, window = Random(3), ErrorWindow()
    for number in range(150):
        own = 0.1 if number % 2 else 0.8
        window.learn(Error(random.gauss(0, own), own), window.interval(own), judged=True)
    calm, wild = window.interval(0.1), window.interval(0.8)
    assert wild.high - wild.low > 4 * (calm.high - calm.low)


def test_an_estimate_that_nothing_was_learnt_for_says_so_and_is_wide() -> None:
    first = estimate(greet(2, 1_000), Habits(), PRICES)
    assert (first.calibrated_on, first.pooled, first.judged, first.unpriced) == (0, False, 0, ())
    for amount in Amount:
        assert 0 < first.of(amount).low < first.of(amount).median < first.of(amount).high
        assert first.of(amount).high / first.of(amount).low > 8


def test_more_to_read_and_more_parts_cost_more_before_anything_is_learnt() -> None:
    small, long, many = (
        estimate(shape, Habits(), PRICES) for shape in (greet(1, 100), greet(1, 50_000), greet(4, 100))
    )
    assert long.of(Amount.INPUT_TOKENS).median > 10 * small.of(Amount.INPUT_TOKENS).median
    assert many.of(Amount.OUTPUT_TOKENS).median > 1.5 * small.of(Amount.OUTPUT_TOKENS).median
    assert many.of(Amount.COST).median > small.of(Amount.COST).median


def test_who_reads_a_map_reads_what_all_of_its_items_gave() -> None:
    def read_by_the_editor(pages: int) -> float:
        whole, each = (estimate(summaries(more, 0, pages), Habits(), PRICES) for more in (1, 0))
        return whole.of(Amount.INPUT_TOKENS).median - each.of(Amount.INPUT_TOKENS).median

    said = estimate(summaries(0, 0, 1), Habits(), PRICES).of(Amount.OUTPUT_TOKENS).median
    assert read_by_the_editor(10) - read_by_the_editor(2) == pytest.approx(8 * said, rel=0.25)


def test_answers_that_stray_do_not_blur_how_bytes_become_tokens() -> None:
    random, habits = Random(9), Habits()
    for _ in range(120):
        shape = greet(1, 400)
        learn(shape, make(random, shape), habits, PRICES)
    # Apollo reads what Athena says, which strays by 0.3; what is left is noise of the tokens, 0.05.
    fit = habits.turns["Apollo|small"].fit
    assert fit is not None
    assert fit.input.spread < 0.12


def test_items_of_a_map_are_made_beside_one_another() -> None:
    one, eight, nine = (estimate(summaries(0, 0, pages), Habits(), PRICES) for pages in (1, 8, 9))
    assert eight.of(Amount.OUTPUT_TOKENS).median == pytest.approx(8 * one.of(Amount.OUTPUT_TOKENS).median)
    assert eight.of(Amount.SECONDS).median == pytest.approx(one.of(Amount.SECONDS).median)
    assert nine.of(Amount.SECONDS).median == pytest.approx(2 * one.of(Amount.SECONDS).median)


def test_a_model_without_a_price_is_counted_and_said() -> None:
    given = estimate(greet(1, 100), Habits(), {"small": Prices(input=1, output=1)})
    assert given.unpriced == ("large",)
    assert given.of(Amount.OUTPUT_TOKENS).median > 0


def test_a_free_model_costs_nothing_at_any_bound() -> None:
    free = {model: Prices(input=0, output=0) for model in PRICES}
    habits, random = Habits(), Random(1)
    for _ in range(40):
        shape = greet(1, 500)
        learn(shape, make(random, shape), habits, free)
    assert estimate(greet(1, 500), habits, free).of(Amount.COST).high == 0


def test_a_run_that_starts_runs_takes_what_they_take() -> None:
    alone = estimate(claim(1, 500), Habits(), PRICES)
    above = RunShape(
        name="workflow:above", reference="above@1.0.0", parts=[PartShape(place="it", items=3, run=claim(1, 500))]
    )
    assert estimate(above, Habits(), PRICES).of(Amount.COST).median == pytest.approx(3 * alone.of(Amount.COST).median)


def test_a_workflow_that_thousands_of_nodes_start_is_looked_at_once() -> None:
    lowest = claim(1, 500)
    alone = estimate(lowest, Habits(), PRICES).of(Amount.COST).median
    shape, levels, nodes = lowest, 6, 1_000
    for level in range(levels):
        starts = [PartShape(place=f"n{node}", run=shape) for node in range(nodes)]
        shape = RunShape(name=f"workflow:l{level}", reference=f"l{level}@1.0.0", parts=starts)
    assert len(shape.runs()) == levels + 1
    assert len(shape.turns()) == len(lowest.turns())
    # Taken one by one these would be 10^18 runs.
    given = estimate(shape, Habits(), PRICES)
    assert given.of(Amount.COST).median == pytest.approx(alone * nodes**levels)
    assert all(bound <= 2**63 - 1 for bounds in given.whole() for bound in bounds)


def test_chances_and_lengths_of_maps_are_learnt() -> None:
    habits, random = Habits(), Random(5)
    for _ in range(150):
        shape = claim(1, 800)
        learn(shape, make(random, shape), habits, PRICES)
    appeal = habits.runs["workflow:claim"].parts["appeal"]
    assert appeal.chance(0.5) == pytest.approx(0.3, abs=0.12)
    items = PartHabits()
    for _ in range(60):
        items.learn(7)
    mean, variance = items.items_of(50.0)
    assert mean == pytest.approx(7, abs=2)
    assert variance < 60


def test_what_is_learnt_stays_bounded() -> None:
    habits = Habits()
    for run in generate(11, 260):
        learn(run.shape, run.seen, habits, PRICES)
    assert all(len(turns.points) <= MOST_TURNS for turns in habits.turns.values())
    assert all(len(window.errors) <= MOST_KEPT for one in habits.runs.values() for window in one.windows)


def test_the_same_runs_teach_the_same() -> None:
    def taught() -> Habits:
        habits = Habits()
        for run in generate(4, 80):
            learn(run.shape, run.seen, habits, PRICES)
        return habits

    assert taught() == taught()


def test_a_long_answer_is_never_expected_beyond_what_may_be_said() -> None:
    turn = TurnShape(agent="Athena", model="large", given_bytes=10**7, max_output=100)
    shape = RunShape(name="workflow:w", reference="w@1.0.0", parts=[PartShape(place="a", turn=turn)])
    assert estimate(shape, Habits(), PRICES).of(Amount.OUTPUT_TOKENS).median <= 100


@pytest.mark.parametrize("shift_at", [None, 200], ids=["steady", "shifted"])
def test_estimates_of_versions_and_lengths_never_seen_hold_what_they_promise(shift_at: int | None) -> None:
    for held in splits(range(2), calibrated_on=450, held_out=150, shift_at=shift_at).values():
        assert 0.84 <= held.coverage <= 0.96
        assert held.distance <= 0.1
        assert abs(held.bias) <= 0.09
