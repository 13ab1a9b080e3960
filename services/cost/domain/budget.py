"""Budgets: limits, what is spent, what is held, and what went beyond."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, NewType
from uuid import UUID

from services.cost.domain.amounts import MAX_LIMIT, NONE, UNLIMITED, Amounts, Gauge, Measure
from services.cost.domain.errors import BudgetDegrades, BudgetExhausted, RefusalCause
from services.cost.domain.period import Period, end_of, start_of
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


class BudgetMode(IntEnum):
    """What a budget does when it is used up."""

    #: Refuses.
    HARD = 1
    #: Warns, and never refuses.
    SOFT = 2
    #: Lets only the cheapest models through from `warn_at` on, and refuses at the limit.
    DEGRADE = 3


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
    warn_at: int = 0
    period: Period = Period.NONE
    #: Time zone of the period.
    zone: str = "UTC"
    #: When the period ends that is counted; None: it has none.
    turn: datetime | None = None
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

        A clock that jumps back opens no old period again.
        """
        if self.period is Period.NONE or (self.turn is not None and now < self.turn):
            return self
        turned = self if self.turn is None else self._emptied()
        return replace(turned, turn=end_of(self.period, self.zone, now))

    def hold(self, amounts: Amounts) -> "Budget":
        """Sets aside what a call may take; ask `refuse_unless_free` first."""
        return self.moved(amounts, NONE)

    def refuse_unless_free(self, amounts: Amounts, *, now: datetime, cheapest: bool) -> None:
        """Lets pass what can be held.

        Raises: BudgetExhausted: `spent + held + amount` would be above a limit, or the budget is overrun.
            BudgetDegrades: only the cheapest may pass now, and this is not it.
        """
        if self.mode is BudgetMode.SOFT:
            return
        if not cheapest and self.degrades(now) and not self.overran and all(gauge.left for _, gauge in self.gauges):
            raise BudgetDegrades(self.id, name=self.full_name)
        refusal = self.refusal(amounts)
        if refusal is not None:
            raise self._exhausted(amounts, *refusal)

    def takes(self, amounts: Amounts) -> bool:
        """True when a call uses some of what is limited: only such a one can stand in another's way."""
        return self.hard and any(
            amount > 0 and gauge.limit is not None for (_, gauge), amount in zip(self.gauges, amounts, strict=True)
        )

    def behind_others(self, amounts: Amounts) -> BudgetExhausted:
        """Refuses a call before which others wait for this budget, whatever is left."""
        return self._exhausted(amounts, Measure.MONEY, RefusalCause.HELD, in_line=True)

    def _exhausted(
        self, amounts: Amounts, measure: Measure, cause: RefusalCause, *, in_line: bool = False
    ) -> BudgetExhausted:
        asked = amounts[list(Measure).index(measure)]
        left = dict(self.gauges)[measure].left
        return BudgetExhausted(
            self.id,
            name=self.full_name,
            asked=asked,
            left=left,
            cause=cause,
            unit=measure.value,
            in_line=in_line,
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
        """True while only the cheapest models may pass."""
        if self.mode is BudgetMode.SOFT:
            return False
        if self.degraded_until is not None and now < self.degraded_until:
            return True
        return self.mode is BudgetMode.DEGRADE and self.reached(self.warn_at, also_held=True)

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

    def corrected(self, held: Amounts, spent: Amounts, *, charged: datetime) -> "Budget":
        """Books a correction of a charge: what comes back of a period that is over does not go into this one."""
        return self.moved(held, spent.risen() if charged < self.began else spent)

    @property
    def began(self) -> datetime:
        """When the period that is counted began; when it was made, if it has none."""
        return self.created if self.turn is None else start_of(self.period, self.zone, self.turn - _INSTANT)

    def limited(self, limit: NanoUsd) -> "Budget":
        """Changes the limit of money. One below what is spent and held is accepted and shown as overrun."""
        money = self.money.limited(limit, hard=self.hard)
        return replace(self, limit=limit, overrun=NanoUsd(money.overrun), exhausted=False, warned=Warned.NOTHING)

    def defined(self, terms: "Terms", *, now: datetime) -> "Budget":
        """Changes all that people decide about it; what is spent and held stays."""
        hard = terms.mode is not BudgetMode.SOFT
        money = self.money.limited(terms.limit, hard=hard)
        same = (terms.period, terms.zone) == (self.period, self.zone)
        return replace(
            self,
            limit=terms.limit,
            overrun=NanoUsd(money.overrun),
            tokens=self.tokens.limited(terms.tokens, hard=hard),
            calls=self.calls.limited(terms.calls, hard=hard),
            wall=self.wall.limited(terms.wall_ms, hard=hard),
            mode=terms.mode,
            warn_at=terms.warn_at,
            period=terms.period,
            zone=terms.zone,
            turn=self.turn if same else _turn(terms.period, terms.zone, now),
            exhausted=False,
            warned=Warned.NOTHING,
        )

    @property
    def terms(self) -> "Terms":
        """What people decided about it."""
        return Terms(
            limit=self.limit,
            tokens=self.tokens.limit,
            calls=self.calls.limit,
            wall_ms=self.wall.limit,
            mode=self.mode,
            warn_at=self.warn_at,
            period=self.period,
            zone=self.zone,
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

    def _emptied(self) -> "Budget":
        hard = self.hard
        money = self.money.emptied(hard=hard)
        return replace(
            self,
            spent=NOTHING,
            overrun=NanoUsd(money.overrun),
            tokens=self.tokens.emptied(hard=hard),
            calls=self.calls.emptied(hard=hard),
            wall=self.wall.emptied(hard=hard),
            exhausted=False,
            warned=Warned.NOTHING,
        )


_changed: Final = changing(Budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What people decide about a budget."""

    limit: NanoUsd
    tokens: int | None = None
    calls: int | None = None
    wall_ms: int | None = None
    mode: BudgetMode = BudgetMode.HARD
    warn_at: int = 80
    period: Period = Period.NONE
    zone: str = "UTC"


def _turn(period: Period, zone: str, now: datetime) -> datetime | None:
    return None if period is Period.NONE else end_of(period, zone, now)


def checked_limit(limit: int, *, least: int, field: str = "limit_nano_usd", unit: str = "nano-USD") -> NanoUsd:
    """Accepts a limit.

    Raises: Invalid (naming `field`): it is below `least` or above `MAX_LIMIT`.
    """
    if not least <= limit <= MAX_LIMIT:
        raise Invalid(field, f"must be {least} to {MAX_LIMIT} {unit}")
    return NanoUsd(limit)
