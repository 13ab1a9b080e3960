"""Forgets one memory, in the table at once and in the vector store as soon as it answers."""

import asyncio
from collections.abc import Callable
from typing import Final

from services.memory.domain.memory import MemoryId, name_of
from services.memory.usecases.ports import MemoryWriter, PlacementWork, VectorStore
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger

#: How long a caller waits for the vector store; it goes on without it.
_SECONDS: Final = 2.0

log = logger(__name__)


class ForgetMemory:
    """Erases the row's content first: from then on the vector finds nothing. Then deletes the vector.

    Args:
        sweep: told that a vector could not be deleted and waits to be.
    """

    def __init__(
        self,
        *,
        memories: MemoryWriter,
        placements: PlacementWork,
        vectors: VectorStore,
        sweep: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._memories = memories
        self._placements = placements
        self._vectors = vectors
        self._sweep = sweep
        self._clock = clock

    async def __call__(self, tenant: TenantId, memory: MemoryId) -> None:
        """Forgets; again is as good as once. Raises: MemoryNotFound."""
        note(target=name_of(memory))
        if not await self._memories.forget(tenant, memory, now=self._clock.now()):
            return
        try:
            async with asyncio.timeout(_SECONDS):
                await self._vectors.delete((memory,))
                await self._placements.erased((memory,))
        except (MeshError, TimeoutError) as error:
            log.info("the vector of a forgotten memory waits to be deleted", error=repr(error))
            self._sweep()
