"""Repeats stay few, whatever fails."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.reliability.retry_budget import AT_START, MOST, RetryBudget


@given(st.lists(st.booleans(), max_size=400))
def test_attempts_are_at_most_a_quarter_more_than_calls(wants: list[bool]) -> None:
    budget = RetryBudget()
    firsts = repeats = 0
    for again in wants:
        if again:
            repeats += budget.take()
        else:
            firsts += 1
            budget.first()
        assert firsts + repeats <= 1.25 * firsts + AT_START


@given(st.integers(0, 2000), st.integers(0, 50))
def test_a_long_calm_earns_no_more_than_the_purse_holds(firsts: int, wanted: int) -> None:
    budget = RetryBudget()
    for _ in range(firsts):
        budget.first()
    assert sum(budget.take() for _ in range(wanted)) <= MOST


def test_when_everything_fails_and_is_repeated_one_call_in_four_is() -> None:
    budget = RetryBudget()
    repeats = 0
    for _ in range(10_000):
        budget.first()
        repeats += budget.take()
    assert repeats == 2502
