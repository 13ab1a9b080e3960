"""How full a budget is, where it is heading, and when it degrades."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.cost.domain.amounts import NONE, Amounts, Gauge
from services.cost.domain.budget import Budget
from services.cost.domain.budget_status import BudgetLevel, level_of, projected
from services.cost.domain.errors import BudgetDegrades, BudgetExhausted
from services.cost.domain.period import Period
from services.cost.domain.terms import BudgetMode, Terms
from services.meshkit.core.money import NanoUsd
from tests.support.money import MINUTE, NOON, a_budget

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def daily(spent: int) -> Budget:
    made = replace(a_budget(), created=DAY - timedelta(days=30))
    made = made.defined(Terms(limit=NanoUsd(100), period=Period.DAY), now=DAY, charged=NONE)
    return replace(made, spent=NanoUsd(spent))


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, BudgetLevel.OK),
        ({"spent": NanoUsd(79)}, BudgetLevel.OK),
        ({"spent": NanoUsd(80)}, BudgetLevel.WARNED),
        ({"held": NanoUsd(90)}, BudgetLevel.OK),
        ({"held": NanoUsd(90), "mode": BudgetMode.DEGRADE}, BudgetLevel.OK),
        ({"spent": NanoUsd(80), "mode": BudgetMode.DEGRADE}, BudgetLevel.DEGRADED),
        ({"spent": NanoUsd(100)}, BudgetLevel.EXHAUSTED),
        ({"tokens": Gauge(limit=5, spent=4)}, BudgetLevel.WARNED),
        ({"calls": Gauge(limit=5, spent=5)}, BudgetLevel.EXHAUSTED),
        ({"wall": Gauge(limit=5, spent=6, overrun=1)}, BudgetLevel.OVERRUN),
        ({"degraded_until": NOON + MINUTE}, BudgetLevel.DEGRADED),
        ({"degraded_until": NOON}, BudgetLevel.OK),
    ],
)
def test_the_level_is_that_of_the_fullest_measure(changes: dict[str, object], level: BudgetLevel) -> None:
    values: dict[str, object] = {"warn_at": 80, **changes}
    assert level_of(replace(a_budget(), **values), NOON) is level  # type: ignore[arg-type]


def test_what_is_spent_is_projected_to_the_end_of_the_period() -> None:
    assert projected(daily(30), DAY + timedelta(hours=6)) == 120
    assert projected(daily(30), DAY + timedelta(hours=24)) == 30
    assert projected(daily(30), DAY + timedelta(minutes=10)) is None, "too little has passed"
    assert projected(a_budget(), NOON) is None, "there is no end"


def test_a_budget_made_within_its_period_is_projected_from_then_on() -> None:
    young = replace(daily(30), created=DAY + timedelta(hours=12))
    assert projected(young, DAY + timedelta(hours=18)) == 60


def test_after_a_spike_only_the_cheapest_pass_for_a_while() -> None:
    budget = replace(a_budget(100), degraded_until=NOON + MINUTE)
    with pytest.raises(BudgetDegrades):
        budget.refuse_unless_free(Amounts(1), now=NOON, cheapest=False)
    budget.refuse_unless_free(Amounts(1), now=NOON, cheapest=True)
    budget.refuse_unless_free(Amounts(1), now=NOON + MINUTE, cheapest=False)
    with pytest.raises(BudgetExhausted):
        budget.refuse_unless_free(Amounts(101), now=NOON, cheapest=True)
    replace(budget, mode=BudgetMode.SOFT).refuse_unless_free(Amounts(101), now=NOON, cheapest=False)
