"""The memories that wait to be embedded, and what their vectors are recorded as."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.memory.domain.memory import Memory, MemoryId, Placement
from services.memory.domain.vector import Embedding, Space
from services.memory.storage.sealed_rows import COLUMNS, SealedRows, uuid_of
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import driver_scope

_CLAIM: Final = f"""
    UPDATE memory SET lease_until = now() + $3::interval
    WHERE tenant_id = $1 AND memory_id IN (
        SELECT memory_id FROM memory
        WHERE tenant_id = $1 AND placement = 1 AND (lease_until IS NULL OR lease_until < now())
        ORDER BY memory_id LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING {COLUMNS}"""  # noqa: S608  # constants
_GIVE_BACK: Final = """
    UPDATE memory SET lease_until = now() - interval '1 microsecond'
    WHERE tenant_id = $1 AND memory_id = ANY($2::uuid[]) AND placement = 1"""
_RECORD: Final = """
    UPDATE memory
    SET vector = made.vector, embed_model = $4, embed_dimensions = $5, placement = $6, lease_until = NULL
    FROM unnest($2::uuid[], $3::bytea[]) AS made (memory_id, vector)
    WHERE memory.tenant_id = $1 AND memory.memory_id = made.memory_id AND memory.forget_time IS NULL
    RETURNING memory.memory_id"""
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

    async def claim(self, tenant: TenantId, *, most: int) -> Sequence[Memory]:
        """See `EmbedWork.claim`."""
        async with driver_scope(self._engine, tenant) as scope:
            rows = await scope.driver.fetch(_CLAIM, tenant, most, self._lease)
            await scope.commit()
        return await self._rows.memories(rows)

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
        async with driver_scope(self._engine, tenant) as scope:
            rows = await scope.driver.fetch(
                _RECORD,
                tenant,
                [memory for memory, _ in embeddings],
                sealed,
                space.model,
                space.dimensions,
                int(placement),
            )
            await scope.commit()
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
