"""What the use cases need from outside: law, money, an embedder, what runs tools, and Postgres."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from services.meshkit.calls.ports import Clearance, DispatchedHold, Holds, SettlementStore
from services.meshkit.content import CallContext, CallKey
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret
from services.tools.domain.invocation import RecordedCall, ToolOutput
from services.tools.domain.reference import Reference
from services.tools.domain.tool import Tool

#: Shows a piece of a result while it comes. Raises LawBlocked: the tool is to stop.
Show = Callable[[str], Awaitable[None]]


class HoldClient(Holds, Protocol):
    """Holds money for calls and charges it."""

    async def hold(
        self,
        principal: Principal,
        context: CallContext,
        *,
        tool: str,
        cost: NanoUsd,
        ttl: timedelta,
        needs: timedelta,
    ) -> DispatchedHold:
        """Holds the price of one call in every budget that it spends from, durably marked as leaving now.

        Ask the law first: from here on, a crash charges the price. Source: docs/decisions/0001-seams-of-a-turn.md
        It waits for money that others only hold, as long as the caller's time allows.
        Args:
            needs: time that is kept for the call itself, but never more than half of what is left.
        Raises: BUDGET_EXHAUSTED as cost says it; Unavailable: nothing may be spent blind.
        """
        ...


class RateLimits(Protocol):
    """Counts how often a tenant calls a tool, in the whole mesh."""

    async def take(self, tenant: TenantId, tool: str, *, per_minute: int) -> float:
        """Takes one call; gives 0, or the seconds to wait when there is none to take.

        Args:
            tool: name and version.
            per_minute: calls that may begin in a minute, and at once.
        """
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

    async def page(
        self, tenant: TenantId, *, after: tuple[str, str] | None, most: int, names: frozenset[str] | None
    ) -> Sequence[Tool]:
        """Gives versions by name, then version, those after the pair (name, version); only these names if not None."""
        ...

    async def newest(self, tenant: TenantId, *, most: int, names: frozenset[str] | None) -> Sequence[Tool]:
        """Gives the highest version of each tool, by name; only these names if not None."""
        ...


class CallStore(SettlementStore, Protocol):
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

    async def record(self, recorded: RecordedCall, *, token: Secret) -> RecordedCall:
        """Makes an outcome durable. The first one stands: gives it, or an earlier one if there is one.

        Args:
            token: access token to settle with after a crash; kept sealed, and only while settling is pending.
        """
        ...
