"""Budgets: limits, what is spent, what is held, and what went beyond."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, NewType
from uuid import UUID

from services.cost.domain.amounts import MAX_LIMIT, NONE, UNLIMITED, Amounts, Gauge, Measure
from services.cost.domain.errors import BudgetDegrades, BudgetExhausted, RefusalCause
from services.cost.domain.period import Period, end_of, since_when, start_of
from services.cost.domain.terms import WARN_AT, BudgetMode, Rules, Terms
from services.meshkit.core.changing import changing
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd

BudgetId = NewType("BudgetId", UUID)

NOTHING: Final = NanoUsd(0)
_NEARLY_SPENT_PERCENT: Final = 90
_INSTANT: Final = timedelta(microseconds=1)


class BudgetScope(IntEnum):
    """What a budget limits."""

    #: Everything the tenant spends.
    TENANT = 1
    #: What one run spends.
    RUN = 2
    #: What all runs of a project spend.
    PROJECT = 3
    #: What one step of a run spends, and all steps below it in that run.
    STEP = 4
    #: What an agent spends, in whatever run.
    AGENT = 5


def full_name(scope: BudgetScope, name: str) -> str:
    """Names a budget as people do: `tenant`, `project:atlas`, `agent:Athena`, `run:run_…` or `step:run_…/rounds/2`."""
    return "tenant" if scope is BudgetScope.TENANT else f"{scope.name.lower()}:{name}"


def tenant_budget_id(tenant: TenantId) -> BudgetId:
    """Names the tenant's own budget: it has the tenant's UUID, so that nobody needs to look it up."""
    return BudgetId(tenant)


class Warned(IntEnum):
    """What was told about a budget in its period."""

    NOTHING = 0
    #: That it reached `warn_at`.
    NEAR = 1
    #: That it reached the limit; told of soft ones.
    FULL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A node of a tenant's budget tree. Always `spent + held <= limit + overrun`, unless it is soft; all >= 0."""

    id: BudgetId
    tenant: TenantId
    scope: BudgetScope
    #: The run, for scope RUN.
    run_id: str | None
    #: Name of a node that stands beside calls; empty for others.
    name: str = ""
    #: The project of the run, empty for one of none; None: not of a run, or whoever made it did not say.
    project: str | None = None
    #: Limit on money, nano-USD.
    limit: NanoUsd
    #: Settled and assumed so far in its period.
    spent: NanoUsd = NOTHING
    #: Held by calls that are not settled yet.
    held: NanoUsd = NOTHING
    #: What settlements or a lowered limit took beyond the limit. A hold never raises it.
    overrun: NanoUsd = NOTHING
    tokens: Gauge = UNLIMITED
    calls: Gauge = UNLIMITED
    wall: Gauge = UNLIMITED
    mode: BudgetMode = BudgetMode.HARD
    #: Percent of a limit from which it warns; 0: it does not.
    warn_at: int = WARN_AT
    period: Period = Period.NONE
    #: Time zone of the period.
    zone: str = "UTC"
    #: When the period ends that is counted; None: it has none.
    turn: datetime | None = None
    #: From when on charges are in `spent`: what comes back of an older one was never in it. None: nothing comes back.
    counted_from: datetime | None = None
    #: What the operator lets the tenant spend, in the tenant's own budget; 0: no quota. The limit is never above.
    quota: NanoUsd = NOTHING
    #: The limit that the tenant set for itself, in the tenant's own budget; None: it never did.
    own_limit: NanoUsd | None = None
    #: What the tenant set while a quota suspends it; None: it is as it is set.
    own_rules: Rules | None = None
    #: True from the first call that was refused when nearly all was spent, until the limit changes or money comes back.
    exhausted: bool = False
    warned: Warned = Warned.NOTHING
    #: Until then only the cheapest models pass, whatever is left.
    degraded_until: datetime | None = None
    #: True once it was taken out of the tree; it stays for what it paid.
    removed: bool = False
    #: Version of the tenant's tree, in the tenant's own budget: grows with each node that is made or removed.
    tree: int = 0
    #: Grows with each change that is written.
    revision: int = 0
    created: datetime

    @property
    def full_name(self) -> str:
        """Its name as people give it, such as `project:atlas`."""
        return full_name(self.scope, self.run_id or self.name)

    @property
    def money(self) -> Gauge:
        """The gauge of its money."""
        return Gauge(self.limit, self.spent, self.held, self.overrun)

    @property
    def gauges(self) -> Iterator[tuple[Measure, Gauge]]:
        """Gives each measure with its gauge, money first."""
        yield Measure.MONEY, self.money
        yield Measure.TOKENS, self.tokens
        yield Measure.CALLS, self.calls
        yield Measure.WALL_TIME, self.wall

    @property
    def left(self) -> NanoUsd:
        """Money that can still be held, >= 0."""
        return NanoUsd(max(0, self.limit - self.spent - self.held))

    @property
    def hard(self) -> bool:
        """True when its limits are never exceeded by a hold."""
        return self.mode is not BudgetMode.SOFT

    @property
    def overran(self) -> bool:
        """True while one of its limits is exceeded: nothing new is held then."""
        return bool(self.overrun or self.tokens.overrun or self.calls.overrun or self.wall.overrun)

    def at(self, now: datetime) -> "Budget":
        """Gives it as it is at a moment: when its period has turned, nothing is spent yet, and what is held goes over.

        A clock that jumps back opens no old period again. One that is further back than a period shows that a clock
        that was ahead has turned it: what is spent stays, and the period ends when that of now does.
        """
        if self.period is Period.NONE:
            return self
        if self.turn is None:
            return replace(self, turn=end_of(self.period, self.zone, now))
        if now >= self.turn:
            began = start_of(self.period, self.zone, now)
            return replace(self._counting(NONE), turn=end_of(self.period, self.zone, now), counted_from=began)
        if now < since_when(self.period, self.zone, self.turn):
            return replace(self, turn=end_of(self.period, self.zone, now), counted_from=now)
        return self

    def hold(self, amounts: Amounts) -> "Budget":
        """Sets aside what a call may take; ask `refuse_unless_free` first."""
        return self.moved(amounts, NONE)

    def refuse_unless_free(self, amounts: Amounts, *, now: datetime, cheapest: bool, waits: bool = False) -> None:
        """Lets pass what can be held.

        What is spent is told at once. Where calls in progress alone are in the way, also of a dearer model below the
        level from which only the cheapest pass, the cause is HELD; who does not wait is sent to the cheapest instead.

        Args:
            waits: True when the caller waits for what is only held.
        Raises: BudgetExhausted: `spent + held + amount` would be above a limit, or the budget is overrun.
            BudgetDegrades: only the cheapest may pass now, and this is not it.
        """
        if self.mode is BudgetMode.SOFT:
            return
        dear = not cheapest and not self._used_up
        if dear and self.degrades(now):
            raise BudgetDegrades(self.id, name=self.full_name)
        level = self._level_held() if dear else None
        if level is not None and not waits:
            raise BudgetDegrades(self.id, name=self.full_name)
        refusal = self.refusal(amounts)
        if refusal is not None:
            raise self._exhausted(amounts, *refusal)
        if level is not None:
            why = "calls in progress hold so much that a dearer model waits for them"
            raise self._exhausted(amounts, level, RefusalCause.HELD, why)

    @property
    def _used_up(self) -> bool:
        return any(gauge.limit is not None and gauge.spent >= gauge.limit for _, gauge in self.gauges)

    def _level_held(self) -> Measure | None:
        """Tells which limit calls in progress keep above the level from which only the cheapest pass."""
        if self.mode is not BudgetMode.DEGRADE:
            return None
        reached = (measure for measure, gauge in self.gauges if gauge.reached(self.warn_at, also_held=True))
        return next(reached, None)

    def takes(self, amounts: Amounts) -> bool:
        """True when a call uses some of what is limited: only such a one can stand in another's way."""
        return self.hard and any(
            amount > 0 and gauge.limit is not None for (_, gauge), amount in zip(self.gauges, amounts, strict=True)
        )

    def behind_others(self, amounts: Amounts) -> BudgetExhausted:
        """Refuses a call before which others wait for this budget, whatever is left."""
        return self._exhausted(amounts, Measure.MONEY, RefusalCause.HELD, "calls that came before wait for it")

    def _exhausted(self, amounts: Amounts, measure: Measure, cause: RefusalCause, why: str = "") -> BudgetExhausted:
        asked = amounts[list(Measure).index(measure)]
        left = dict(self.gauges)[measure].left
        return BudgetExhausted(
            self.id,
            name=self.full_name,
            asked=asked,
            left=left,
            cause=cause,
            unit=measure.value,
            why=why,
        )

    def refusal(self, amounts: Amounts) -> tuple[Measure, RefusalCause] | None:
        """Tells which limit does not let `amounts` be held, and why; None if they can be. Soft ones let all pass.

        A limit that stays in the way speaks before one whose room is only held.
        """
        if self.mode is BudgetMode.SOFT:
            return None
        held: tuple[Measure, RefusalCause] | None = None
        # Nearly every budget limits money alone, and every call comes by here.
        if self.overrun > 0 or self.spent + self.held + amounts.money > self.limit:
            cause = self.money.refusal(amounts.money)
            if cause is RefusalCause.HELD:
                held = Measure.MONEY, cause
            elif cause is not None:
                return Measure.MONEY, cause
        if self.tokens.limit is self.calls.limit is self.wall.limit is None:
            return held
        for measure, gauge, amount in (
            (Measure.TOKENS, self.tokens, amounts.tokens),
            (Measure.CALLS, self.calls, amounts.calls),
            (Measure.WALL_TIME, self.wall, amounts.wall_ms),
        ):
            if gauge.limit is not None:
                cause = gauge.refusal(amount)
                if cause is RefusalCause.HELD:
                    held = held or (measure, cause)
                elif cause is not None:
                    return measure, cause
        return held

    def degrades(self, now: datetime) -> bool:
        """True while only the cheapest models may pass, whatever becomes of calls in progress."""
        if self.mode is BudgetMode.SOFT:
            return False
        if self.degraded_until is not None and now < self.degraded_until:
            return True
        return self.mode is BudgetMode.DEGRADE and self.reached(self.warn_at, also_held=False)

    def moved(self, held: Amounts, spent: Amounts) -> "Budget":
        """Books what became of holds: both are differences, and overrun and warning follow.

        Raises: Invalid: a charge so large that the sum does not fit.
        """
        hard = self.hard
        money = self.money.moved(held.money, spent.money, hard=hard)
        moved = _changed(
            self,
            held=NanoUsd(money.held),
            spent=NanoUsd(money.spent),
            overrun=NanoUsd(money.overrun),
            tokens=self.tokens.moved(held.tokens, spent.tokens, hard=hard),
            calls=self.calls.moved(held.calls, spent.calls, hard=hard),
            wall=self.wall.moved(held.wall_ms, spent.wall_ms, hard=hard),
            exhausted=self.exhausted and money.spent >= self.spent,
        )
        if self.warn_at == 0:
            return moved
        warned = moved.due_warning()
        return moved if warned <= self.warned else replace(moved, warned=warned)

    def corrected(self, held: Amounts, spent: Amounts, *, charged: datetime | None) -> "Budget":
        """Books a correction of a charge: what comes back of a charge that is not in `spent` does not go into it.

        Args:
            charged: when the charge was made; None: there was none, so this is the first.
        """
        if charged is None:
            return self.moved(held, spent)
        if not self._counts(charged):
            return self.moved(held, spent.risen())
        gauges = (gauge for _, gauge in self.gauges)
        return self.moved(held, Amounts(*(gauge.bounded(part) for gauge, part in zip(gauges, spent, strict=True))))

    def _counts(self, charged: datetime) -> bool:
        if self.counted_from is None or charged < self.counted_from:
            return False
        # What a clock that was ahead has charged is of a time to come.
        return self.turn is None or charged < self.turn

    @property
    def began(self) -> datetime:
        """When the period that is counted began; when it was made, if it has none."""
        return self.created if self.turn is None else start_of(self.period, self.zone, self.turn - _INSTANT)

    def limited(self, limit: NanoUsd) -> "Budget":
        """Changes the limit of money. One below what is spent and held is accepted and shown as overrun."""
        money = self.money.limited(limit, hard=self.hard)
        own_limit = limit if self.scope is BudgetScope.TENANT else None
        return replace(
            self,
            limit=limit,
            own_limit=own_limit,
            overrun=NanoUsd(money.overrun),
            exhausted=False,
            warned=Warned.NOTHING,
        )

    def defined(
        self, terms: Terms, *, now: datetime, charged: Amounts | None = None, limit_set: bool = True
    ) -> "Budget":
        """Changes what people decide about it; a quota suspends what it does not allow. What is held stays.

        What is spent stays too, unless another period is counted from now on: then it is `charged`. Where that is too
        much to count, a quota counts on from what was counted.

        Args:
            charged: what was charged to it since the time that `recounts` gives; None: too much to count.
            limit_set: False when people said nothing of the limit.
        Raises: Invalid: `charged` is needed to know what is spent.
        """
        effective = terms.under(self.quota)
        set_now = self.scope is BudgetScope.TENANT and (limit_set or self.own_limit is not None)
        counted = self._turned(effective.rules, now=now, charged=charged)
        hard = effective.mode is not BudgetMode.SOFT
        money = counted.money.limited(effective.limit, hard=hard)
        return replace(
            counted,
            limit=effective.limit,
            overrun=NanoUsd(money.overrun),
            tokens=counted.tokens.limited(terms.tokens, hard=hard),
            calls=counted.calls.limited(terms.calls, hard=hard),
            wall=counted.wall.limited(terms.wall_ms, hard=hard),
            mode=effective.mode,
            warn_at=terms.warn_at,
            own_limit=terms.limit if set_now else None,
            own_rules=None if terms.rules == effective.rules else terms.rules,
            exhausted=False,
            warned=Warned.NOTHING,
        )

    def recounts(self, rules: Rules, now: datetime) -> datetime | None:
        """Tells since when charges have to be counted anew for other rules; None: what is spent stays.

        Without a period all counts since it was made. In another zone the period that runs keeps what is spent in it.
        """
        if (rules.period, rules.zone) == (self.period, self.zone):
            return None
        if rules.period is Period.NONE:
            return self.created
        start = start_of(rules.period, rules.zone, now)
        return min(start, self.began, self.counted_from or start) if rules.period is self.period else start

    def under_quota(self, quota: NanoUsd, *, default: NanoUsd) -> Terms:
        """Gives the terms that hold under a quota, before it suspends any: the tenant's own ones.

        Args:
            default: the limit without a quota, if the tenant never set one.
        """
        if self.own_limit is not None:
            return self.terms
        return replace(self.terms, limit=quota or default)

    def limited_to(
        self, quota: NanoUsd, *, default: NanoUsd, now: datetime, charged: Amounts | None = None
    ) -> "Budget":
        """Follows the operator's quota; 0 is none. What the tenant itself has set comes back with it.

        Raises: Invalid: as in `defined`.
        """
        wanted = self.under_quota(quota, default=default)
        effective = wanted.under(quota)
        if quota == self.quota and (effective.limit, *effective.rules) == (self.limit, *self.rules):
            return self
        return replace(self, quota=quota).defined(wanted, now=now, charged=charged, limit_set=False)

    @property
    def rules(self) -> Rules:
        """The rules that hold."""
        return Rules(self.mode, self.period, self.zone)

    @property
    def terms(self) -> Terms:
        """What people decided about it, also what a quota suspends."""
        mode, period, zone = self.own_rules or self.rules
        return Terms(
            limit=self.limit if self.own_limit is None else self.own_limit,
            tokens=self.tokens.limit,
            calls=self.calls.limit,
            wall_ms=self.wall.limit,
            mode=mode,
            warn_at=self.warn_at,
            period=period,
            zone=zone,
        )

    def nearly_spent(self, measure: Measure) -> bool:
        """True when so much is spent that a refusal means "used up", not "this call asks for too much"."""
        return dict(self.gauges)[measure].reached(_NEARLY_SPENT_PERCENT, also_held=False)

    def used_up(self) -> "Budget":
        """Marks that a call was refused when nearly all was spent."""
        return replace(self, exhausted=True)

    def reached(self, percent: int, *, also_held: bool) -> bool:
        """True when so much of one of its limits is used."""
        return any(gauge.reached(percent, also_held=also_held) for _, gauge in self.gauges)

    def due_warning(self) -> Warned:
        """Tells what people should have been told by now."""
        if self.warn_at == 0 or not self.reached(self.warn_at, also_held=False):
            return Warned.NOTHING
        return Warned.FULL if not self.hard and self.reached(100, also_held=False) else Warned.NEAR

    def _turned(self, rules: Rules, *, now: datetime, charged: Amounts | None) -> "Budget":
        """Begins to count by other rules."""
        since = self.recounts(rules, now)
        if since is None:
            return self
        endless = rules.period is Period.NONE
        turn = None if endless else end_of(rules.period, rules.zone, now)
        changed = replace(self, period=rules.period, zone=rules.zone, turn=turn)
        if charged is not None:
            return replace(changed._counting(charged), counted_from=since)
        if self.counted_from is not None and since >= self.counted_from:
            # All of the new period is in what was counted, and what else is in it leaves when the period turns.
            return changed
        if not endless:
            raise Invalid(
                "period", "began too many charges ago to count them all; take a shorter one, or wait for the next"
            )
        if self.quota:
            # The operator's word holds, whatever can be counted.
            return changed
        raise Invalid("period", "has too many charges before it to count them all; take another one instead of none")

    def _counting(self, spent: Amounts) -> "Budget":
        hard = self.hard
        money = self.money.counted(spent.money, hard=hard)
        return replace(
            self,
            spent=NanoUsd(money.spent),
            overrun=NanoUsd(money.overrun),
            tokens=self.tokens.counted(spent.tokens, hard=hard),
            calls=self.calls.counted(spent.calls, hard=hard),
            wall=self.wall.counted(spent.wall_ms, hard=hard),
            exhausted=False,
            warned=Warned.NOTHING,
        )


_changed: Final = changing(Budget)


def checked_limit(limit: int, *, least: int, field: str = "limit_nano_usd", unit: str = "nano-USD") -> NanoUsd:
    """Accepts a limit.

    Raises: Invalid (naming `field`): it is below `least` or above `MAX_LIMIT`.
    """
    if not least <= limit <= MAX_LIMIT:
        raise Invalid(field, f"must be {least} to {MAX_LIMIT} {unit}")
    return NanoUsd(limit)
