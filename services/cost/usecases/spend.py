"""Reserve, dispatch, settle and release: any number of them in one transaction, each with its own outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from services.cost.domain.amounts import MAX_CHARGE
from services.cost.domain.budget import BudgetId, tenant_budget_id
from services.cost.domain.changes import Changes
from services.cost.domain.errors import PriceUnknown
from services.cost.domain.hold import Hold, HoldId, HoldState, Purpose
from services.cost.domain.hold_lines import HoldLines, Turns
from services.cost.domain.spend_book import SpendBook
from services.cost.domain.unknown_price import at_ceiling
from services.cost.usecases.ports import BeginWork, LastSeen, SpendNeeds
from services.cost.usecases.prices import CurrentPrices
from services.cost.usecases.report import report
from services.cost.usecases.unknown_prices import UnknownPrices
from services.meshkit.content import Usage
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid, MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.money import NanoUsd

AFTER_RESERVE_COMMIT: Final = "cost.after_reserve_commit"
BEFORE_SETTLE_COMMIT: Final = "cost.before_settle_commit"
AFTER_SETTLE_COMMIT: Final = "cost.after_settle_commit"
register(AFTER_RESERVE_COMMIT, BEFORE_SETTLE_COMMIT, AFTER_SETTLE_COMMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Hold the bound of a call."""

    tenant: TenantId
    request_id: UUID
    purpose: Purpose
    #: Budgets besides the tenant's own.
    budgets: tuple[BudgetId, ...]
    bound: Usage
    #: Price of the call, for tools.
    tool_cost: NanoUsd
    ttl: timedelta
    #: True when the call leaves right away.
    dispatched: bool = False
    #: True when the caller has no cheaper model.
    cheapest: bool = False
    #: Epoch of the caller; 0: it does not say.
    fence: int = 0
    #: How long it waits where the money is only held by others.
    wait: timedelta = timedelta()
    #: How long the caller waits for the answer; None: it does not say.
    left: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Mark that a held call is about to leave."""

    tenant: TenantId
    hold: HoldId
    fence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """Give an open hold a longer life."""

    tenant: TenantId
    hold: HoldId
    #: Counted from when the hold was made.
    life: timedelta
    fence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Charge what a call used."""

    tenant: TenantId
    hold: HoldId
    #: None: the caller does not say, which only what has a price of its own may do.
    usage: Usage | None
    fence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Free a hold."""

    tenant: TenantId
    hold: HoldId
    dispatched_unbilled: bool
    fence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandon:
    """Free a hold whose asker went away before it was told of it, unless a repeat took it over."""

    tenant: TenantId
    hold: HoldId
    made: Hold


Operation = Reserve | Dispatch | Extend | Settle | Release | Abandon
_MOVING: Final = (Extend, Settle, Release, Abandon)
#: What became of an operation: its hold, or why it was refused.
Outcome = Hold | MeshError
#: An operation, and the hold that a Reserve asks for or why there is none.
Order = tuple[Operation, Outcome | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What became of a frame, and what was written."""

    outcomes: list[Outcome]
    changes: Changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What will become of a frame if the rows that it was decided on are still so when it is written."""

    tenants: frozenset[TenantId]
    decided: Decided


class Spend:
    """Decides a frame of operations in one transaction. A refused one never fails its neighbours.

    A frame is first decided on the rows as they were last seen, and written in one round trip if they are still so.
    When they are not, were not seen, or something is refused, the same rules decide it on locked rows.
    It may be decided while the frame before it is being written, on the rows as that leaves them.

    Args:
        begin: opens a transaction that waits for locks for a moment only.
        begin_patiently: opens one that waits for them longer.
    """

    def __init__(
        self,
        *,
        begin: BeginWork,
        begin_patiently: BeginWork,
        last_seen: LastSeen,
        prices: CurrentPrices,
        unknown: UnknownPrices,
        lines: HoldLines,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._begin = begin
        self._begin_patiently = begin_patiently
        self._last_seen = last_seen
        self._prices = prices
        self._unknown = unknown
        self._lines = lines
        self._clock = clock
        self._ids = ids

    def foresee(self, operations: Sequence[Operation]) -> Foreseen | None:
        """Decides a frame without waiting for anything; None when it takes more than the rows as last seen."""
        now = self._clock.now()
        wanted = [self._wanted(operation, now) for operation in operations]
        if any(isinstance(one, MeshError) for one in wanted):
            return None
        needs = _needs(operations, wanted)
        book = self._last_seen.recall(needs, now=now)
        if book is None or not self._prices.has(book.pinned_prices()):
            return None
        decided = self._proven(book, list(zip(operations, wanted, strict=True)))
        return None if decided is None else Foreseen(tenants=needs.tenants, decided=decided)

    async def decide(
        self, operations: Sequence[Operation], *, patiently: bool = False, foreseen: Foreseen | None = None
    ) -> Decided:
        """Carries out operations in order; gives one outcome each.

        Args:
            patiently: wait for locks that others have.
            foreseen: what `foresee` said of them; it is not carried out when rows have changed since then.
        Raises: Conflict: rows were locked by others for longer. MeshError: the transaction failed as a whole. In either
            case nothing of it happened.
        Concurrency: budgets are locked first, in id order, then holds, so frames never deadlock.
        """
        if foreseen is not None and self._last_seen.stands(foreseen.decided.changes) and await self._write(foreseen):
            await _committed(foreseen.decided.changes)
            return foreseen.decided
        now = self._clock.now()
        wanted = [self._wanted(operation, now) for operation in operations]
        if any(isinstance(one, PriceUnknown) for one in wanted):
            wanted = await self._at_ceilings(operations, wanted, now)
        needs = _needs(operations, wanted)
        orders = list(zip(operations, wanted, strict=True))
        decided = None if patiently else await self._at_once(orders, needs, now)
        if decided is None:
            begin = self._begin_patiently if patiently else self._begin
            decided = await self._under_locks(begin, orders, needs, now)
        await _committed(decided.changes)
        return decided

    async def _at_once(self, orders: Sequence[Order], needs: SpendNeeds, now: datetime) -> Decided | None:
        """Decides on the rows as last seen; None, and nothing is done, when that cannot be trusted."""
        book = self._last_seen.recall(needs, now=now)
        if book is None:
            return None
        await self._prices.ensure(book.pinned_prices())
        decided = self._proven(book, orders)
        written = decided is not None and await self._write(Foreseen(tenants=needs.tenants, decided=decided))
        return decided if written else None

    def _proven(self, book: SpendBook, orders: Sequence[Order]) -> Decided | None:
        """Decides orders on rows as last seen; None when writing that would not prove all of it right."""
        outcomes = self._decided(book, orders)
        changes = book.changes()
        # A refusal or a repeat writes nothing that would prove it right.
        if not changes.cover(hold for hold in outcomes if isinstance(hold, Hold)) or _refusals(outcomes):
            return None
        return Decided(outcomes=outcomes, changes=changes)

    async def _write(self, foreseen: Foreseen) -> bool:
        changes = foreseen.decided.changes
        if changes.settled:
            await failpoint(BEFORE_SETTLE_COMMIT)
        return await self._last_seen.write_if_unchanged(foreseen.tenants, changes)

    async def _under_locks(
        self, begin: BeginWork, orders: Sequence[Order], needs: SpendNeeds, now: datetime
    ) -> Decided:
        async with begin(needs.tenants) as work:
            book = await work.load(needs, now=now)
            await self._prices.ensure(book.pinned_prices())
            outcomes = self._decided(book, orders)
            changes = book.changes()
            if not changes.empty:
                await work.save(changes)
                if changes.settled:
                    await failpoint(BEFORE_SETTLE_COMMIT)
                await work.commit()
        return Decided(outcomes=outcomes, changes=changes)

    def _decided(self, book: SpendBook, orders: Sequence[Order]) -> list[Outcome]:
        turns = self._lines.turns()
        return [self._decide(book, turns, *order) for order in orders]

    async def _at_ceilings(
        self, operations: Sequence[Operation], wanted: Sequence[Outcome | None], now: datetime
    ) -> list[Outcome | None]:
        """Has calls whose price is unknown held at the ceiling of their tenant, where it does not refuse them."""
        orders = list(zip(operations, wanted, strict=True))
        asked = {operation.tenant for operation, one in orders if isinstance(one, PriceUnknown)}
        ceilings = await self._unknown.ceilings(asked)
        return [
            self._wanted(operation, now, ceilings.get(operation.tenant)) if isinstance(one, PriceUnknown) else one
            for operation, one in orders
        ]

    def _wanted(self, operation: Operation, now: datetime, ceiling: int | None = None) -> Outcome | None:
        """Makes the hold that a Reserve asks for, or says why there is none; None for other operations."""
        if not isinstance(operation, Reserve):
            return None
        try:
            return self._priced(operation, now, ceiling)
        except MeshError as refusal:
            return refusal

    def _priced(self, order: Reserve, now: datetime, ceiling: int | None) -> Hold:
        digest: bytes | None = None
        if order.purpose.kind.flat:
            amount = order.tool_cost
        elif ceiling is not None:
            amount = at_ceiling(order.bound, ceiling)
        else:
            price = self._prices.book.find(order.purpose.provider, order.purpose.model, at=now)
            amount, digest = price.bound(order.bound), price.digest
        if amount > MAX_CHARGE:
            raise Invalid("bound", f"prices at more than {MAX_CHARGE} nano-USD for one call")
        return Hold(
            id=HoldId(self._ids.uuid()),
            tenant=order.tenant,
            request_id=order.request_id,
            request_digest=digest_of(order),
            budgets=tuple(sorted({tenant_budget_id(order.tenant), *order.budgets})),
            purpose=order.purpose,
            bound=order.bound,
            amount=amount,
            price=digest,
            ceiling=ceiling,
            state=HoldState.DISPATCHED if order.dispatched else HoldState.RESERVED,
            expires=now + order.ttl,
            created=now,
            dispatched=now if order.dispatched else None,
            fence=order.fence,
        )

    def _decide(self, book: SpendBook, turns: Turns | None, operation: Operation, wanted: Outcome | None) -> Outcome:
        try:
            match operation:
                case Reserve(cheapest=cheapest, wait=wait):
                    if not isinstance(wanted, Hold):
                        return _refused(wanted)
                    return book.reserve(wanted, cheapest=cheapest, waits=bool(wait), turns=turns)
                case Dispatch(tenant=tenant, hold=hold, fence=fence):
                    return book.dispatch(tenant, hold, fence=fence)
                case Extend(tenant=tenant, hold=hold, life=life, fence=fence):
                    return book.extend(tenant, hold, life, fence=fence)
                case Settle(tenant=tenant, hold=hold, usage=usage, fence=fence):
                    return book.settle(tenant, hold, usage, self._prices.pinned, fence=fence)
                case Release(tenant=tenant, hold=hold, dispatched_unbilled=unbilled, fence=fence):
                    return book.release(tenant, hold, dispatched_unbilled=unbilled, fence=fence)
                case Abandon(made=made):
                    return book.abandon(made)
        except MeshError as refusal:
            return refusal


def _refused(wanted: MeshError | None) -> MeshError:
    return wanted if wanted is not None else Invalid("operation", "asks for nothing")


def _needs(operations: Sequence[Operation], wanted: Sequence[Outcome | None]) -> SpendNeeds:
    holds = [want for want in wanted if isinstance(want, Hold)]
    return SpendNeeds(
        tenants=frozenset(operation.tenant for operation in operations),
        spenders=frozenset(hold.tenant for hold in holds),
        budgets=frozenset(budget for hold in holds for budget in hold.budgets),
        requests=frozenset((hold.tenant, hold.request_id) for hold in holds),
        moved=frozenset(operation.hold for operation in operations if isinstance(operation, _MOVING)),
        marked=frozenset(operation.hold for operation in operations if isinstance(operation, Dispatch)),
        calls=tuple((hold.tenant, hold.purpose.context) for hold in holds),
    )


def digest_of(order: Reserve) -> bytes:
    """Hashes what makes a repeat the same request: all but its times."""
    content = (order.purpose, order.budgets, order.bound, order.tool_cost, order.dispatched, order.cheapest)
    return sha256(repr(content).encode()).digest()[:16]


def _refusals(outcomes: Sequence[Outcome]) -> bool:
    return any(isinstance(outcome, MeshError) for outcome in outcomes)


async def _committed(changes: Changes) -> None:
    report(changes)
    if changes.new_holds:
        await failpoint(AFTER_RESERVE_COMMIT)
    if changes.settled:
        await failpoint(AFTER_SETTLE_COMMIT)
