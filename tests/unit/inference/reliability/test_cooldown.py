"""A deployment that asks to be left alone is."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.reliability.cooldown import MOST_SECONDS, Cooldown

SECONDS = st.floats(0, 10_000)


@given(st.lists(st.tuples(SECONDS, st.none() | st.floats(-5, 10_000)), max_size=20), SECONDS)
def test_no_call_comes_before_any_provider_asked_for_it(asked: list[tuple[float, float | None]], later: float) -> None:
    cooldown, now, until = Cooldown(), 0.0, 0.0
    for passed, seconds in asked:
        now += passed
        cooldown.asked(seconds, now)
        until = max(until, now + (5.0 if seconds is None else min(max(seconds, 0.0), MOST_SECONDS)))
        assert cooldown.wait(now) <= MOST_SECONDS + 1e-6
    at = now + later
    assert cooldown.wait(at) == max(until - at, 0.0)
    assert cooldown.wait(until) == 0.0


def test_who_names_no_time_is_left_alone_for_five_seconds() -> None:
    cooldown = Cooldown()
    cooldown.asked(None, 10.0)
    assert (cooldown.wait(10.0), cooldown.wait(14.0), cooldown.wait(15.0)) == (5.0, 1.0, 0.0)
