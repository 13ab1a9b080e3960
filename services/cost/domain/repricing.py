"""Prices charges of the past anew: as the price table has it now for the moment at which each call was held."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from services.cost.domain.amounts import MAX_CHARGE, NONE, Amounts
from services.cost.domain.budget import Budget, BudgetId
from services.cost.domain.budget_alert import BudgetAlert, alerts_of
from services.cost.domain.cost_event import CostEvent, repriced_entries
from services.cost.domain.errors import PriceUnknown
from services.cost.domain.hold import CHARGED_STATES, Hold
from services.cost.domain.price_book import PriceBook
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class RepricedModel:
    """What becomes of the charges of one model."""

    provider: str
    model: str
    events: int
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repricing:
    """Charges that change together."""

    tenant: TenantId
    #: Holds as they were and as they become, in id order.
    steps: tuple[tuple[Hold, Hold], ...]


@dataclass(frozen=True, slots=True)
class Repriced:
    """What becomes of charges in sum, per model, the greatest difference first."""

    models: tuple[RepricedModel, ...] = ()

    @property
    def events(self) -> int:
        """How many charges change."""
        return sum(model.events for model in self.models)

    @property
    def before(self) -> int:
        """What they came to."""
        return sum(model.before for model in self.models)

    @property
    def after(self) -> int:
        """What they come to now."""
        return sum(model.after for model in self.models)

    def with_(self, more: Repricing) -> "Repriced":
        """Adds charges that change."""
        found = {(one.provider, one.model): [one.events, one.before, one.after] for one in self.models}
        for before, after in more.steps:
            sums = found.setdefault((before.purpose.provider, before.purpose.model), [0, 0, 0])
            sums[0] += 1
            sums[1] += before.charged
            sums[2] += after.charged
        models = [
            RepricedModel(provider=provider, model=model, events=events, before=before, after=after)
            for (provider, model), (events, before, after) in found.items()
        ]
        return Repriced(tuple(sorted(models, key=lambda one: (-abs(one.after - one.before), one.provider, one.model))))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepricedBooks:
    """What a re-pricing writes."""

    budgets: tuple[Budget, ...]
    entries: tuple[CostEvent, ...]
    alerts: tuple[BudgetAlert, ...]


def repricing(tenant: TenantId, holds: Iterable[Hold], book: PriceBook) -> Repricing:
    """Prices charges by the table. One whose price is unknown now, or is the same, stays as it is."""
    steps = ((hold, after) for hold in sorted(holds, key=lambda one: one.id) if (after := _repriced(hold, book)))
    return Repricing(tenant=tenant, steps=tuple(steps))


def booked(
    repricing: Repricing, budgets: Sequence[Budget], *, note: str, now: datetime, new_id: Callable[[], UUID]
) -> RepricedBooks:
    """Books a re-pricing: two entries for each charge, and the difference in every budget that paid for it.

    Args:
        budgets: all that paid, locked.
    Raises: Invalid: a sum does not fit.
    """
    before: dict[BudgetId, Budget] = {budget.id: budget for budget in budgets}
    moved = {name: budget.at(now) for name, budget in before.items()}
    entries: list[CostEvent] = []
    for old, new in repricing.steps:
        difference = Amounts(new.charged - old.charged)
        for name in old.budgets:
            moved[name] = moved[name].corrected(NONE, difference, charged=old.charged_since)
        entries += repriced_entries(old, new, note=note, now=now, new_id=new_id)
    changed = [budget for name, budget in sorted(moved.items()) if budget != before[name]]
    alerts = [
        alert for budget in changed for alert in alerts_of(before[budget.id], budget, run_id="", now=now, new_id=new_id)
    ]
    return RepricedBooks(
        budgets=tuple(replace(budget, revision=budget.revision + 1) for budget in changed),
        entries=tuple(entries),
        alerts=tuple(alerts),
    )


def _repriced(hold: Hold, book: PriceBook) -> Hold | None:
    if hold.state not in CHARGED_STATES or (hold.price is None and hold.ceiling is None):
        return None
    try:
        price = book.find(hold.purpose.provider, hold.purpose.model, at=hold.created)
    except PriceUnknown:
        return None
    if price.digest == hold.price:
        return None
    # An assumed charge is the bound's price, and what comes back of it when its usage becomes known.
    assumed = hold.usage is None
    charge = price.bound(hold.bound) if hold.usage is None else price.charge(hold.usage)
    if charge > MAX_CHARGE:
        raise Invalid("start_time", f"a charge would be more than {MAX_CHARGE} nano-USD")
    amount = charge if assumed else hold.amount
    return replace(hold, price=price.digest, ceiling=None, charged=charge, amount=amount)
