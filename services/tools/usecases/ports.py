"""What the use cases need from outside: law, money, an embedder, what runs tools, and Postgres."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.meshkit.content import CallContext
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.money import NanoUsd
from services.tools.domain.invocation import CallKey, PendingSettlement, RecordedCall, ToolOutput
from services.tools.domain.law import Subject, Verdict
from services.tools.domain.reference import Reference
from services.tools.domain.tool import Tool

#: Shows a piece of a result while it comes. Raises LawBlocked: the tool is to stop.
Show = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchedHold:
    """Money set aside for a call that leaves now: what a tool's socket takes. Made by the hold client only."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance:
    """Leave to run a tool: the ledger knows the hold, and the law passed what is sent (INV-7)."""

    hold: DispatchedHold
    verdict_id: str


class LawGate(Protocol):
    """Has content judged under the tenant's law."""

    async def evaluate(self, principal: Principal, subject: Subject) -> Verdict:
        """Gives the verdict; one that blocks is an answer, not an error.

        Raises: Unavailable: the law cannot be asked; nothing may go on.
        """
        ...


class HoldClient(Protocol):
    """Holds money for calls and charges it."""

    async def hold(
        self, principal: Principal, context: CallContext, *, tool: str, cost: NanoUsd, ttl: timedelta
    ) -> DispatchedHold:
        """Holds the price of one call in every budget that it spends from, durably marked as leaving now.

        Ask the law first: from here on, a crash charges the price. Source: docs/decisions/0001-seams-of-a-turn.md
        Raises: BUDGET_EXHAUSTED as cost says it; Unavailable: nothing may be spent blind.
        """
        ...

    async def settle(self, principal: Principal, hold_id: str) -> NanoUsd:
        """Charges the call and gives what was charged. Idempotent."""
        ...

    async def release(self, principal: Principal, hold_id: str, *, dispatched_unbilled: bool) -> None:
        """Frees a hold whose call never left after all."""
        ...


class ToolExecutor(Protocol):
    """Runs one kind of tool. Only executors open sockets, and only with a clearance."""

    async def run(
        self, tool: Tool, arguments: Mapping[str, object], clearance: Clearance, *, show: Show | None
    ) -> ToolOutput:
        """Gives the tool's result; a failure of the tool is a result, too. The caller limits its time.

        Args:
            show: is given pieces of the text as they come; None to wait for the whole.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Vectors of unit length."""

    vectors: tuple[tuple[float, ...], ...]
    #: Vectors of different models never compare.
    model: str


class Embedder(Protocol):
    """Makes vectors of texts, with the caller's token and money."""

    async def embed(self, principal: Principal, texts: Sequence[str], *, seconds: float) -> Embedded:
        """Gives one vector for each of 1 to 256 texts.

        Raises: MeshError: what inference refused it for.
        """
        ...


class ToolStore(Protocol):
    """Keeps the tenants' own tools."""

    async def add(self, tenant: TenantId, tool: Tool) -> Tool:
        """Stores a version, or gives the one that exists with the same definition.

        Raises: ToolVersionExists: it has another definition. TooManyTools.
        """
        ...

    async def find(self, tenant: TenantId, references: Sequence[Reference]) -> Sequence[Tool]:
        """Gives the tools that exist of those asked for, in any order."""
        ...

    async def page(self, tenant: TenantId, *, after: tuple[str, str] | None, most: int) -> Sequence[Tool]:
        """Gives versions by name, then version, those after the pair (name, version)."""
        ...

    async def newest(self, tenant: TenantId, *, most: int) -> Sequence[Tool]:
        """Gives the highest version of each tool, by name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What became of the money of one recorded call."""

    key: CallKey
    hold_id: str
    #: What was charged; None: no token was left, the hold expires into `assumed`.
    charged: NanoUsd | None


class CallStore(Protocol):
    """Remembers calls by id. Every method sees one tenant's calls, but for `pending` and `forget_expired`."""

    async def find(self, key: CallKey, arguments_hash: bytes) -> RecordedCall | None:
        """Gives the outcome that a call has already; None: it has none.

        Raises: CallArgumentsDiffer: the id came before with another hash.
        """
        ...

    async def begin(self, key: CallKey, arguments_hash: bytes, *, tool: str, hold_id: str) -> RecordedCall | None:
        """Records that a call is about to leave under a hold, or gives the outcome that it has meanwhile.

        Raises: CallArgumentsDiffer: the id came before with another hash.
        """
        ...

    async def record(self, recorded: RecordedCall, *, token: str) -> RecordedCall:
        """Makes an outcome durable. The first one stands: gives it, or an earlier one if there is one.

        Args:
            token: access token to settle with after a crash; kept sealed, and only while settling is pending.
        """
        ...

    async def mark_settled(self, settlements: Sequence[Settlement]) -> None:
        """Records what became of the money of recorded calls."""
        ...

    async def pending(self, *, before: datetime, most: int) -> list[PendingSettlement]:
        """Gives recorded calls of all tenants whose settlement was pending before a time, oldest first."""
        ...

    async def forget_expired(self, *, before: datetime, most: int) -> int:
        """Deletes calls older than a time that are not pending; returns how many."""
        ...
