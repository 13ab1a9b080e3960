"""Entries of the ledger. They are only ever added: a correction is a reversal of the old entry and a new one."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import NewType
from uuid import UUID

from services.cost.domain.hold import Hold, HoldId, HoldState, Purpose
from services.meshkit.content import Usage
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd

CostEventId = NewType("CostEventId", UUID)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEvent:
    """One entry. Sums over entries are always right, corrections included."""

    id: CostEventId
    tenant: TenantId
    hold: HoldId
    purpose: Purpose
    #: Token counts; all <= 0 in a reversal.
    usage: Usage
    #: What was charged, nano-USD; <= 0 in a reversal.
    cost: NanoUsd
    #: True when usage was never reported and the bound was charged; its reversal says so too.
    assumed: bool
    #: True when it takes an assumed entry back, or one whose price was not right.
    reversal: bool
    price: bytes | None
    created: datetime
    #: Why it was written, when no call made it.
    note: str = ""

    @property
    def unpriced(self) -> bool:
        """True when nobody knows the price: it was charged at a ceiling, until a re-pricing puts that right."""
        return self.price is None and not self.purpose.kind.flat


def entries_of(before: Hold, after: Hold, *, now: datetime, new_id: Callable[[], UUID]) -> list[CostEvent]:
    """Writes the ledger entries of one step in a hold's life: none, one, or a reversal and a new charge."""
    entries: list[CostEvent] = []
    if before.state is after.state:
        return entries
    if before.state is HoldState.ASSUMED:
        entries.append(_entry(before, now, new_id, reversal=True))
    if after.state in (HoldState.SETTLED, HoldState.ASSUMED):
        entries.append(_entry(after, now, new_id, reversal=False))
    return entries


def repriced_entries(
    before: Hold, after: Hold, *, note: str, now: datetime, new_id: Callable[[], UUID]
) -> list[CostEvent]:
    """Writes the reversal of a charge and the charge at its new price."""
    taken_back = _entry(before, now, new_id, reversal=True)
    return [replace(taken_back, note=note), replace(_entry(after, now, new_id, reversal=False), note=note)]


def _entry(hold: Hold, now: datetime, new_id: Callable[[], UUID], *, reversal: bool) -> CostEvent:
    usage = hold.bound if hold.usage is None else hold.usage
    return CostEvent(
        id=CostEventId(new_id()),
        tenant=hold.tenant,
        hold=hold.id,
        purpose=hold.purpose,
        usage=_negative(usage) if reversal else usage,
        cost=NanoUsd(-hold.charged) if reversal else hold.charged,
        assumed=hold.state is HoldState.ASSUMED,
        reversal=reversal,
        price=hold.price,
        created=now,
    )


def _negative(usage: Usage) -> Usage:
    return Usage(**{item.name: -int(getattr(usage, item.name)) for item in fields(usage)})
