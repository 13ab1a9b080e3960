"""Why a budget refuses: what calls in progress alone are in the way of waits, and all else is told at once."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cost.domain.amounts import Amounts, Gauge
from services.cost.domain.budget import Budget
from services.cost.domain.errors import BudgetDegrades, BudgetExhausted, RefusalCause
from services.cost.domain.terms import BudgetMode
from services.meshkit.core.errors import MeshError
from services.meshkit.core.money import NanoUsd
from tests.support.examples import examples
from tests.support.money import NOON, a_budget

MODES = (BudgetMode.HARD, BudgetMode.DEGRADE)
small = st.integers(0, 12)
gauges = st.builds(lambda limit, spent, held: a_gauge(limit, spent=spent, held=held), st.none() | small, small, small)


def a_gauge(limit: int | None, *, spent: int, held: int) -> Gauge:
    return Gauge(limit, spent, held, 0 if limit is None else max(0, spent + held - limit))


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    money = a_gauge(draw(small), spent=draw(small), held=draw(small))
    return replace(
        a_budget(money.limit or 0, spent=money.spent, held=money.held),
        overrun=NanoUsd(money.overrun),
        tokens=draw(gauges),
        calls=draw(gauges),
        wall=draw(gauges),
        mode=draw(st.sampled_from(MODES)),
        warn_at=draw(st.integers(0, 100)),
    )


def once_settled_for_nothing(budget: Budget) -> Budget:
    parts = (a_gauge(gauge.limit, spent=gauge.spent, held=0) for _, gauge in budget.gauges)
    money, tokens, calls, wall = parts
    return replace(budget, held=NanoUsd(0), overrun=NanoUsd(money.overrun), tokens=tokens, calls=calls, wall=wall)


def refused(budget: Budget, amounts: Amounts, *, cheapest: bool, waits: bool = True) -> MeshError | None:
    try:
        budget.refuse_unless_free(amounts, now=NOON, cheapest=cheapest, waits=waits)
    except MeshError as refusal:
        return refusal
    return None


def said(refusal: MeshError | None) -> object:
    return refusal.cause if isinstance(refusal, BudgetExhausted) else type(refusal)


@settings(max_examples=examples(500))
@given(budgets(), st.builds(Amounts, small, small, small, small), st.booleans())
def test_a_call_waits_exactly_when_it_fits_once_nothing_is_held(
    budget: Budget, amounts: Amounts, cheapest: bool
) -> None:
    now, later = (refused(one, amounts, cheapest=cheapest) for one in (budget, once_settled_for_nothing(budget)))
    assert said(now) == said(later) or (said(now), later) == (RefusalCause.HELD, None)
    if now is None:
        assert all(
            gauge.limit is None or gauge.spent + gauge.held + amount <= gauge.limit
            for (_, gauge), amount in zip(budget.gauges, amounts, strict=True)
        )


@settings(max_examples=examples(500))
@given(budgets(), st.builds(Amounts, small, small, small, small))
def test_no_dearer_model_passes_the_level_and_who_does_not_wait_is_sent_to_the_cheapest(
    budget: Budget, amounts: Amounts
) -> None:
    waiting, going = (refused(budget, amounts, cheapest=False, waits=waits) for waits in (True, False))
    if budget.mode is BudgetMode.DEGRADE and budget.reached(budget.warn_at, also_held=True):
        assert waiting is not None or budget.reached(100, also_held=False)
    assert said(going) == said(waiting) or (type(going), said(waiting)) in (
        (BudgetDegrades, RefusalCause.HELD),
        (BudgetDegrades, RefusalCause.SPENT),
    )


@pytest.mark.parametrize(
    ("spent", "held", "amount", "cause"),
    [
        (0, 8, 4, RefusalCause.HELD),
        (2, 8, 4, RefusalCause.SPENT),
        (6, 0, 0, RefusalCause.OVERRUN),
        (6, 8, 4, RefusalCause.OVERRUN),
    ],
)
def test_a_lowered_limit_refuses_for_good_only_what_is_spent(
    spent: int, held: int, amount: int, cause: RefusalCause
) -> None:
    lowered = a_budget(100, spent=spent, held=held).limited(NanoUsd(5))
    assert lowered.overran
    assert said(refused(lowered, Amounts(amount), cheapest=True)) is cause
