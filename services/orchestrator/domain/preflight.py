"""Holds an estimate against budgets, and says what becomes of a run that does not fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from services.orchestrator.domain.estimator import Estimate
from services.orchestrator.domain.run_shape import Amount


class PreflightMode(IntEnum):
    """What is done with a run that may not fit its budgets; numbers as in the contract."""

    #: What the mesh does for the tenant.
    UNSPECIFIED = 0
    #: Nothing is estimated.
    OFF = 1
    #: It is told, and the run starts.
    WARN = 2
    #: The run does not start when it is more likely than not to exceed one.
    REJECT = 3
    #: The run starts with a cheaper model with which it fits; where there is none it does not start.
    DEGRADE = 4


class Verdict(IntEnum):
    """How an estimate stands to a budget; numbers as in the contract."""

    #: Even the high bound fits.
    FITS = 1
    #: The median fits, the high bound does not.
    WARNS = 2
    #: The median fits, but goes beyond where the budget asks for cheaper models.
    DEGRADES = 3
    #: The median does not fit.
    EXCEEDS = 4
    #: Nobody can say: something has no known price, or cost does not answer.
    UNKNOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLevel:
    """What a budget still lets be spent."""

    #: `run`, `tenant` or `project:<name>`.
    name: str
    #: Nano-USD.
    left: int
    #: What may be spent before the budget asks for cheaper models; None where it never does.
    left_before_degrading: int | None = None
    #: False for one that warns, and lets everything through.
    refuses: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """An estimate held against budgets."""

    estimate: Estimate
    #: By budget.
    verdicts: Sequence[tuple[BudgetLevel, Verdict]]
    #: False when cost does not answer: only the run's own budget is among them.
    budgets_known: bool = True
    #: False when cost or inference do not answer: what is not priced may have a price.
    prices_known: bool = True

    @property
    def worst(self) -> tuple[BudgetLevel, Verdict]:
        """The budget that it fits least; of several such the first."""
        return max(self.verdicts, key=lambda one: _badness(one[1]))

    @property
    def verdict(self) -> Verdict:
        """The worst of the verdicts. What exceeds a budget that is known exceeds, whatever is not known."""
        worst = self.worst[1]
        return worst if self.budgets_known or worst is Verdict.EXCEEDS else Verdict.UNKNOWN


def assess(
    estimate: Estimate, levels: Sequence[BudgetLevel], *, budgets_known: bool = True, prices_known: bool = True
) -> Assessment:
    """Holds an estimate against budgets.

    Args:
        levels: the run's own first; at least one.
    """
    return Assessment(
        estimate=estimate,
        verdicts=[(level, verdict_of(estimate, level)) for level in levels],
        budgets_known=budgets_known,
        prices_known=prices_known,
    )


def verdict_of(estimate: Estimate, level: BudgetLevel) -> Verdict:
    """Holds it against one."""
    money = estimate.of(Amount.COST)
    if money.median > level.left and level.refuses:
        return Verdict.EXCEEDS
    if estimate.unpriced:
        # What is counted is a part of what it takes: less than fits says nothing.
        return Verdict.UNKNOWN
    if money.median > level.left:
        return Verdict.WARNS
    if level.left_before_degrading is not None and money.median > level.left_before_degrading:
        return Verdict.DEGRADES
    return Verdict.WARNS if money.high > level.left else Verdict.FITS


def _badness(verdict: Verdict) -> tuple[bool, int]:
    return verdict is Verdict.EXCEEDS, verdict
