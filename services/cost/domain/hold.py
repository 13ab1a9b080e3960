"""Holds: money set aside for one call, and the states it goes through.

reserved ──▶ dispatched ──▶ settled            (usage known)
   │             ├────────▶ released           (the provider says that it charges nothing)
   │             └─ expiry ▶ assumed ─▶ settled or released by late news
   ├─ released   (never sent)
   └─ expiry ─▶ released
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, NewType
from uuid import UUID

from services.cost.domain.amounts import NONE, Amounts
from services.cost.domain.budget import NOTHING, BudgetId
from services.cost.domain.errors import (
    HoldAlreadyDispatched,
    HoldAlreadySettled,
    HoldFenced,
    HoldNotDispatched,
    HoldNotOpen,
    HoldNotReserved,
    SettledDifferently,
)
from services.meshkit.content import CallContext, Usage
from services.meshkit.core.changing import changing
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd

HoldId = NewType("HoldId", UUID)

#: Longest life of a hold, extensions included.
MOST_LIFE: Final = timedelta(hours=24)
_MILLISECOND: Final = timedelta(milliseconds=1)
_INSTANT: Final = timedelta(microseconds=1)


class HoldState(IntEnum):
    """Where a hold is in its life."""

    RESERVED = 1
    DISPATCHED = 2
    SETTLED = 3
    RELEASED = 4
    ASSUMED = 5


#: States that hold money.
OPEN_STATES: tuple[HoldState, ...] = (HoldState.RESERVED, HoldState.DISPATCHED)


#: States that have a charge.
CHARGED_STATES: tuple[HoldState, ...] = (HoldState.SETTLED, HoldState.ASSUMED)


class CostKind(IntEnum):
    """What kind of thing is paid for."""

    GENERATE = 1
    EMBED = 2
    TOOL = 3
    #: An operation of memory.
    MEMORY = 4
    #: A model that judges.
    JUDGE = 5

    @property
    def flat(self) -> bool:
        """True when a call has a price of its own, and is not priced by its tokens."""
        return self in (CostKind.TOOL, CostKind.MEMORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What is paid for, and for whom."""

    kind: CostKind
    #: Who is paid, such as `openai`.
    provider: str
    #: Model or tool.
    model: str
    context: CallContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Money set aside for one call."""

    id: HoldId
    tenant: TenantId
    #: UUID of the attempt; a repeat finds this hold.
    request_id: UUID
    #: Hash of what was asked, so that the same id with another request is noticed.
    request_digest: bytes
    state: HoldState = HoldState.RESERVED
    #: Budgets that it is held in, in id order; the tenant's own is among them.
    budgets: tuple[BudgetId, ...]
    purpose: Purpose
    #: Upper bound of the call's usage.
    bound: Usage
    #: Price of that bound, nano-USD: what is held.
    amount: NanoUsd
    #: Digest of the price that bound and charge are computed with; None for tools, and where the price is unknown.
    price: bytes | None
    #: Nano-USD that a million tokens are held and charged at while their price is unknown; None: it is known.
    ceiling: int | None = None
    #: What was charged, once settled or assumed.
    charged: NanoUsd = NOTHING
    #: Real usage, once settled.
    usage: Usage | None = None
    expires: datetime
    created: datetime
    #: When its call left; None: not yet.
    dispatched: datetime | None = None
    #: When it was charged first, once settled or assumed: budgets count it in the period of then, corrections included.
    charged_at: datetime | None = None
    #: Epoch of whoever is in charge of the call; 0: nobody said.
    fence: int = 0
    #: True when tokens, the call and its time are held beside its money. Those of the first release held money only.
    counts: bool = True

    @property
    def held(self) -> NanoUsd:
        """Money that it keeps from other calls right now."""
        return self.amount if self.state in OPEN_STATES else NOTHING

    @property
    def most(self) -> Amounts:
        """Bounds of what the call may take."""
        if not self.counts:
            return Amounts(self.amount)
        return Amounts(self.amount, self.bound.total, 1, _milliseconds(self.expires - self.created))

    @property
    def charged_since(self) -> datetime | None:
        """When its charge was counted, or a moment before that if the first release charged it; None: it has none."""
        return (self.charged_at or self.created) if self.state in CHARGED_STATES else None

    @property
    def holds(self) -> Amounts:
        """What it keeps from other calls right now."""
        return self.most if self.state in OPEN_STATES else NONE

    @property
    def took(self) -> Amounts:
        """What it was charged, by every measure. Time counts from the dispatch to the charge, and at most as held."""
        if self.state is HoldState.ASSUMED:
            return self.most
        if self.state is not HoldState.SETTLED:
            return NONE
        if not self.counts:
            return Amounts(self.charged)
        since = self.dispatched or self.created
        most = _milliseconds(self.expires - self.created)
        elapsed = most if self.charged_at is None else min(most, _milliseconds(self.charged_at - since))
        return Amounts(self.charged, 0 if self.usage is None else self.usage.total, 1, elapsed)

    @property
    def run_id(self) -> str:
        """The run whose call it is; empty for a call of none."""
        return self.purpose.context.call_id.run_id

    def fenced(self, fence: int) -> "Hold":
        """Checks who speaks of the call, and notes a later one; 0 does not say.

        Raises: HoldFenced: somebody later is in charge.
        """
        if fence == 0 or fence == self.fence:
            return self
        if fence < self.fence:
            raise HoldFenced(self.id, fence=self.fence, given=fence)
        return replace(self, fence=fence)

    def extend(self, life: timedelta, now: datetime) -> "Hold":
        """Gives it a longer life, counted from when it was made; never a shorter one. Harmless to repeat.

        Raises: HoldNotOpen: it has ended, or is past its time.
        """
        if self.state not in OPEN_STATES or now >= self.expires:
            raise HoldNotOpen(self.id, state="expired" if self.state in OPEN_STATES else self.state.name.lower())
        expires = self.created + min(life, MOST_LIFE)
        return self if expires <= self.expires else replace(self, expires=expires)

    def dispatch(self, now: datetime) -> "Hold":
        """Marks that the call is about to leave; harmless to repeat.

        Raises: HoldNotReserved: it is past its expiry, or has ended.
        """
        if self.state is HoldState.DISPATCHED:
            return self
        if self.state is not HoldState.RESERVED:
            raise HoldNotReserved(self.id, state=self.state.name.lower())
        if now >= self.expires:
            raise HoldNotReserved(self.id, state="expired")
        return replace(self, state=HoldState.DISPATCHED, dispatched=now)

    def taken_over(self, now: datetime) -> "Hold":
        """Gives it to who repeats the request: a call that left, leaves now, for the first asker never heard of it."""
        if self.state is not HoldState.DISPATCHED:
            return self
        before = self.dispatched or self.created
        return replace(self, dispatched=max(now, before + _INSTANT))

    def unclaimed(self, made: "Hold") -> bool:
        """True when nobody was told of it or did anything with it since it was made."""
        return self.state is made.state and self.dispatched == made.dispatched

    def settle(self, usage: Usage, charge: NanoUsd, now: datetime) -> "Hold":
        """Charges what the call really cost; late usage corrects an assumed charge. Harmless to repeat.

        Raises: HoldNotDispatched: nothing was sent, as far as we know. SettledDifferently: another usage stands.
        """
        if self.state is HoldState.SETTLED:
            if usage != self.usage:
                raise SettledDifferently(self.id)
            return self
        if self.state not in (HoldState.DISPATCHED, HoldState.ASSUMED):
            raise HoldNotDispatched(self.id, state=self.state.name.lower())
        charged_at = self.charged_at if self.state is HoldState.ASSUMED else now
        return _changed(self, state=HoldState.SETTLED, charged=charge, usage=usage, charged_at=charged_at)

    def release(self, *, dispatched_unbilled: bool) -> "Hold":
        """Frees the money of a call that was never sent or is not billed. Harmless to repeat.

        Raises: HoldAlreadySettled. HoldAlreadyDispatched: the call may have left and nobody says that it is free.
        """
        if self.state is HoldState.RELEASED:
            return self
        if self.state is HoldState.SETTLED:
            raise HoldAlreadySettled(self.id)
        if self.state is not HoldState.RESERVED and not dispatched_unbilled:
            raise HoldAlreadyDispatched(self.id, state=self.state.name.lower())
        return replace(self, state=HoldState.RELEASED, charged=NOTHING)

    def expire(self, now: datetime) -> "Hold":
        """Ends a hold that nobody settled in time: free if nothing was sent, else charged at its bound as assumed."""
        if self.state not in OPEN_STATES or now < self.expires:
            return self
        if self.state is HoldState.RESERVED:
            return replace(self, state=HoldState.RELEASED)
        return replace(self, state=HoldState.ASSUMED, charged=self.amount, charged_at=now)


_changed: Final = changing(Hold)


def _milliseconds(span: timedelta) -> int:
    return max(0, span // _MILLISECOND)
