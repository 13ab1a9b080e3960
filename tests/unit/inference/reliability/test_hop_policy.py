"""What follows a failure."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.errors import ProviderRateLimited, ProviderRefused, ProviderUnavailable
from services.inference.domain.reliability.hop_policy import PRICE_UNKNOWN, Move, move_after, pause_before_repeat

REASONS = (ProviderUnavailable.reason, ProviderRateLimited.reason, ProviderRefused.reason, PRICE_UNKNOWN, "LAW_BLOCKED")


@given(st.sampled_from(REASONS) | st.text(), st.integers(1, 5), st.integers(1, 3))
def test_no_deployment_is_asked_more_often_than_it_may_be(reason: str, tried: int, tries: int) -> None:
    move = move_after(reason, tried=tried, tries=tries)
    assert move is not Move.AGAIN or tried < tries


def test_what_a_provider_refuses_it_refuses_again_but_another_may_take_it() -> None:
    assert move_after("PROVIDER_REFUSED", tried=1, tries=3) is Move.ON
    assert move_after("PROVIDER_UNAVAILABLE", tried=1, tries=3) is Move.AGAIN
    assert move_after("PROVIDER_UNAVAILABLE", tried=3, tries=3) is Move.ON


def test_law_and_money_end_a_call() -> None:
    for reason in ("LAW_BLOCKED", "BUDGET_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
        assert move_after(reason, tried=1, tries=3) is Move.END
    assert move_after(PRICE_UNKNOWN, tried=1, tries=3) is Move.ON


@given(
    tried=st.integers(1, 20),
    asked_for=st.floats(0, 3600),
    left=st.floats(0, 300),
    dice=st.floats(0, 1),
)
def test_a_pause_leaves_time_for_the_repeat_and_is_never_shorter_than_asked_for(
    tried: int, asked_for: float, left: float, dice: float
) -> None:
    pause = pause_before_repeat(tried=tried, asked_for=asked_for, left=left, dice=dice)
    if pause is not None:
        assert asked_for <= pause <= left / 2
        assert pause - asked_for <= 5.001


def test_pauses_grow_and_are_spread() -> None:
    def pause(tried: int, dice: float) -> float | None:
        return pause_before_repeat(tried=tried, asked_for=0.0, left=60.0, dice=dice)

    assert [pause(tried, 1.0) for tried in (1, 2, 3, 9)] == [0.2, 0.4, 0.8, 5.0]
    assert pause(1, 0.0) == 0.0
    assert pause_before_repeat(tried=1, asked_for=40.0, left=60.0, dice=0.0) is None
