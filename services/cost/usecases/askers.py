"""Who asks for a hold and may wait for its money, and the items that a group commit is given of them."""

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Final, Protocol

from services.cost.domain.errors import BudgetExhausted
from services.cost.domain.hold import Hold
from services.cost.domain.hold_lines import Place
from services.cost.usecases.detour import Detour
from services.cost.usecases.spend import Operation, Reserve
from services.meshkit.core.errors import Cancelled, DeadlineExceeded, MeshError, Unavailable
from services.meshkit.core.identity import TenantId


class HearsOfLeaving(Protocol):
    """Told of askers that leave; `HoldQueue` is."""

    def left(self, asker: "Asker", /) -> None:
        """Learns that an asker went away, told or not."""
        ...


class Asker:
    """Whoever asked for a hold and may wait for it. It is told the outcome, or goes away and leaves nothing behind."""

    __slots__ = ("_queue", "deadline", "future", "gone", "made", "order", "since", "until", "wait")

    def __init__(self, queue: HearsOfLeaving, order: Reserve, now: float) -> None:
        self._queue = queue
        self.order = order
        self.since = now
        #: Time of the monotonic clock at which whoever asked goes away.
        self.deadline = inf if order.left is None else now + order.left.total_seconds()
        #: When it waits no longer.
        self.until = min(self.deadline, now + order.wait.total_seconds())
        self.gone = False
        self.wait: Wait | None = None
        self.made: Made | None = None
        self.future: asyncio.Future[Hold] | None = None

    @property
    def waits(self) -> bool:
        """True from when it has a place in line, whatever becomes of that."""
        return self.future is not None

    async def answer(self) -> Hold:
        """Waits for the hold. Raises: MeshError: it is refused after all, or its time is up."""
        if self.future is None:
            raise TypeError("only who waits is answered here")
        try:
            hold = await self.future
            self.told()
            return hold
        finally:
            self.leave()

    def told(self) -> None:
        """Notes that the hold is in the hands of whoever asked."""
        if self.made is not None:
            self.made.told = True

    def stop(self) -> None:
        """Ends the wait because this process stops. The same request may be repeated elsewhere."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(Unavailable("cost"))

    def leave(self) -> None:
        """Goes away, at whatever moment: from the line at once; a hold that nobody was told of is freed."""
        if not self.gone:
            self.gone = True
            self._queue.left(self)


class Made:
    """A hold on its way to those who asked for it."""

    __slots__ = ("askers", "hold", "told")

    def __init__(self, hold: Hold, askers: int) -> None:
        self.hold = hold
        self.askers = askers
        self.told = False


class Wait:
    """A request that waits in line, with all who ask for it: a repeat attaches to it."""

    __slots__ = ("askers", "order", "place", "refusal", "trying")

    def __init__(self, order: Reserve, place: Place, refusal: BudgetExhausted) -> None:
        self.order = order
        self.place = place
        #: Why it waits.
        self.refusal = refusal
        self.askers: list[Asker] = []
        #: True while it is decided again.
        self.trying = False


#: What a group commits: an operation, a request that may wait, one that waits, or the end of an orphaned hold.
Item = Operation | Asker | Wait
#: An item that waits apart for rows that are locked.
Behind = Detour[Item, Hold | Asker]
#: The items that bring an order.
WAITING: Final = (Asker, Wait)


class Group(Protocol):
    """A group commit of items; `meshkit.batching.GroupCommit` is one."""

    async def submit(self, item: Item) -> Hold | Asker | Behind:
        """Raises: MeshError: this item was refused."""
        ...

    async def submit_many(self, items: Sequence[Item]) -> Sequence[Hold | Asker | Behind | MeshError]:
        """Gives what became of each, in order. Raises: MeshError: nothing could be decided."""
        ...


def tenant_of(item: Item) -> TenantId:
    """Gives whose rows an item is about."""
    return item.order.tenant if isinstance(item, WAITING) else item.tenant


def operation_of(item: Item) -> Operation:
    """Gives what an item asks for."""
    return item.order if isinstance(item, WAITING) else item


def too_late(item: Item, now: float) -> MeshError | None:
    """Says why nothing may be held for an item any more."""
    if isinstance(item, Asker):
        if item.gone:
            return Cancelled("whoever asked went away")
        return DeadlineExceeded("the time of this call is used up") if item.deadline <= now else None
    if isinstance(item, Wait) and all(asker.until <= now for asker in item.askers):
        return item.refusal
    return None
