"""The budgets and holds of one transaction: locked, decided in memory in order, written back at once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from services.cost.domain.budget import MAX_CHARGE, Budget, BudgetId, tenant_budget_id
from services.cost.domain.cost_event import CostEvent, entries_of
from services.cost.domain.errors import BudgetExhausted, BudgetNotFound, HoldNotFound, RefusalCause
from services.cost.domain.hold import CostKind, Hold, HoldId
from services.cost.domain.price import Price
from services.meshkit.content import Usage
from services.meshkit.core.errors import Internal, Invalid, RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd

#: Gives the price with this digest.
PriceOf = Callable[[bytes], Price]


class AlertCause(StrEnum):
    """What happened to a budget that people should know."""

    #: A call was refused when nearly all was spent.
    EXHAUSTED = "exhausted"
    #: A settlement or a lowered limit took it beyond its limit.
    OVERRUN = "overrun"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAlert:
    """Something that people should know about a budget."""

    budget: Budget
    cause: AlertCause
    at: datetime


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

    @property
    def empty(self) -> bool:
        """True when there is nothing to write."""
        return not (self.new_holds or self.holds or self.budgets or self.entries)

    @property
    def settled(self) -> bool:
        """True when something is charged or a charge is taken back."""
        return bool(self.entries)

    def cover(self, holds: Iterable[Hold]) -> bool:
        """True when each of these is new or changed, so that writing the changes proves it right."""
        written = {hold.id for hold in (*self.new_holds, *self.holds)}
        return all(hold.id in written for hold in holds)


@dataclass(slots=True)
class _Dirty:
    seen_budgets: dict[BudgetId, Budget] = field(default_factory=dict[BudgetId, Budget])
    seen_holds: dict[HoldId, Hold] = field(default_factory=dict[HoldId, Hold])
    new_holds: dict[HoldId, Hold] = field(default_factory=dict[HoldId, Hold])
    holds: dict[HoldId, Hold] = field(default_factory=dict[HoldId, Hold])
    budgets: set[BudgetId] = field(default_factory=set[BudgetId])
    entries: list[CostEvent] = field(default_factory=list[CostEvent])
    alerts: list[BudgetAlert] = field(default_factory=list[BudgetAlert])


class SpendBook:
    """Decides reserve, dispatch, settle, release and expiry for many calls of several tenants, one after the other.

    The caller holds the row locks of every budget and hold that it puts in, or makes sure before it writes that they
    are still as it put them in. A refused item changes no money.

    Args:
        now: one moment for the whole transaction.
        new_id: makes UUIDv7s for ledger entries.
    """

    def __init__(
        self, budgets: Iterable[Budget], holds: Iterable[Hold], *, now: datetime, new_id: Callable[[], UUID]
    ) -> None:
        self._budgets = {budget.id: budget for budget in budgets}
        self._holds = {hold.id: hold for hold in holds}
        self._by_request = {(hold.tenant, hold.request_id): hold.id for hold in self._holds.values()}
        self._now = now
        self._new_id = new_id
        self._dirty = _Dirty()

    def pinned_prices(self) -> set[bytes]:
        """Gives the digests of the prices that the holds were made with."""
        return {hold.price for hold in self._holds.values() if hold.price is not None}

    def reserve(self, wanted: Hold) -> Hold:
        """Holds the bound in every budget of the call, or in none. A repeated request gets its first hold.

        Raises: BudgetNotFound, BudgetExhausted, RequestIdReused.
        """
        known = self._by_request.get((wanted.tenant, wanted.request_id))
        if known is not None:
            first = self._holds[known]
            if first.request_digest != wanted.request_digest:
                raise RequestIdReused(str(wanted.request_id))
            return first
        if tenant_budget_id(wanted.tenant) not in wanted.budgets:
            raise Internal("a hold must name the budget of its tenant")
        budgets = [self._budget(wanted.tenant, name) for name in wanted.budgets]
        for budget in budgets:
            self._refuse_unless_held(budget, wanted.amount)
        for budget in budgets:
            self._put(budget.hold(wanted.amount))
        self._holds[wanted.id] = self._dirty.new_holds[wanted.id] = wanted
        self._by_request[wanted.tenant, wanted.request_id] = wanted.id
        return wanted

    def dispatch(self, tenant: TenantId, hold_id: HoldId) -> Hold:
        """Marks that a call is about to leave. Raises: HoldNotFound, HoldNotReserved."""
        before = self._hold(tenant, hold_id)
        return self._become(before, before.dispatch(self._now))

    def settle(self, tenant: TenantId, hold_id: HoldId, usage: Usage, price_of_digest: PriceOf) -> Hold:
        """Charges a call. Raises: HoldNotFound, HoldNotDispatched, SettledDifferently, Invalid (absurd usage)."""
        before = self._hold(tenant, hold_id)
        if before.purpose.kind is CostKind.TOOL or before.price is None:
            charge = before.amount
        else:
            charge = price_of_digest(before.price).charge(usage)
        if charge > MAX_CHARGE:
            raise Invalid("usage", f"prices at more than {MAX_CHARGE} nano-USD")
        return self._become(before, before.settle(usage, charge))

    def release(self, tenant: TenantId, hold_id: HoldId, *, dispatched_unbilled: bool) -> Hold:
        """Frees a hold. Raises: HoldNotFound, HoldAlreadySettled, HoldAlreadyDispatched."""
        before = self._hold(tenant, hold_id)
        return self._become(before, before.release(dispatched_unbilled=dispatched_unbilled))

    def expire_due(self) -> list[Hold]:
        """Ends every hold in the book that is past its time; gives those it ended."""
        ended: list[Hold] = []
        for before in list(self._holds.values()):
            after = before.expire(self._now)
            if after is not before:
                ended.append(self._become(before, after))
        return ended

    def set_limit(self, tenant: TenantId, budget_id: BudgetId, limit: NanoUsd) -> Budget:
        """Changes a limit. Raises: BudgetNotFound."""
        before = self._budget(tenant, budget_id)
        return self._put(before.limited(limit))

    def changes(self) -> Changes:
        """Gives what is to be written; call it once, at the end."""
        dirty = self._dirty
        return Changes(
            seen_budgets=tuple(dirty.seen_budgets[budget] for budget in sorted(dirty.seen_budgets)),
            seen_holds=tuple(dirty.seen_holds[hold] for hold in sorted(dirty.seen_holds)),
            new_holds=tuple(dirty.new_holds.values()),
            holds=tuple(dirty.holds.values()),
            budgets=tuple(self._budgets[budget] for budget in sorted(dirty.budgets)),
            entries=tuple(dirty.entries),
            alerts=tuple(dirty.alerts),
        )

    def _become(self, before: Hold, after: Hold) -> Hold:
        """Books the step from one state of a hold to the next in all its budgets and in the ledger."""
        if after is before:
            return before
        held, spent = after.held - before.held, after.charged - before.charged
        if held or spent:
            moved = [self._budget(after.tenant, name).moved(held=held, spent=spent) for name in after.budgets]
            for budget in moved:
                self._put(budget)
        self._dirty.entries += entries_of(before, after, now=self._now, new_id=self._new_id)
        if before.id not in self._dirty.new_holds:
            self._dirty.seen_holds.setdefault(before.id, before)
        self._holds[after.id] = after
        fresh = self._dirty.new_holds if after.id in self._dirty.new_holds else self._dirty.holds
        fresh[after.id] = after
        return after

    def _put(self, budget: Budget) -> Budget:
        before = self._budgets[budget.id]
        self._budgets[budget.id] = budget
        if budget != before:
            self._dirty.budgets.add(budget.id)
        if budget.overrun > 0 and before.overrun == 0:
            self._dirty.alerts.append(BudgetAlert(budget=budget, cause=AlertCause.OVERRUN, at=self._now))
        return budget

    def _refuse_unless_held(self, budget: Budget, amount: NanoUsd) -> None:
        cause = budget.refusal(amount)
        if cause is None:
            return
        if cause is RefusalCause.SPENT and budget.nearly_spent and not budget.exhausted:
            budget = self._put(budget.used_up())
            self._dirty.alerts.append(BudgetAlert(budget=budget, cause=AlertCause.EXHAUSTED, at=self._now))
        raise BudgetExhausted(budget.id, asked=amount, left=budget.left, cause=cause)

    def _budget(self, tenant: TenantId, budget_id: BudgetId) -> Budget:
        # A frame may hold rows of several tenants, so the tenant is checked here, item by item.
        budget = self._budgets.get(budget_id)
        if budget is None or budget.tenant != tenant:
            raise BudgetNotFound(budget_id)
        self._dirty.seen_budgets.setdefault(budget_id, budget)
        return budget

    def _hold(self, tenant: TenantId, hold_id: HoldId) -> Hold:
        hold = self._holds.get(hold_id)
        if hold is None or hold.tenant != tenant:
            raise HoldNotFound(hold_id)
        return hold
