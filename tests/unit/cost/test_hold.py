"""The life of a hold."""

from collections.abc import Callable

import pytest

from services.cost.domain.errors import (
    HoldAlreadyDispatched,
    HoldAlreadySettled,
    HoldNotDispatched,
    HoldNotReserved,
    SettledDifferently,
)
from services.cost.domain.hold import Hold, HoldState
from services.meshkit.content import Usage
from services.meshkit.core.errors import MeshError
from services.meshkit.core.money import NanoUsd
from tests.support.money import MINUTE, NOON, a_hold

LATER = NOON + MINUTE
USED = Usage(input=3)


def in_state(state: HoldState) -> Hold:
    hold = a_hold(10)
    sent = hold.dispatch(NOON)
    return {
        HoldState.RESERVED: hold,
        HoldState.DISPATCHED: sent,
        HoldState.SETTLED: sent.settle(USED, NanoUsd(3), NOON),
        HoldState.RELEASED: hold.release(dispatched_unbilled=False),
        HoldState.ASSUMED: sent.expire(LATER),
    }[state]


def test_a_reserved_hold_that_expires_frees_its_money() -> None:
    after = in_state(HoldState.RESERVED).expire(LATER)
    assert (after.state, after.held, after.charged) == (HoldState.RELEASED, 0, 0)


def test_a_dispatched_hold_that_expires_is_charged_its_bound_as_assumed() -> None:
    after = in_state(HoldState.DISPATCHED).expire(LATER)
    assert (after.state, after.held, after.charged) == (HoldState.ASSUMED, 0, 10)


def test_nothing_expires_before_its_time() -> None:
    hold = in_state(HoldState.DISPATCHED)
    assert hold.expire(NOON) is hold


def test_late_usage_corrects_an_assumed_charge() -> None:
    after = in_state(HoldState.ASSUMED).settle(USED, NanoUsd(3), NOON)
    assert (after.state, after.charged, after.usage) == (HoldState.SETTLED, 3, USED)


def test_a_reserved_hold_cannot_be_dispatched_after_its_time() -> None:
    with pytest.raises(HoldNotReserved, match="expired"):
        in_state(HoldState.RESERVED).dispatch(LATER)


def test_the_same_usage_settles_twice_and_another_does_not() -> None:
    settled = in_state(HoldState.SETTLED)
    assert settled.settle(USED, NanoUsd(3), NOON) is settled
    with pytest.raises(SettledDifferently):
        settled.settle(Usage(input=4), NanoUsd(4), NOON)


def test_a_dispatched_call_is_freed_only_when_the_provider_says_that_it_is_free() -> None:
    sent = in_state(HoldState.DISPATCHED)
    with pytest.raises(HoldAlreadyDispatched):
        sent.release(dispatched_unbilled=False)
    assert sent.release(dispatched_unbilled=True).state is HoldState.RELEASED


def test_an_assumed_charge_is_taken_back_when_the_provider_says_that_it_is_free() -> None:
    after = in_state(HoldState.ASSUMED).release(dispatched_unbilled=True)
    assert (after.state, after.charged) == (HoldState.RELEASED, 0)


Step = Callable[[Hold], Hold]
DISPATCH: Step = lambda hold: hold.dispatch(NOON)  # noqa: E731
SETTLE: Step = lambda hold: hold.settle(USED, NanoUsd(3), NOON)  # noqa: E731
RELEASE: Step = lambda hold: hold.release(dispatched_unbilled=False)  # noqa: E731


@pytest.mark.parametrize(
    ("state", "step", "refusal"),
    [
        (HoldState.SETTLED, DISPATCH, HoldNotReserved),
        (HoldState.RELEASED, DISPATCH, HoldNotReserved),
        (HoldState.ASSUMED, DISPATCH, HoldNotReserved),
        (HoldState.RESERVED, SETTLE, HoldNotDispatched),
        (HoldState.RELEASED, SETTLE, HoldNotDispatched),
        (HoldState.SETTLED, RELEASE, HoldAlreadySettled),
        (HoldState.ASSUMED, RELEASE, HoldAlreadyDispatched),
    ],
)
def test_what_a_state_does_not_allow_is_refused(state: HoldState, step: Step, refusal: type[MeshError]) -> None:
    with pytest.raises(refusal):
        step(in_state(state))


@pytest.mark.parametrize(
    ("state", "step"),
    [(HoldState.DISPATCHED, DISPATCH), (HoldState.SETTLED, SETTLE), (HoldState.RELEASED, RELEASE)],
)
def test_a_repeated_step_changes_nothing(state: HoldState, step: Step) -> None:
    hold = in_state(state)
    assert step(hold) is hold
