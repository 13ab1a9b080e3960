"""The budgets and holds of one transaction: locked, decided in memory in order, written back at once."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from services.cost.domain.amounts import MAX_CHARGE, NONE, Amounts
from services.cost.domain.budget import Budget, BudgetId, BudgetScope, tenant_budget_id
from services.cost.domain.budget_alert import AlertCause, BudgetAlert, BudgetAlertId, alerts_of
from services.cost.domain.changes import Changes, ChangesDraft
from services.cost.domain.cost_event import entries_of
from services.cost.domain.errors import (
    BudgetExhausted,
    BudgetInUse,
    BudgetNotFound,
    BudgetStays,
    HoldNotFound,
    RefusalCause,
)
from services.cost.domain.hold import OPEN_STATES, CostKind, Hold, HoldId
from services.cost.domain.hold_lines import HeldBack, Turns, is_held_back
from services.cost.domain.node import BESIDE, NodeKey, Nodes
from services.cost.domain.period import Period
from services.cost.domain.price import Price
from services.cost.domain.terms import Rules, TermsChange
from services.cost.domain.unknown_price import at_ceiling
from services.meshkit.content import Usage
from services.meshkit.core.errors import Internal, Invalid, MeshError, RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.tenant import QuotaExceeded

#: Gives the price with this digest.
PriceOf = Callable[[bytes], Price]


class Recount(NamedTuple):
    """Charges that have to be counted anew in the ledger."""

    budget: BudgetId
    since: datetime
    #: True for all that a budget without a period ever paid: what the ledger can no longer tell is left out.
    endless: bool


class SpendBook:
    """Decides what becomes of many calls of several tenants, one after the other, and changes of their budgets.

    The caller holds the row locks of every budget and hold that it puts in, or makes sure before it writes that they
    are still as it put them in. A refused item changes no money.

    Args:
        now: one moment for the whole transaction.
        new_id: makes UUIDv7s for ledger entries and alerts.
    """

    def __init__(
        self, budgets: Iterable[Budget], holds: Iterable[Hold], *, now: datetime, new_id: Callable[[], UUID]
    ) -> None:
        self._budgets = {budget.id: budget for budget in budgets}
        self._holds = {hold.id: hold for hold in holds}
        self._nodes = Nodes(self._budgets.values())
        self._by_request = {(hold.tenant, hold.request_id): hold.id for hold in self._holds.values()}
        self._now = now
        self._new_id = new_id
        self._draft = ChangesDraft()

    @property
    def holds(self) -> Collection[Hold]:
        """The holds of the book, as they are by now."""
        return self._holds.values()

    def pinned_prices(self) -> set[bytes]:
        """Gives the digests of the prices that the holds were made with."""
        return {hold.price for hold in self._holds.values() if hold.price is not None}

    def reserve(self, wanted: Hold, *, cheapest: bool = False, waits: bool = False, turns: Turns | None = None) -> Hold:
        """Holds the bound in every budget of the call, or in none. A repeated request gets its first hold.

        The budgets are those that it names and those that stand beside it, if they exist.

        Args:
            cheapest: True when the caller has no cheaper model.
            waits: True when the caller waits for what is only held.
            turns: who waits for money; None: nobody.
        Raises: BudgetNotFound, BudgetExhausted, BudgetDegrades, RequestIdReused, Invalid (a run's budget is of another
            project than the call).
        """
        key = wanted.tenant, wanted.request_id
        known = self._by_request.get(key)
        if known is not None:
            first = self._holds[known]
            if first.request_digest != wanted.request_digest:
                raise RequestIdReused(str(wanted.request_id))
            if turns is not None:
                turns.served(key)
            return self._become(first, first.taken_over(self._now))
        if tenant_budget_id(wanted.tenant) not in wanted.budgets:
            raise Internal("a hold must name the budget of its tenant")
        wanted = self._nodes.with_those_beside(wanted)
        budgets = [self._budget(wanted.tenant, name) for name in wanted.budgets]
        if len(budgets) > 1:
            # The widest one speaks first, so that who asks for more than several of them have is told the same again.
            budgets.sort(key=lambda budget: (budget.scope, budget.name, budget.id))
        amounts = wanted.most
        try:
            _refuse_another_project(budgets, wanted.purpose.context.project)
            self._refuse_unless_all_free(budgets, wanted, cheapest=cheapest, waits=waits, turns=turns)
            # The last of them may refuse what is too much to add up, so none is changed before.
            held = [budget.hold(amounts) for budget in budgets]
        except MeshError as refusal:
            # Who waits no more stands in nobody's way.
            if turns is not None and not is_held_back(refusal):
                turns.served(key)
            raise
        if turns is not None:
            turns.served(key)
        for budget in held:
            self._put(budget, run_id=wanted.run_id)
        self._holds[wanted.id] = self._draft.new_holds[wanted.id] = wanted
        self._by_request[key] = wanted.id
        return wanted

    def dispatch(self, tenant: TenantId, hold_id: HoldId, *, fence: int = 0) -> Hold:
        """Marks that a call is about to leave. Raises: HoldNotFound, HoldNotReserved, HoldFenced."""
        before = self._hold(tenant, hold_id)
        return self._become(before, before.fenced(fence).dispatch(self._now))

    def extend(self, tenant: TenantId, hold_id: HoldId, life: timedelta, *, fence: int = 0) -> Hold:
        """Gives an open hold a longer life, if its budgets have the time.

        Raises: HoldNotFound, HoldNotOpen, HoldFenced, BudgetExhausted.
        """
        before = self._hold(tenant, hold_id)
        after = before.fenced(fence).extend(life, self._now)
        longer = after.holds.less(before.holds)
        if longer.wall_ms:
            for name in after.budgets:
                budget = self._budget(tenant, name, removed_too=True)
                self._refuse_unless_free(budget, longer, cheapest=True, run_id=before.run_id)
        return self._become(before, after)

    def settle(
        self, tenant: TenantId, hold_id: HoldId, usage: Usage | None, price_of_digest: PriceOf, *, fence: int = 0
    ) -> Hold:
        """Charges a call.

        Args:
            usage: what it used; None: not said, as of a call that has a price of its own.
        Raises: HoldNotFound, HoldNotDispatched, HoldFenced, SettledDifferently, Invalid (absurd usage, or none of a
            model: that it used nothing has to be said).
        """
        before = self._hold(tenant, hold_id)
        fenced = before.fenced(fence)
        if usage is None:
            if not before.purpose.kind.flat:
                raise Invalid("usage", "is required for models; give it empty for a call that used nothing")
            usage = Usage()
        if before.ceiling is not None:
            charge = at_ceiling(usage, before.ceiling)
        elif before.purpose.kind is CostKind.TOOL or before.price is None:
            charge = before.amount
        else:
            charge = price_of_digest(before.price).charge(usage)
        if charge > MAX_CHARGE:
            raise Invalid("usage", f"prices at more than {MAX_CHARGE} nano-USD")
        return self._become(before, fenced.settle(usage, charge, self._now))

    def release(self, tenant: TenantId, hold_id: HoldId, *, dispatched_unbilled: bool, fence: int = 0) -> Hold:
        """Frees a hold. Raises: HoldNotFound, HoldAlreadySettled, HoldAlreadyDispatched, HoldFenced."""
        before = self._hold(tenant, hold_id)
        return self._become(before, before.fenced(fence).release(dispatched_unbilled=dispatched_unbilled))

    def abandon(self, made: Hold) -> Hold:
        """Frees a hold whose asker went away before it was told of it, unless a repeat of the request took it over.

        Raises: HoldNotFound.
        """
        before = self._hold(made.tenant, made.id)
        return self._become(before, before.release(dispatched_unbilled=True)) if before.unclaimed(made) else before

    def expire_due(self) -> list[Hold]:
        """Ends every hold in the book that is past its time; gives those it ended."""
        ended: list[Hold] = []
        for before in list(self._holds.values()):
            after = before.expire(self._now)
            if after is not before:
                ended.append(self._become(before, after))
        return ended

    def set_limit(self, tenant: TenantId, budget_id: BudgetId, limit: NanoUsd) -> Budget:
        """Changes a limit. Raises: BudgetNotFound; QuotaExceeded: beyond what the operator lets the tenant spend."""
        before = self._budget(tenant, budget_id)
        _refuse_beyond_quota(before, limit)
        after = before.limited(limit)
        return before if after == before else self._put(after)

    def quota_recounts(self, tenant: TenantId, quota: NanoUsd, *, default: NanoUsd) -> Recount | None:
        """Tells which charges have to be counted for `set_quota`; None: none. Raises: BudgetNotFound."""
        own = self._budget(tenant, tenant_budget_id(tenant))
        return self._recount(own, own.under_quota(quota, default=default).under(quota).rules)

    def set_quota(
        self, tenant: TenantId, quota: NanoUsd, *, default: NanoUsd, charged: Amounts | None = None
    ) -> Budget:
        """Limits the tenant's own budget to what the operator allows; 0 is no quota. Harmless to repeat.

        Args:
            default: the limit without a quota, if the tenant never set one.
            charged: to the budget, since the time that `quota_recounts` gives; None: nobody counted.
        Raises: BudgetNotFound, Invalid (as in `Budget.defined`).
        """
        own = self._budget(tenant, tenant_budget_id(tenant))
        after = own.limited_to(quota, default=default, now=self._now, charged=charged)
        return own if after == own else self._redefine(after)

    def recounts(self, tenant: TenantId, key: NodeKey, change: TermsChange) -> Recount | None:
        """Tells which charges have to be counted for `define`; None: none.

        Raises: BudgetNotFound, Invalid (as in `define`).
        """
        budget = self._node(tenant, key) or self._removed_node(tenant, key)
        if budget is None:
            return None
        terms = change.onto(None if budget.removed else budget.terms)
        return self._recount(budget, terms.under(budget.quota).rules)

    def _recount(self, budget: Budget, rules: Rules) -> Recount | None:
        since = budget.recounts(rules, self._now)
        return None if since is None else Recount(budget.id, since, rules.period is Period.NONE)

    def define(self, tenant: TenantId, key: NodeKey, change: TermsChange, *, charged: Amounts | None = None) -> Budget:
        """Changes what people decide about a node; makes it if there is none. TENANT names the tenant's own.

        One that was removed comes back with what it paid, so that nobody begins at zero by removing it.

        Args:
            charged: to the budget, since the time that `recounts` gives; None: nobody counted.
        Raises: BudgetNotFound: the tenant's own is not in the book. QuotaExceeded: beyond what the operator lets the
            tenant spend. Invalid: the terms do not fit together, or what is spent in their period is not known.
        """
        known = self._node(tenant, key)
        if known is not None:
            limit_set = "limit" in change.named
            if limit_set:
                _refuse_beyond_quota(known, change.to.limit)
            change.refuse_beyond(known.quota)
            terms = change.onto(known.terms)
            return self._redefine(known.defined(terms, now=self._now, charged=charged, limit_set=limit_set))
        own = self._budget(tenant, tenant_budget_id(tenant))
        terms = change.onto(None)
        removed = self._removed_node(tenant, key)
        if removed is None:
            made = self._bare(tenant, key, terms.limit).defined(terms, now=self._now, charged=NONE)
            self._budgets[made.id] = made
        else:
            made = replace(removed, removed=False, degraded_until=None)
            made = made.defined(terms, now=self._now, charged=charged)
        self._nodes.put_up(made)
        self._redefine(made)
        self._put(replace(own, tree=own.tree + 1))
        return made

    def _bare(self, tenant: TenantId, key: NodeKey, limit: NanoUsd) -> Budget:
        return Budget(
            id=BudgetId(self._new_id()),
            tenant=tenant,
            scope=key.scope,
            run_id=None,
            name=key.name,
            limit=limit,
            counted_from=self._now,
            created=self._now,
        )

    def _removed_node(self, tenant: TenantId, key: NodeKey) -> Budget | None:
        known = self._nodes.removed(tenant, key)
        return None if known is None else self._budget(tenant, known, removed_too=True)

    def _node(self, tenant: TenantId, key: NodeKey) -> Budget | None:
        own = key.scope is BudgetScope.TENANT
        known = tenant_budget_id(tenant) if own else self._nodes.standing(tenant, key)
        return None if known is None else self._budget(tenant, known)

    def named(self, tenant: TenantId, key: NodeKey) -> BudgetId | None:
        """Gives the node of this name that the book has, None if it has none."""
        return self._nodes.standing(tenant, key)

    def remove(self, tenant: TenantId, budget_id: BudgetId) -> Budget:
        """Takes a node out of the tree; calls spend from it no more, and what it paid stays.

        Raises: BudgetNotFound, BudgetStays (the tenant's, or a run's), BudgetInUse.
        """
        before = self._budget(tenant, budget_id)
        if before.scope not in BESIDE:
            raise BudgetStays(budget_id, name=before.full_name)
        if any(gauge.held for _, gauge in before.gauges):
            raise BudgetInUse(budget_id, name=before.full_name, held=before.held, calls=before.calls.held)
        own = self._budget(tenant, tenant_budget_id(tenant))
        self._nodes.take_down(before)
        self._put(replace(own, tree=own.tree + 1))
        return self._redefine(replace(before, removed=True))

    def changes(self) -> Changes:
        """Gives what is to be written; call it once, at the end."""
        return self._draft.changes(self._budgets)

    def _become(self, before: Hold, after: Hold) -> Hold:
        """Books the step from one state of a hold to the next in all its budgets and in the ledger."""
        if after is before:
            return before
        held, spent = _moves(before, after)
        if held is not NONE or spent is not NONE:
            moved = [self._moved(before, name, held, spent) for name in after.budgets]
            for budget in moved:
                self._put(budget, run_id=before.run_id)
        self._draft.entries += entries_of(before, after, now=self._now, new_id=self._new_id)
        if before.id not in self._draft.new_holds:
            self._draft.seen_holds.setdefault(before.id, before)
        self._holds[after.id] = after
        fresh = self._draft.new_holds if after.id in self._draft.new_holds else self._draft.holds
        fresh[after.id] = after
        return after

    def _moved(self, before: Hold, budget_id: BudgetId, held: Amounts, spent: Amounts) -> Budget:
        budget = self._budget(before.tenant, budget_id, removed_too=True)
        return budget.corrected(held, spent, charged=before.charged_since)

    def _put(self, budget: Budget, *, run_id: str = "") -> Budget:
        before = self._budgets[budget.id]
        self._budgets[budget.id] = budget
        if budget is not before:
            self._draft.budgets.add(budget.id)
        self._draft.alerts += alerts_of(before, budget, run_id=run_id, now=self._now, new_id=self._new_id)
        return budget

    def _redefine(self, budget: Budget) -> Budget:
        self._draft.defined.add(budget.id)
        return self._put(budget)

    def _refuse_unless_all_free(
        self, budgets: list[Budget], wanted: Hold, *, cheapest: bool, waits: bool, turns: Turns | None
    ) -> None:
        """Lets pass what can be held in all of them. What stays in the way of any speaks before what is only held."""
        amounts, key = wanted.most, (wanted.tenant, wanted.request_id)
        first: BudgetExhausted | None = None
        at: list[BudgetId] = []
        for budget in budgets:
            try:
                self._refuse_unless_free(budget, amounts, cheapest=cheapest, waits=waits, run_id=wanted.run_id)
                if turns is not None and budget.takes(amounts) and turns.someone_before(key, budget.id):
                    raise budget.behind_others(amounts)
            except BudgetExhausted as refusal:
                if refusal.cause is not RefusalCause.HELD:
                    raise
                first = first or refusal
                at.append(budget.id)
        if first is not None:
            first.held_back = HeldBack(at=tuple(at), most=amounts, cheapest=cheapest)
            raise first

    def _refuse_unless_free(
        self, budget: Budget, amounts: Amounts, *, cheapest: bool, run_id: str, waits: bool = False
    ) -> None:
        try:
            budget.refuse_unless_free(amounts, now=self._now, cheapest=cheapest, waits=waits)
        except BudgetExhausted:
            refusal = budget.refusal(amounts)
            if refusal is not None:
                measure, cause = refusal
                if cause is RefusalCause.SPENT and budget.nearly_spent(measure) and not budget.exhausted:
                    told = BudgetAlert(
                        id=BudgetAlertId(self._new_id()),
                        budget=self._put(budget.used_up(), run_id=run_id),
                        cause=AlertCause.EXHAUSTED,
                        measure=measure,
                        at=self._now,
                        run_id=run_id,
                    )
                    self._draft.alerts.append(told)
            raise

    def _budget(self, tenant: TenantId, budget_id: BudgetId, *, removed_too: bool = False) -> Budget:
        # A frame may hold rows of several tenants, so the tenant is checked here, item by item.
        budget = self._budgets.get(budget_id)
        if budget is None or budget.tenant != tenant or (budget.removed and not removed_too):
            raise BudgetNotFound(budget_id)
        if budget_id not in self._draft.seen_budgets and budget_id not in self._draft.defined:
            # It is written only as it was seen; what is decided on is what it has become by now.
            self._draft.seen_budgets[budget_id] = budget
            budget = self._budgets[budget_id] = budget.at(self._now)
        return budget

    def _hold(self, tenant: TenantId, hold_id: HoldId) -> Hold:
        hold = self._holds.get(hold_id)
        if hold is None or hold.tenant != tenant:
            raise HoldNotFound(hold_id)
        return hold


def _refuse_beyond_quota(budget: Budget, limit: NanoUsd) -> None:
    if budget.quota and limit > budget.quota:
        raise QuotaExceeded("max_cost_nano_usd", limit=budget.quota, used=budget.spent + budget.held)


def _refuse_another_project(budgets: Iterable[Budget], project: str) -> None:
    """Has a run spend below one project: what its budget pays, its project's pays too. Raises: Invalid."""
    for budget in budgets:
        if budget.project is not None and budget.project != project:
            whose = repr(budget.project) if budget.project else "empty"
            raise Invalid("context.project", f"must be {whose}, as {budget.full_name} says, whose budget pays")


def _moves(before: Hold, after: Hold) -> tuple[Amounts, Amounts]:
    """Gives how what is held and what was charged change from one state of a hold to the next."""
    if before.state in OPEN_STATES and after.state in OPEN_STATES and before.expires == after.expires:
        return NONE, NONE
    return after.holds.less(before.holds), after.took.less(before.took)
