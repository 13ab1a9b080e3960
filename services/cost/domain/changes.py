"""What a transaction changes: the rows that it was decided on, and those that it writes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from services.cost.domain.budget import Budget, BudgetId
from services.cost.domain.budget_alert import BudgetAlert
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.hold import Hold, HoldId


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a transaction has to write, and which rows that was decided on."""

    #: Budgets that were asked or changed and holds that were changed, as they were before, each in id order.
    #: Who decided without locks may write only if they are still so.
    seen_budgets: tuple[Budget, ...]
    seen_holds: tuple[Hold, ...]
    new_holds: tuple[Hold, ...]
    holds: tuple[Hold, ...]
    budgets: tuple[Budget, ...]
    entries: tuple[CostEvent, ...]
    alerts: tuple[BudgetAlert, ...]
    #: Budgets that are new, or of which people changed more than the limit of money: written as a whole.
    defined: tuple[Budget, ...] = ()

    @property
    def empty(self) -> bool:
        """True when there is nothing to write."""
        return not (self.new_holds or self.holds or self.budgets or self.entries or self.defined)

    @property
    def settled(self) -> bool:
        """True when something is charged or a charge is taken back."""
        return bool(self.entries)

    def cover(self, holds: Iterable[Hold]) -> bool:
        """True when each of these is new or changed, so that writing the changes proves it right."""
        written = {hold.id for hold in (*self.new_holds, *self.holds)}
        return all(hold.id in written for hold in holds)


@dataclass(slots=True)
class ChangesDraft:
    """The same while it is being decided: what was seen, and which budgets and holds are not any more as they were."""

    seen_budgets: dict[BudgetId, Budget] = field(default_factory=dict[BudgetId, Budget])
    seen_holds: dict[HoldId, Hold] = field(default_factory=dict[HoldId, Hold])
    new_holds: dict[HoldId, Hold] = field(default_factory=dict[HoldId, Hold])
    holds: dict[HoldId, Hold] = field(default_factory=dict[HoldId, Hold])
    budgets: set[BudgetId] = field(default_factory=set[BudgetId])
    defined: set[BudgetId] = field(default_factory=set[BudgetId])
    entries: list[CostEvent] = field(default_factory=list[CostEvent])
    alerts: list[BudgetAlert] = field(default_factory=list[BudgetAlert])

    def changes(self, budgets: Mapping[BudgetId, Budget]) -> Changes:
        """Gives what is to be written, of budgets as they are by now."""
        return Changes(
            seen_budgets=tuple(self.seen_budgets[budget] for budget in sorted(self.seen_budgets)),
            seen_holds=tuple(self.seen_holds[hold] for hold in sorted(self.seen_holds)),
            new_holds=tuple(self.new_holds.values()),
            holds=tuple(self.holds.values()),
            budgets=tuple(_revised(budgets[budget]) for budget in sorted(self.budgets - self.defined)),
            entries=tuple(self.entries),
            alerts=tuple(self.alerts),
            defined=tuple(_revised(budgets[budget]) for budget in sorted(self.defined)),
        )


def _revised(budget: Budget) -> Budget:
    return replace(budget, revision=budget.revision + 1)
