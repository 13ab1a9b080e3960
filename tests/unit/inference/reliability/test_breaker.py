"""A deployment that fails is left alone, and found out about with one call."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.inference.domain.reliability.breaker import Breaker, BreakerState

CENTRE = 0.5


def opened(*, times: int = 1) -> tuple[Breaker, float]:
    """A breaker that opened and whose probes failed, and the time at which the last one did."""
    breaker, now = Breaker(in_a_row=5), 100.0
    for _ in range(5):
        breaker.failed(now, probing=False, dice=CENTRE)
    for _ in range(times - 1):
        now += breaker.wait(now)
        breaker.failed(now, probing=breaker.enter(), dice=CENTRE)
    return breaker, now


def test_five_failures_in_a_row_open_it_and_an_answer_between_starts_the_count_again() -> None:
    breaker = Breaker(in_a_row=5)
    for _ in range(4):
        breaker.failed(0.0, probing=False, dice=CENTRE)
    breaker.answered(0.0, probing=False)
    breaker.failed(0.0, probing=False, dice=CENTRE)
    assert breaker.state is BreakerState.CLOSED
    for _ in range(4):
        breaker.failed(0.0, probing=False, dice=CENTRE)
    assert breaker.state is BreakerState.OPEN
    assert breaker.wait(0.0) == 1.0


def test_half_of_ten_calls_within_ten_seconds_open_it_and_older_ones_do_not_count() -> None:
    together, apart = Breaker(in_a_row=5), Breaker(in_a_row=5)
    for number in range(10):
        for breaker, now in ((together, 0.5 * number), (apart, 3.0 * number)):
            if number % 2:
                breaker.failed(now, probing=False, dice=CENTRE)
            else:
                breaker.answered(now, probing=False)
    assert together.state is BreakerState.OPEN
    assert apart.state is BreakerState.CLOSED


@pytest.mark.parametrize(("times", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 30.0), (40, 30.0)])
def test_it_stays_open_twice_as_long_each_time_that_nothing_has_changed(times: int, seconds: float) -> None:
    breaker, now = opened(times=times)
    assert breaker.wait(now) == pytest.approx(seconds)


@given(st.integers(1, 12), st.floats(0, 1))
def test_replicas_are_spread_by_a_fifth(times: int, dice: float) -> None:
    breaker, now = opened(times=times)
    now += breaker.wait(now)
    breaker.failed(now, probing=breaker.enter(), dice=dice)
    usual = min(2.0**times, 30.0)
    assert usual * 0.8 - 1e-6 <= breaker.wait(now) <= usual * 1.2 + 1e-6


def test_one_call_finds_out_and_its_answer_closes_it() -> None:
    breaker, now = opened()
    assert breaker.wait(now + 0.9) > 0
    now += 1.0
    assert breaker.enter()
    assert breaker.wait(now) > 0, "one is enough"
    breaker.answered(now, probing=True)
    assert (breaker.state, breaker.wait(now)) == (BreakerState.CLOSED, 0.0)


def test_one_that_was_seen_to_answer_is_asked_by_one_call_which_alone_closes_it() -> None:
    breaker, now = opened(times=3)
    breaker.looked_at()
    assert (breaker.state, breaker.wait(now)) == (BreakerState.HALF_OPEN, 0.0)
    assert breaker.enter()
    breaker.looked_at()
    assert breaker.wait(now) > 0, "one call finds out"
    breaker.failed(now, probing=True, dice=CENTRE)
    assert breaker.wait(now) == pytest.approx(8.0), "it goes on where it was"


def test_a_call_that_was_cancelled_while_it_found_out_leaves_it_to_the_next() -> None:
    breaker, now = opened()
    assert breaker.enter()
    breaker.left(probing=True)
    assert breaker.wait(now + 1.0) == 0.0


def test_what_calls_of_before_say_changes_nothing_once_it_is_open() -> None:
    breaker, now = opened()
    breaker.answered(now, probing=False)
    breaker.failed(now, probing=False, dice=CENTRE)
    assert (breaker.state, breaker.wait(now)) == (BreakerState.OPEN, 1.0)


@dataclass
class _Calls:
    plain: int = 0
    probing: int = 0
    now: float = 0.0
    answers: list[str] = field(default_factory=list[str])


class Life(RuleBasedStateMachine):
    """Calls come, answer, fail and are cancelled in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(in_a_row=3)
        self.calls = _Calls()

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.calls.now += seconds

    @rule()
    def a_call_comes(self) -> None:
        if self.breaker.wait(self.calls.now) > 0:
            return
        if self.breaker.enter():
            self.calls.probing += 1
        else:
            self.calls.plain += 1

    @rule()
    def it_is_seen_to_answer(self) -> None:
        before = self.breaker.state
        self.breaker.looked_at()
        assert self.breaker.state is (BreakerState.HALF_OPEN if before is BreakerState.OPEN else before)

    @precondition(lambda self: self.calls.plain)
    @rule(how=st.sampled_from(["answered", "failed", "left"]), dice=st.floats(0, 1))
    def a_call_ends(self, how: str, dice: float) -> None:
        self.calls.plain -= 1
        self._end(how, dice, probing=False)

    @precondition(lambda self: self.calls.probing)
    @rule(how=st.sampled_from(["answered", "failed", "left"]), dice=st.floats(0, 1))
    def the_probe_ends(self, how: str, dice: float) -> None:
        self.calls.probing -= 1
        self._end(how, dice, probing=True)

    def _end(self, how: str, dice: float, *, probing: bool) -> None:
        match how:
            case "answered":
                self.breaker.answered(self.calls.now, probing=probing)
            case "failed":
                self.breaker.failed(self.calls.now, probing=probing, dice=dice)
            case _:
                self.breaker.left(probing=probing)

    @invariant()
    def at_most_one_call_finds_out(self) -> None:
        assert self.calls.probing <= 1

    @invariant()
    def it_is_never_shut_for_good(self) -> None:
        assert 0 <= self.breaker.wait(self.calls.now) <= 36
        assert self.calls.probing or self.breaker.wait(self.calls.now + 36.001) == 0


TestLife = Life.TestCase
