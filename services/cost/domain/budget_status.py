"""How full a budget is, and where it is heading."""

from datetime import datetime, timedelta
from enum import IntEnum

from services.cost.domain.budget import Budget
from services.meshkit.core.money import NanoUsd

#: Part of a period that must have passed before it is projected to its end.
_ENOUGH = 100


class BudgetLevel(IntEnum):
    """How full a budget is."""

    OK = 1
    #: What is spent has reached `warn_at`.
    WARNED = 2
    #: Only the cheapest models pass.
    DEGRADED = 3
    #: A limit is used up.
    EXHAUSTED = 4
    #: Beyond a limit: nothing new is held.
    OVERRUN = 5


def level_of(budget: Budget, now: datetime) -> BudgetLevel:
    """Tells how full a budget is. Give it as it is now."""
    if budget.overran:
        return BudgetLevel.OVERRUN
    if budget.reached(100, also_held=False):
        return BudgetLevel.EXHAUSTED
    if budget.degrades(now):
        return BudgetLevel.DEGRADED
    return BudgetLevel.WARNED if budget.due_warning() else BudgetLevel.OK


def projected(budget: Budget, now: datetime) -> NanoUsd | None:
    """Gives what is spent at the end of the period if it goes on as since its begin.

    Returns: None without a period, and while too little of it has passed to tell.
    """
    if budget.turn is None:
        return None
    began = max(budget.began, min(budget.created, now))
    whole, passed = budget.turn - budget.began, now - began
    if passed * _ENOUGH < whole:
        return None
    instant = timedelta(microseconds=1)
    rest = max(timedelta(), budget.turn - now)
    return NanoUsd(budget.spent + budget.spent * (rest // instant) // (passed // instant))
