"""The memories that wait to be embedded, and what their vectors are recorded as."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.memory.domain.memory import Memory, MemoryId, Placement
from services.memory.domain.vector import Embedding, Space
from services.memory.storage.one_trips import CLAIM, RECORD
from services.memory.storage.sealed_rows import SealedRows, uuid_of
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import driver_scope

_GIVE_BACK: Final = """
    UPDATE memory SET lease_until = now() - interval '1 microsecond'
    WHERE tenant_id = $1 AND memory_id = ANY($2::uuid[]) AND placement = 1"""
_OUTDATE: Final = """
    UPDATE memory SET placement = 1, lease_until = NULL
    WHERE tenant_id = $1 AND placement IN (2, 3) AND (embed_model, embed_dimensions) <> ($2, $3)"""
_HAS_PLACED: Final = """
    SELECT true FROM memory
    WHERE tenant_id = $1 AND placement = 3 AND embed_model = $2 AND embed_dimensions = $3 LIMIT 1"""


class SqlEmbedWork:
    """Implements `EmbedWork`.

    Args:
        lease: how long a claimed memory is nobody else's; after a crash it waits so long.
    """

    def __init__(self, engine: AsyncEngine, rows: SealedRows, *, lease: timedelta) -> None:
        self._engine = engine
        self._rows = rows
        self._lease = lease

    async def claim(self, tenant: TenantId, *, project: str | None, most: int) -> Sequence[Memory]:
        """See `EmbedWork.claim`."""
        claimed = await one_trip(self._engine, tenant, CLAIM, tenant, most, self._lease, project)
        return await self._rows.memories(claimed)

    async def give_back(self, tenant: TenantId, memories: Collection[MemoryId]) -> None:
        """See `EmbedWork.give_back`."""
        async with driver_scope(self._engine, tenant) as scope:
            await scope.driver.execute(_GIVE_BACK, tenant, list(memories))
            await scope.commit()

    async def record(
        self, tenant: TenantId, embeddings: Sequence[tuple[MemoryId, Embedding]], placement: Placement
    ) -> Collection[MemoryId]:
        """See `EmbedWork.record`."""
        space = embeddings[0][1].space
        sealed = await self._rows.seal_vectors(tenant, embeddings)
        ids = [memory for memory, _ in embeddings]
        rows = await one_trip(
            self._engine, tenant, RECORD, tenant, ids, sealed, space.model, space.dimensions, int(placement)
        )
        return {MemoryId(uuid_of(row["memory_id"])) for row in rows}

    async def outdate(self, tenant: TenantId, space: Space) -> int:
        """See `EmbedWork.outdate`."""
        async with driver_scope(self._engine, tenant) as scope:
            done = await scope.driver.execute(_OUTDATE, tenant, space.model, space.dimensions)
            await scope.commit()
        return int(done.rpartition(" ")[2])

    async def has_placed(self, tenant: TenantId, space: Space) -> bool:
        """See `EmbedWork.has_placed`."""
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            return bool(await scope.driver.fetchval(_HAS_PLACED, tenant, space.model, space.dimensions))
