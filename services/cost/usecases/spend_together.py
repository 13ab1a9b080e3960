"""Gathers what concurrent callers spend, so that all of it shares transactions."""

from collections.abc import Sequence

from services.cost.domain.hold import Hold
from services.cost.usecases.askers import Asker, Behind, Group, Item
from services.cost.usecases.detour import Detour
from services.cost.usecases.hold_queue import HoldQueue
from services.cost.usecases.spend import Operation, Outcome, Reserve


class SpendTogether:
    """One path for unary calls and frames: both join the transaction that is gathered next."""

    def __init__(self, group: Group, queue: HoldQueue) -> None:
        self._group = group
        self._queue = queue

    async def one(self, operation: Operation, /) -> Hold:
        """Carries out one operation. Raises: MeshError: it was refused."""
        outcome = await self._group.submit(operation)
        if isinstance(outcome, Detour):
            outcome = await outcome.answer()
        if isinstance(outcome, Asker):
            raise TypeError("only an asker waits")
        return outcome

    async def reserve(self, order: Reserve, /) -> Hold | Asker:
        """Makes a hold; gives the asker, to wait for its answer, when the money is only held by others.

        Raises: MeshError: it was refused.
        """
        if not order.wait:
            return await self.one(order)
        asker = self._queue.asker(order)
        try:
            outcome = await self._group.submit(asker)
            if isinstance(outcome, Detour):
                outcome = await outcome.answer()
        except BaseException:
            asker.leave()
            raise
        if outcome is not asker:
            asker.told()
            asker.leave()
        return outcome

    async def many(self, operations: Sequence[Operation], /) -> Sequence[Outcome | Asker | Behind]:
        """Carries out the operations of a frame, in order; a refused one is an outcome, not an error.

        An asker among the outcomes is to wait for its answer: nobody else waits for that. So it is with a detour, whose
        answer `later` gives, or `drop` leaves.
        """
        items: list[Item] = []
        askers: list[Asker] = []
        for operation in operations:
            if isinstance(operation, Reserve) and operation.wait:
                askers.append(self._queue.asker(operation))
                items.append(askers[-1])
            else:
                items.append(operation)
        try:
            outcomes = await self._group.submit_many(items)
        except BaseException:
            for asker in askers:
                asker.leave()
            raise
        behind = {outcome.item for outcome in outcomes if isinstance(outcome, Detour)}
        for asker in askers:
            if not asker.waits and asker not in behind:
                asker.told()
                asker.leave()
        return outcomes

    async def later(self, detour: Behind, /) -> Hold | Asker:
        """Gives what became of an operation that waited apart; an asker is still to wait. Raises: MeshError."""
        try:
            outcome = await detour.answer()
        except BaseException:
            self.drop(detour)
            raise
        detour.taken = True
        if isinstance(detour.item, Asker) and outcome is not detour.item:
            detour.item.told()
            detour.item.leave()
        return outcome

    def drop(self, detour: Behind, /) -> None:
        """Goes away from an operation that waits apart; a hold that it makes after all is freed."""
        if isinstance(detour.item, Asker):
            detour.item.leave()
        elif isinstance(detour.item, Reserve) and not detour.taken:
            detour.taken = True
            detour.then(lambda made: self.orphan(made) if isinstance(made, Hold) else None)

    def orphan(self, hold: Hold, /) -> None:
        """Has a hold freed whose asker went away before hearing of it."""
        self._queue.orphan(hold)
