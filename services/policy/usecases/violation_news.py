"""Tells watchers of violations when to look: woken by commits here and elsewhere, and by a look now and then."""

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger
from services.policy.domain.errors import TooManyWatches
from services.policy.usecases.ports import ViolationStore, Wakes

log = logger(__name__)


class Watch:
    """One watcher's bell."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._rung.set()  # there may be something already

    def ring(self) -> None:
        """Has the watcher look."""
        self._rung.set()

    async def wait(self) -> None:
        """Waits until there may be something new."""
        await self._rung.wait()
        self._rung.clear()


class ViolationNews:
    """Rings watchers. One query a second for all tenants that are watched here, however many watch."""

    def __init__(
        self, *, store: ViolationStore, wakes: Wakes, clock: Clock, poll_seconds: float = 1.0, most: int = 500
    ) -> None:
        self._store = store
        self._wakes = wakes
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._most = most
        self._watches: dict[TenantId, set[Watch]] = {}
        self._count = 0
        self._heads: dict[TenantId, int] = {}

    @contextmanager
    def watch(self, tenant: TenantId) -> Generator[Watch]:
        """Gives a bell for the block.

        Raises: TooManyWatches.
        """
        if self._count >= self._most:
            raise TooManyWatches(self._most)
        watch = Watch()
        self._watches.setdefault(tenant, set()).add(watch)
        self._count += 1
        try:
            yield watch
        finally:
            self._count -= 1
            watches = self._watches[tenant]
            watches.discard(watch)
            if not watches:
                del self._watches[tenant]
                self._heads.pop(tenant, None)

    def recorded(self, tenants: Iterable[TenantId]) -> None:
        """Rings the watchers of these tenants."""
        for tenant in tenants:
            for watch in self._watches.get(tenant, ()):
                watch.ring()

    async def __call__(self) -> None:
        """Listens and looks until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._look_now_and_then())

    async def _listen(self) -> None:
        async with self._wakes.recorded() as recorded:
            async for tenant in recorded:
                self.recorded((tenant,))

    async def _look_now_and_then(self) -> None:
        while True:
            await self._clock.sleep(self._poll_seconds)
            if not self._watches:
                continue
            try:
                heads = await self._store.heads(tuple(self._watches))
            except MeshError as error:
                log.warning("new violations cannot be seen right now", error=error.message)
                continue
            moved = [tenant for tenant, head in heads.items() if self._heads.get(tenant) != head]
            self._heads = {tenant: head for tenant, head in heads.items() if tenant in self._watches}
            self.recorded(moved)
