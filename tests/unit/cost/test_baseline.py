"""What an hour usually costs: spikes are found, noise and seasons are not taken for spikes."""

import math
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cost.domain.amounts import MAX_LIMIT
from services.cost.domain.baseline import LEAST_HOURS, Basis, baseline_of
from services.cost.domain.hourly_spend import HOUR, HourlySpend

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
WEEK = 7 * 24
CENT = 10_000_000
DOLLAR = 100 * CENT


def season(hour: int) -> float:
    """Ten times as much at noon as at night, and half of it at weekends."""
    day = 1.0 + 9.0 * max(0.0, math.sin((hour % 24 - 6) / 12 * math.pi))
    return day * (0.5 if hour // 24 % 7 >= 5 else 1.0)


def noisy(seed: int, hours: int, *, sigma: float = 0.25, seasonal: bool = True) -> list[int]:
    dice = Random(seed)
    return [
        round(DOLLAR * (season(hour) if seasonal else 1.0) * dice.lognormvariate(0, sigma)) for hour in range(hours)
    ]


def of(amounts: list[int]) -> HourlySpend:
    return HourlySpend(start=MONDAY, amounts=tuple(amounts))


def alarms(amounts: list[int], *, first: int) -> list[int]:
    """Lists the hours from `first` on that are unusual by what came before them."""
    found: list[int] = []
    for at in range(first, len(amounts)):
        baseline = baseline_of(of(amounts[:at]), MONDAY + at * HOUR, floor=CENT)
        if baseline is not None and amounts[at] > baseline.high:
            found.append(at)
    return found


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), sigma=st.sampled_from([0.05, 0.25, 0.6]))
def test_stationary_noise_with_seasons_hardly_ever_alarms(seed: int, sigma: float) -> None:
    amounts = noisy(seed, 5 * WEEK, sigma=sigma)
    assert len(alarms(amounts, first=4 * WEEK)) <= 2


def test_over_many_weeks_false_alarms_stay_below_one_in_two_hundred_hours() -> None:
    checked = found = 0
    for seed in range(4):
        for sigma in (0.1, 0.5, 1.0):
            found += len(alarms(noisy(seed, 6 * WEEK, sigma=sigma), first=5 * WEEK))
            checked += WEEK
    assert found <= checked / 200


def test_heavy_tails_do_not_alarm_more_often_than_was_promised() -> None:
    checked = found = 0
    for seed in range(8):
        dice = Random(seed)
        amounts = [round(DOLLAR * dice.paretovariate(1.2)) for _ in range(6 * WEEK)]
        found += len(alarms(amounts, first=5 * WEEK))
        checked += WEEK
    # One in two hundred is expected at most; three standard deviations of luck on top.
    assert found <= checked / 200 + 3 * math.sqrt(checked / 200)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), at=st.integers(0, WEEK - 1), times=st.integers(8, 1000))
def test_a_planted_spike_is_found_at_any_hour_of_the_week(seed: int, at: int, times: int) -> None:
    amounts = noisy(seed, 5 * WEEK)
    hour = 4 * WEEK + at
    baseline = baseline_of(of(amounts[:hour]), MONDAY + hour * HOUR, floor=CENT)
    assert baseline is not None
    assert baseline.basis is Basis.HOUR_OF_WEEK
    assert round(DOLLAR * season(hour)) * times > baseline.high


def test_the_season_is_respected_noon_is_usual_at_noon_and_not_at_night() -> None:
    amounts = noisy(1, 5 * WEEK)
    noon = round(DOLLAR * season(12))
    of_noon = baseline_of(of(amounts), MONDAY + (5 * WEEK + 12) * HOUR, floor=CENT)
    of_night = baseline_of(of(amounts), MONDAY + (5 * WEEK + 3) * HOUR, floor=CENT)
    assert of_noon is not None
    assert of_night is not None
    assert noon < of_noon.calm
    assert noon > of_night.high


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), spikes=st.integers(1, 2))
def test_spikes_of_the_past_hardly_move_what_is_usual(seed: int, spikes: int) -> None:
    amounts = noisy(seed, 4 * WEEK)
    dirty = list(amounts)
    for at in Random(seed).sample(range(len(amounts)), spikes):
        dirty[at] *= 100
    clean_baseline = baseline_of(of(amounts), MONDAY + (4 * WEEK + 12) * HOUR, floor=CENT)
    dirty_baseline = baseline_of(of(dirty), MONDAY + (4 * WEEK + 12) * HOUR, floor=CENT)
    assert clean_baseline is not None
    assert dirty_baseline is not None
    assert dirty_baseline.expected <= 2 * clean_baseline.expected
    assert dirty_baseline.high <= 2 * clean_baseline.high


@pytest.mark.parametrize(
    ("hours", "basis"),
    [
        (48, Basis.ANY_HOUR),
        (119, Basis.ANY_HOUR),
        (120, Basis.HOUR_OF_DAY),
        (671, Basis.HOUR_OF_DAY),
        (672, Basis.HOUR_OF_WEEK),
        (3000, Basis.HOUR_OF_WEEK),
    ],
)
def test_what_is_compared_depends_on_how_much_is_known(hours: int, basis: Basis) -> None:
    baseline = baseline_of(of([DOLLAR] * hours), MONDAY + hours * HOUR, floor=CENT)
    assert baseline is not None
    assert (baseline.basis, baseline.hours) == (basis, min(hours, 8 * WEEK))


def test_a_cold_start_has_no_baseline() -> None:
    assert baseline_of(of([DOLLAR] * (LEAST_HOURS - 1)), MONDAY + LEAST_HOURS * HOUR, floor=CENT) is None


def test_pennies_are_never_an_anomaly() -> None:
    baseline = baseline_of(of([0] * 4 * WEEK), MONDAY + 4 * WEEK * HOUR, floor=CENT)
    assert baseline is not None
    assert baseline.expected == 0
    assert baseline.calm >= CENT


@settings(max_examples=100, deadline=None)
@given(
    amounts=st.lists(st.integers(0, 2**62), min_size=LEAST_HOURS, max_size=200),
    hour=st.integers(0, 400),
    floor=st.integers(1, 10**12),
)
def test_its_numbers_are_in_order_and_fit_64_bits_whatever_was_spent(amounts: list[int], hour: int, floor: int) -> None:
    baseline = baseline_of(of(amounts), MONDAY + hour * HOUR, floor=floor)
    assert baseline is not None
    assert 0 <= baseline.expected <= MAX_LIMIT
    assert min(baseline.expected, MAX_LIMIT) <= baseline.calm <= baseline.high <= MAX_LIMIT
