"""Places for the sub-runs that one replica's runs wait for. One that finds none waits, and its parent says so.

Nobody may wait for a place that is held by those who wait for it themselves: a deeper sub-run may take places that its
parent could not have taken. So there is always one more for the deepest, which wait for no run at all, and when they
end, for the next above them.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.tenant_counts import TenantCounts

#: Parts of the places. The first level has half of them and one part, and each deeper one a part more.
_PARTS: Final = 16
_PER_FREE_PLACE: Final = 2


class Waiting(Protocol):
    """Is told how it goes."""

    def waits(self) -> None:
        """There is no place for now."""
        ...

    def goes_on(self) -> None:
        """There is one again."""
        ...


class SubRunPlaces:
    """The places, who has them, and who waits for one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = TenantCounts()
        #: Who waits, by depth and tenant: of one depth, tenants take turns.
        self._waiting: dict[tuple[int, TenantId], deque[asyncio.Future[None]]] = {}

    @property
    def taken(self) -> int:
        """How many there are."""
        return self._taken.total

    @asynccontextmanager
    async def place(self, tenant: TenantId, depth: int, waiting: Waiting, *, begun: bool) -> AsyncGenerator[None]:
        """Keeps a place while the block runs, once there is one.

        Args:
            depth: of the sub-run, 1 for one that a run started which somebody started.
            begun: the sub-run is there already and has its place, wherever its parent was before.
        """
        try:
            if begun or self._fits(depth, tenant):
                self._taken.add(tenant, 1)
            else:
                waiting.waits()
                await self._wait(depth, tenant)
        finally:
            # Also of one whose owner before said that it waits, and of one that is waited for no longer.
            waiting.goes_on()
        try:
            yield
        finally:
            self._leave(tenant)

    def _fits(self, depth: int, tenant: TenantId) -> bool:
        part = max(1, self._most // _PARTS)
        free = self._most // 2 + depth * part - self._taken.total
        if free <= 0:
            return False
        # The share counts for new trees only: a tree that has begun must be able to end.
        return depth > 1 or self._taken.of(tenant) < _PER_FREE_PLACE * free

    async def _wait(self, depth: int, tenant: TenantId) -> None:
        """Waits for a place; has it when this ends."""
        given = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((depth, tenant), deque()).append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.cancelled():
                self._forget((depth, tenant), given)
            else:
                self._leave(tenant)  # it was given one at the same moment
            raise

    def _leave(self, tenant: TenantId) -> None:
        """Takes a place back, and gives what is free to those that wait, the deepest first."""
        self._taken.add(tenant, -1)
        for depth, whose in sorted(self._waiting, key=lambda key: -key[0]):
            while (depth, whose) in self._waiting and self._fits(depth, whose):
                given = self._waiting[depth, whose][0]
                self._forget((depth, whose), given)
                if not given.cancelled():
                    self._taken.add(whose, 1)
                    given.set_result(None)

    def _forget(self, key: tuple[int, TenantId], given: asyncio.Future[None]) -> None:
        """Removes one that waits, if it still does, and has its tenant wait for its turn."""
        queue = self._waiting.pop(key, deque())
        if given in queue:
            queue.remove(given)
        if queue:
            self._waiting[key] = queue
