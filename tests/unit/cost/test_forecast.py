"""What will have been spent at the end of a period: the interval holds what it promises and says what it rests on."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cost.domain.amounts import MAX_LIMIT
from services.cost.domain.forecast import Ground, forecast
from services.cost.domain.hourly_spend import HOUR, HourlySpend
from tests.unit.cost.test_baseline import DOLLAR, MONDAY, WEEK, noisy

DAY = timedelta(days=1)


def of(amounts: list[int]) -> HourlySpend:
    return HourlySpend(start=MONDAY, amounts=tuple(amounts))


@pytest.mark.parametrize("ahead", [20, 3 * 24 + 7, WEEK, 30 * 24])
def test_the_interval_holds_about_nine_in_ten_ends(ahead: int) -> None:
    inside = tried = 0
    for seed in range(60):
        dice = Random(seed)
        # Weeks differ in level, as they do.
        levels = [dice.lognormvariate(0, 0.15) for _ in range(14)]
        amounts = [round(amount * levels[at // WEEK]) for at, amount in enumerate(noisy(seed, 14 * WEEK, sigma=0.4))]
        known = 8 * WEEK + 12
        result = forecast(of(amounts[:known]), spent=0, now=MONDAY + known * HOUR, end=MONDAY + (known + ahead) * HOUR)
        assert result.low is not None
        assert result.high is not None
        inside += result.low <= sum(amounts[known : known + ahead]) <= result.high
        tried += 1
    assert inside / tried >= 0.75


def test_it_knows_weekends() -> None:
    amounts = noisy(3, 4 * WEEK, sigma=0.05)
    friday_night = 4 * WEEK + 5 * 24
    amounts += noisy(4, 5 * 24, sigma=0.05)
    result = forecast(of(amounts), spent=0, now=MONDAY + friday_night * HOUR, end=MONDAY + (friday_night + 48) * HOUR)
    weekend = sum(amounts[5 * 24 : WEEK])
    assert result.ground is Ground.WEEKS
    assert result.expected is not None
    assert abs(result.expected - weekend) <= weekend * 0.1


@pytest.mark.parametrize(
    ("hours", "ground"), [(0, Ground.TOO_LITTLE), (47, Ground.TOO_LITTLE), (48, Ground.DAYS), (14 * 24, Ground.WEEKS)]
)
def test_it_says_what_it_rests_on(hours: int, ground: Ground) -> None:
    now = MONDAY + hours * HOUR
    result = forecast(of([DOLLAR] * hours), spent=5, now=now, end=now + DAY)
    assert (result.ground, result.days, result.spent) == (ground, hours // 24, 5)
    assert (result.expected is None) == (ground is Ground.TOO_LITTLE)


def test_a_regular_past_is_carried_on_to_the_nano_usd() -> None:
    now = MONDAY + 20 * 24 * HOUR + timedelta(minutes=30)
    result = forecast(of([1000] * 20 * 24), spent=7, now=now, end=now + timedelta(hours=30))
    assert (result.low, result.expected, result.high) == (30_007, 30_007, 30_007)


def test_at_the_end_of_the_period_it_is_what_was_spent() -> None:
    now = MONDAY + 20 * 24 * HOUR
    result = forecast(of([DOLLAR] * 20 * 24), spent=7, now=now, end=now)
    assert (result.low, result.expected, result.high) == (7, 7, 7)


def test_a_period_that_is_over_forecasts_nothing_more() -> None:
    now = MONDAY + 20 * 24 * HOUR + timedelta(minutes=40)
    result = forecast(of([DOLLAR] * 20 * 24), spent=7, now=now, end=now - timedelta(minutes=10))
    assert result.expected == 7


def test_history_of_another_hour_is_not_taken() -> None:
    now = MONDAY + 21 * 24 * HOUR
    assert forecast(of([DOLLAR] * 20 * 24), spent=0, now=now, end=now + DAY).ground is Ground.TOO_LITTLE


@settings(max_examples=60, deadline=None)
@given(
    amounts=st.lists(st.integers(0, 2**60), min_size=48, max_size=500),
    spent=st.integers(0, 2**62),
    minutes=st.integers(0, 59),
    ahead=st.integers(0, 31 * 24 * 60),
)
def test_its_numbers_are_in_order_deterministic_and_fit_64_bits(
    amounts: list[int], spent: int, minutes: int, ahead: int
) -> None:
    now = MONDAY + len(amounts) * HOUR + timedelta(minutes=minutes)
    first = forecast(of(amounts), spent=spent, now=now, end=now + timedelta(minutes=ahead))
    assert first == forecast(of(amounts), spent=spent, now=now, end=now + timedelta(minutes=ahead))
    assert first.low is not None
    assert first.expected is not None
    assert first.high is not None
    assert spent <= first.low <= first.expected <= first.high <= MAX_LIMIT


def test_hours_are_lined_up_without_gaps_and_never_negative() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    series = HourlySpend.until(noon, {noon - 4 * HOUR: 7, noon - 2 * HOUR: -3, noon - HOUR: 5, noon: 9}, most=100)
    assert (series.start, series.amounts, series.end) == (noon - 4 * HOUR, (7, 0, 0, 5), noon)
    assert HourlySpend.until(noon, {}, most=100).amounts == ()
    assert HourlySpend.until(noon, {noon - 50 * HOUR: 1}, most=2).amounts == (0, 0)
