"""What calls that let bytes out need: law, money, and a record of what is not settled yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.meshkit.content import CallKey, Usage
from services.meshkit.content.law import Subject, Verdict
from services.meshkit.core.identity import Principal
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchedHold:
    """Money set aside for a call that leaves now: what a socket to the outside takes. Made by the hold client only."""

    id: str
    #: What is held: the price, or an upper bound of it.
    amount: NanoUsd


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance:
    """Leave to open a socket to the outside: the ledger knows the hold, and the law passed what is sent (INV-7)."""

    hold: DispatchedHold
    #: Verdict on what is sent. Empty only where nothing leaves the mesh: embedding by the local model.
    verdict_id: str
    #: Hosts that the tenant's own rules allow, `*.example.com` for all below a name; none for any.
    allowed_hosts: tuple[str, ...] = ()


class LawGate(Protocol):
    """Has content judged under the tenant's law."""

    async def evaluate(self, principal: Principal, subject: Subject) -> Verdict:
        """Gives the verdict; one that blocks is an answer, not an error.

        Raises: Unavailable: the law cannot be asked; nothing may go on.
        """
        ...


class Holds(Protocol):
    """Ends holds. Who makes them is a port of each service, for each holds for something else."""

    async def settle(self, principal: Principal, hold_id: str, usage: Usage | None, /) -> NanoUsd:
        """Charges what a call used, or its fixed price where usage is None; gives what was charged.

        Idempotent for the same usage.
        """
        ...

    async def release(self, principal: Principal, hold_id: str, *, dispatched_unbilled: bool) -> None:
        """Frees a hold whose call never left after all, or for which nothing is charged."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What became of the money of one recorded call."""

    key: CallKey
    hold_id: str
    #: What was charged; None: no token was left, the hold expires into `assumed`.
    charged: NanoUsd | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSettlement:
    """A charge that cost has not confirmed yet, and the token to confirm it with."""

    key: CallKey
    hold_id: str
    #: None for a call of a fixed price.
    usage: Usage | None
    #: Access token of the caller; kept sealed, and only until the call is settled.
    token: Secret


class SettlementStore(Protocol):
    """Remembers calls with what became of their money."""

    async def mark_settled(self, settlements: Sequence[Settlement]) -> None:
        """Records what became of the money of recorded calls."""
        ...

    async def pending(self, *, before: datetime, most: int) -> list[PendingSettlement]:
        """Gives recorded calls of all tenants whose settlement was pending before a time, oldest first."""
        ...

    async def forget_expired(self, *, before: datetime, most: int) -> int:
        """Deletes calls older than a time that are not pending; returns how many."""
        ...
