"""A replica asks a provider no more than it takes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.fairness.provider_limit import ProviderLimit
from tests.support.inference import OPENAI


def a_limit(*, at_once: int = 0, calls: int = 0, tokens: int = 0) -> ProviderLimit:
    return ProviderLimit(replace(OPENAI, max_concurrency=at_once, requests_per_minute=calls, tokens_per_minute=tokens))


def test_what_is_not_limited_never_waits() -> None:
    limit = a_limit()
    for _ in range(1_000):
        assert limit.wait(tokens=10**6, now=0.0) == 0
        limit.begin(tokens=10**6)


def test_calls_at_once_are_counted_until_they_end() -> None:
    limit = a_limit(at_once=1)
    limit.begin(tokens=1)
    assert limit.wait(tokens=1, now=0.0) > 0
    limit.end()
    assert limit.wait(tokens=1, now=0.0) == 0


def test_calls_of_a_minute_come_back_one_by_one() -> None:
    limit = a_limit(calls=60)
    for _ in range(60):
        limit.begin(tokens=1)
    assert limit.wait(tokens=1, now=0.0) == pytest.approx(1.0)
    assert limit.wait(tokens=1, now=1.0) == 0


def test_a_call_of_more_tokens_than_a_minute_has_waits_for_a_full_minute() -> None:
    limit = a_limit(tokens=600)
    assert limit.wait(tokens=10_000, now=0.0) == 0
    limit.begin(tokens=10_000)
    assert limit.wait(tokens=1, now=0.0) > 60


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 500)), max_size=60))
def test_no_minute_takes_more_than_two_minutes_worth(steps: list[tuple[float, int]]) -> None:
    """A bucket that was full gives what it holds, and what comes back meanwhile."""
    limit, now, taken = a_limit(calls=10, tokens=1_000), 0.0, list[tuple[float, int]]()
    for pause, tokens in steps:
        now += pause
        if limit.wait(tokens=tokens, now=now) == 0:
            limit.begin(tokens=tokens)
            taken.append((now, tokens))
        last = [one for at, one in taken if at > now - 60]
        assert len(last) <= 20
        assert sum(last) <= 2_000
