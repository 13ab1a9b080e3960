"""Budgets: a hard limit, what is spent, what is held, and what went beyond."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import Final, NewType
from uuid import UUID

from services.cost.domain.errors import BudgetExhausted, RefusalCause
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd

BudgetId = NewType("BudgetId", UUID)

NOTHING: Final = NanoUsd(0)

#: Largest limit: 4.6 billion dollars, so that sums of a limit and its overrun stay within 64 bits.
MAX_LIMIT: Final = 2**62
#: Largest charge of one call: a million dollars. What is above is a mistake of the caller.
MAX_CHARGE: Final = 10**15
_NEARLY_SPENT_TENTHS: Final = 9


class BudgetScope(IntEnum):
    """What a budget limits."""

    #: Everything the tenant spends.
    TENANT = 1
    #: What one run spends.
    RUN = 2


def tenant_budget_id(tenant: TenantId) -> BudgetId:
    """Names the tenant's own budget: it has the tenant's UUID, so that nobody needs to look it up."""
    return BudgetId(tenant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A hard limit on money, nano-USD. Always `spent + held <= limit + overrun`, each of them >= 0."""

    id: BudgetId
    tenant: TenantId
    scope: BudgetScope
    #: The run, for scope RUN.
    run_id: str | None
    limit: NanoUsd
    #: Settled and assumed so far.
    spent: NanoUsd = NOTHING
    #: Held by calls that are not settled yet.
    held: NanoUsd = NOTHING
    #: What settlements or a lowered limit took beyond the limit. A hold never raises it.
    overrun: NanoUsd = NOTHING
    #: True from the first call that was refused when nearly all was spent, until the limit changes or money comes back.
    exhausted: bool = False
    created: datetime

    @property
    def left(self) -> NanoUsd:
        """What can still be held, >= 0."""
        return NanoUsd(max(0, self.limit - self.spent - self.held))

    def hold(self, amount: NanoUsd) -> "Budget":
        """Sets money aside.

        Raises: BudgetExhausted: `spent + held + amount` would be above the limit, or the budget is overrun.
        """
        cause = self.refusal(amount)
        if cause is not None:
            raise BudgetExhausted(self.id, asked=amount, left=self.left, cause=cause)
        return replace(self, held=NanoUsd(self.held + amount))

    def refusal(self, amount: NanoUsd) -> RefusalCause | None:
        """Tells why `amount` cannot be held, None if it can."""
        if self.overrun > 0:
            return RefusalCause.OVERRUN
        if self.spent + self.held + amount <= self.limit:
            return None
        return RefusalCause.SPENT if self.spent + amount > self.limit else RefusalCause.HELD

    def moved(self, *, held: int, spent: int) -> "Budget":
        """Books what became of holds: both are differences, and the overrun follows.

        Raises: Invalid: a charge so large that the sum does not fit.
        """
        new_held, new_spent = self.held + held, self.spent + spent
        if new_held + new_spent > 2 * MAX_LIMIT - MAX_CHARGE:
            raise Invalid("usage", "takes the budget beyond what 64 bits hold")
        return replace(
            self,
            held=NanoUsd(new_held),
            spent=NanoUsd(new_spent),
            overrun=_overrun(self.limit, new_spent + new_held),
            exhausted=self.exhausted and new_spent >= self.spent,
        )

    def limited(self, limit: NanoUsd) -> "Budget":
        """Changes the limit. One below what is spent and held is accepted and shown as overrun."""
        return replace(self, limit=limit, overrun=_overrun(limit, self.spent + self.held), exhausted=False)

    @property
    def nearly_spent(self) -> bool:
        """True when so much is spent that a refusal means "used up", not "this call asks for too much"."""
        return self.spent * 10 >= self.limit * _NEARLY_SPENT_TENTHS

    def used_up(self) -> "Budget":
        """Marks that a call was refused when nearly all was spent."""
        return replace(self, exhausted=True)


def _overrun(limit: int, used: int) -> NanoUsd:
    return NanoUsd(max(0, used - limit))


def checked_limit(limit: int, *, least: int, field: str = "limit_nano_usd") -> NanoUsd:
    """Accepts a limit.

    Raises: Invalid (naming `field`): it is below `least` or above `MAX_LIMIT`.
    """
    if not least <= limit <= MAX_LIMIT:
        raise Invalid(field, f"must be {least} to {MAX_LIMIT} nano-USD")
    return NanoUsd(limit)
