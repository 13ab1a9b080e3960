"""A tenant whose rows another transaction has locked waits apart, so that nobody else waits for it.

All tenants share transactions, and these wait for a lock only for a moment. One that met a lock is made again without
the tenants whose rows are locked. What those asked for, and ask for until it is done, goes through a lane of each one's
own, in order, in transactions that wait longer. A tenant's items are in the shared transaction or in its lane, never in
both.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from services.cost.domain.hold import Hold
from services.cost.usecases.askers import Asker, Behind, Item, tenant_of
from services.cost.usecases.detour import Detour
from services.cost.usecases.spend import Foreseen, Outcome
from services.meshkit.batching.dispatcher import QueueFull, is_poison
from services.meshkit.core.errors import Conflict, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.grpc.incidents import incident
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

NAME: Final = "cost.locked"
#: Most items of one transaction of a lane.
_BATCH: Final = 512


class Commit(Protocol):
    """Carries out a group of items in one transaction."""

    async def __call__(
        self, items: Sequence[Item], /, *, patiently: bool, foreseen: Foreseen | None = None
    ) -> Sequence[Outcome | Asker]:
        """Raises: Conflict: rows are locked, and nothing was done."""
        ...


class Foresee(Protocol):
    """Decides a group while the one before it is written."""

    def __call__(self, items: Sequence[Item], /) -> Foreseen | None: ...


class Unlocked(Protocol):
    """Tells whose own budget no other transaction has locked."""

    async def __call__(self, tenants: Collection[TenantId], /) -> Collection[TenantId]: ...


class LockedTenants:
    """What the group commit runs: see `commit`.

    Args:
        carry_out: commits items, waiting for locks for a moment, or patiently.
        foresee: decides what is carried out next.
        unlocked: tells whom a lock does not concern.
        at_once: lanes that have a transaction at the same time.
        most: items that may wait in all lanes; one tenant's lane takes half of that.
    """

    def __init__(self, carry_out: Commit, *, foresee: Foresee, unlocked: Unlocked, at_once: int, most: int) -> None:
        self._carry_out = carry_out
        self._foresee = foresee
        self._turn = asyncio.Lock()
        #: Groups that are being committed, or wait for their turn.
        self._groups = 0
        self._unlocked = unlocked
        self._turns = asyncio.Semaphore(at_once)
        self._most = most
        self._lanes: dict[TenantId, _Lane] = {}
        self._waiting = 0
        self._depth = metrics.QUEUE_ITEMS.labels(NAME)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Carries out what waits, then stops."""
        while self._lanes:
            await asyncio.gather(*(lane.task for lane in self._lanes.values() if lane.task is not None))

    async def commit(self, items: Sequence[Item]) -> Sequence[Outcome | Asker | Behind]:
        """Commits a group, but for those who are to wait: they get a detour each.

        A group that comes while another one is being committed is decided meanwhile, and written after it.
        """
        self._groups += 1
        try:
            foreseen = None
            if self._groups > 1:
                # Whose turn it is goes first: what it writes is what this group is decided on.
                await asyncio.sleep(0)
                foreseen = None if self._lanes else self._foresee(items)
            async with self._turn:
                return await self._in_turn(items, foreseen)
        finally:
            self._groups -= 1

    async def _in_turn(self, items: Sequence[Item], foreseen: Foreseen | None) -> Sequence[Outcome | Asker | Behind]:
        # Nobody is sent apart before the others are done: what raises is tried again as a whole.
        behind = self._lanes.keys() & {tenant_of(item) for item in items} if self._lanes else set[TenantId]()
        try:
            if not behind:
                return await self._carry_out(items, patiently=False, foreseen=foreseen)
            return await self._without(behind, items)
        except Conflict:
            pass
        tenants = {tenant_of(item) for item in items} - behind
        if len(tenants) > 1:
            behind |= tenants.difference(await self._unlocked(tenants))
            try:
                return await self._without(behind, items)
            except Conflict:
                # Rows that no tenant's own budget tells of.
                pass
        return await self._without(behind | tenants, items)

    async def _without(self, behind: Collection[TenantId], items: Sequence[Item]) -> Sequence[Outcome | Asker | Behind]:
        if not behind:
            return await self._carry_out(items, patiently=False)
        others = [item for item in items if tenant_of(item) not in behind]
        found = iter(await self._carry_out(others, patiently=False) if others else ())
        return [self._parked(item) if tenant_of(item) in behind else next(found) for item in items]

    def _parked(self, item: Item) -> Behind | QueueFull:
        tenant = tenant_of(item)
        lane = self._lanes.get(tenant)
        if self._waiting >= self._most or (lane is not None and len(lane.items) >= self._most // 2):
            metrics.QUEUE_REFUSED.labels(NAME).inc()
            return QueueFull(NAME, most=self._most)
        if lane is None:
            lane = self._lanes[tenant] = _Lane()
            lane.task = asyncio.create_task(self._run(tenant, lane), name=NAME)
            log.warning("a tenant's budgets are locked; its calls wait apart", tenant_id=str(tenant))
        detour: Behind = Detour(item)
        lane.items.append(detour)
        self._count(1)
        return detour

    async def _run(self, tenant: TenantId, lane: "_Lane") -> None:
        """Carries out what waits in a lane, and takes the lane away as soon as nothing does."""
        while lane.items:
            async with self._turns:
                batch = [lane.items.popleft() for _ in range(min(len(lane.items), _BATCH))]
                await self._settle(batch)
            self._count(-len(batch))
        del self._lanes[tenant]

    async def _settle(self, batch: Sequence[Behind]) -> None:
        try:
            outcomes = await self._carry_out([detour.item for detour in batch], patiently=True)
        except Exception as error:  # noqa: BLE001  # a consumer loop: the callers get it, the loop goes on
            # A lock is no item's fault: each part would wait for it as long again.
            if len(batch) > 1 and is_poison(error) and not isinstance(error, Conflict):
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            outcomes = [error if isinstance(error, MeshError) else incident(error, method=NAME)] * len(batch)
        for detour, outcome in zip(batch, outcomes, strict=True):
            detour.end(outcome)

    def _count(self, more: int) -> None:
        self._waiting += more
        self._depth.set(self._waiting)


class _Lane:
    """What waits of one tenant, in order."""

    __slots__ = ("items", "task")

    def __init__(self) -> None:
        self.items: deque[Detour[Item, Hold | Asker]] = deque()
        self.task: asyncio.Task[None] | None = None
