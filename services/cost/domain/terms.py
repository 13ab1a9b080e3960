"""What people decide about a budget, and what they change of it."""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, NamedTuple

from services.cost.domain.period import Period
from services.meshkit.core.errors import Invalid
from services.meshkit.core.money import NanoUsd

#: Percent of a limit from which a budget warns unless people say otherwise.
WARN_AT: Final = 80
_UTC: Final = "UTC"


class BudgetMode(IntEnum):
    """What a budget does when it is used up."""

    #: Refuses.
    HARD = 1
    #: Warns, and never refuses.
    SOFT = 2
    #: Lets only the cheapest models through from `warn_at` on, and refuses at the limit.
    DEGRADE = 3


class Rules(NamedTuple):
    """The terms that a quota may suspend, beside the limit on money."""

    mode: BudgetMode = BudgetMode.HARD
    period: Period = Period.NONE
    zone: str = _UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What people decide about a budget."""

    limit: NanoUsd
    tokens: int | None = None
    calls: int | None = None
    wall_ms: int | None = None
    mode: BudgetMode = BudgetMode.HARD
    warn_at: int = WARN_AT
    period: Period = Period.NONE
    zone: str = _UTC

    @property
    def rules(self) -> Rules:
        """Those that a quota may suspend."""
        return Rules(self.mode, self.period, self.zone)

    def under(self, quota: NanoUsd) -> "Terms":
        """Gives what holds of them while the operator limits what the tenant may spend; 0 is no quota.

        A quota holds for all that is spent, so no period begins anew, and it refuses.
        """
        if not quota:
            return self
        mode = BudgetMode.HARD if self.mode is BudgetMode.SOFT else self.mode
        return replace(self, limit=min(self.limit, quota), mode=mode, period=Period.NONE, zone=_UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsChange:
    """Some terms that change; those that are not named stay as they are.

    Args:
        to: what the named ones become.
    """

    named: frozenset[str]
    to: Terms

    @classmethod
    def whole(cls, terms: Terms) -> "TermsChange":
        """Changes all of them."""
        return cls(named=frozenset(Terms.__slots__), to=terms)

    def onto(self, terms: Terms | None) -> Terms:
        """Gives the terms that it makes of those that there are; None: of a budget that is new.

        Raises: Invalid: a new budget without a limit, or a time zone without a period.
        """
        if terms is None:
            if "limit" not in self.named:
                raise Invalid("limit_nano_usd", "is required for a new budget, also when only calls are to be limited")
            terms = Terms(limit=self.to.limit)
        changed = replace(terms, **{name: getattr(self.to, name) for name in self.named})
        if changed.period is not Period.NONE:
            return changed
        if "zone" in self.named and self.to.zone != _UTC:
            raise Invalid("zone", "must be empty without a period; give `period`, too")
        return replace(changed, zone=_UTC)

    def refuse_beyond(self, quota: NanoUsd) -> None:
        """Checks what is asked for the tenant's own budget under a quota, the limit aside.

        Raises: Invalid: it would be soft, or have a period.
        """
        if not quota:
            return
        if "mode" in self.named and self.to.mode is BudgetMode.SOFT:
            raise Invalid("mode", "must be HARD or DEGRADE while the operator limits what the tenant may spend")
        if "period" in self.named and self.to.period is not Period.NONE:
            raise Invalid("period", "must be absent while the operator limits what the tenant may spend")
