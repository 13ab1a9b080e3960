"""When to look at what is leased to workers, and at what waits for its moment."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import ceil
from typing import Final

from services.orchestrator.engine.leases import Lease, Offer

#: Moments in a second that deadlines are rounded up to. A power of two, so that sums of them stay exact.
_MOMENTS: Final = 64
#: Entries that count no more, beyond as many as do, before they are swept out.
_STALE: Final = 1_000


class Deadlines:
    """When to look at leases, and at steps that are not to be given out before a moment.

    Those of about the same moment share it. A lease is made for every step, and most have ended soon: only those are
    noted that are there at the next look, see `Desk.lasting`.
    """

    def __init__(self) -> None:
        self._heap: list[float] = []
        self._at: dict[float, list[Lease | Offer]] = {}
        self._kept = 0

    def __len__(self) -> int:
        return self._kept

    def add(self, at: float, what: Lease | Offer, *, counting: int) -> None:
        """Notes a moment.

        Args:
            counting: how many entries count; when many more are kept, the others are swept out.
        """
        moment = ceil(at * _MOMENTS) / _MOMENTS
        shared = self._at.get(moment)
        if shared is None:
            self._at[moment] = [what]
            heappush(self._heap, moment)
        else:
            shared.append(what)
        self._kept += 1
        if self._kept > 2 * counting + _STALE:
            self._sweep()

    def due(self, now: float) -> Iterator[Lease | Offer]:
        """Gives what is due, and forgets it."""
        while self._heap and self._heap[0] <= now:
            due = self._at.pop(heappop(self._heap))
            self._kept -= len(due)
            yield from filter(_counts, due)

    def _sweep(self) -> None:
        counting = ((moment, list(filter(_counts, shared))) for moment, shared in self._at.items())
        self._at = {moment: shared for moment, shared in counting if shared}
        self._kept = sum(map(len, self._at.values()))
        self._heap = list(self._at)
        heapify(self._heap)


def _counts(what: Lease | Offer) -> bool:
    return what.live if isinstance(what, Lease) else not what.gone
