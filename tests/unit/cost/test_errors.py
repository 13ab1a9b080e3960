"""Refusals as people read them: money in dollars, everything else with its unit."""

from uuid import UUID

import pytest

from services.cost.domain.errors import BudgetExhausted, RefusalCause


@pytest.mark.parametrize(
    ("unit", "asked", "left", "says"),
    [
        (
            "nano_usd",
            362_250,
            1_000,
            "has $0.000001 left, and the call may take $0.00036225: more than is left of its limit; raise",
        ),
        ("nano_usd", 5 * 10**9, 0, "has $0.00 left, and the call may take $5.00: more than is left"),
        ("tokens", 300, 20, "has 20 tokens left, and the call may take 300 tokens: more"),
        ("calls", 1, 0, "has 0 calls left, and the call may take 1 call: more"),
        ("wall_ms", 60_000, 250, "has 250 ms left, and the call may take 60000 ms: more"),
    ],
)
def test_an_exhausted_budget_says_what_is_left_and_what_was_asked(unit: str, asked: int, left: int, says: str) -> None:
    refusal = BudgetExhausted(
        UUID(int=1), name="agent:Bob", asked=asked, left=left, cause=RefusalCause.SPENT, unit=unit
    )
    assert says in refusal.message
    assert refusal.metadata[f"asked_{unit}"] == str(asked)
    assert refusal.metadata[f"left_{unit}"] == str(left)


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (RefusalCause.SPENT, "more than is left of its limit"),
        (RefusalCause.HELD, "calls in progress hold the rest, so wait for them"),
        (RefusalCause.OVERRUN, "more is spent than its limit"),
    ],
)
def test_an_exhausted_budget_says_why_in_words(cause: RefusalCause, says: str) -> None:
    refusal = BudgetExhausted(UUID(int=1), name="tenant", asked=5, left=1, cause=cause)
    assert f": {says}; raise its limit" in refusal.message
    assert refusal.metadata["cause"] == cause
