"""What becomes of a call that nobody follows."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.call_policy import OnDisconnect
from services.inference.domain.reliability.disconnect import DRAIN_SECONDS, MOST_DRAINED, seconds_alone


def test_each_policy_has_its_time() -> None:
    assert seconds_alone(OnDisconnect.CANCEL, repeatable=True, others=0) == 0
    assert seconds_alone(OnDisconnect.DRAIN, repeatable=True, others=0) == DRAIN_SECONDS
    assert seconds_alone(OnDisconnect.DETACH, repeatable=True, others=0) == inf


def test_what_nobody_can_come_back_for_is_read_on_for_its_usage_only() -> None:
    assert seconds_alone(OnDisconnect.DETACH, repeatable=False, others=0) == DRAIN_SECONDS


@given(st.integers(0, 1000), st.booleans())
def test_few_are_drained_at_once(others: int, repeatable: bool) -> None:
    seconds = seconds_alone(OnDisconnect.DRAIN, repeatable=repeatable, others=others)
    assert seconds == (DRAIN_SECONDS if others < MOST_DRAINED else 0)
