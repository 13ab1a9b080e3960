"""What the vector store lacks or should not have, over all tenants: background work of the maintenance role."""

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space
from services.memory.storage.sealed_rows import SealedRows, space_of, uuid_of
from services.memory.usecases.ports import RecordedVector
from services.meshkit.sql.scope import driver_scope

_RECORDED: Final = """
    SELECT tenant_id, memory_id, project, agent_name, vector, embed_model, embed_dimensions FROM memory
    WHERE placement = 2 ORDER BY memory_id LIMIT $1"""
_PLACED: Final = """
    UPDATE memory SET placement = 3
    FROM unnest($1::uuid[], $2::uuid[]) AS done (tenant_id, memory_id)
    WHERE memory.tenant_id = done.tenant_id AND memory.memory_id = done.memory_id AND placement = 2
    RETURNING memory.memory_id"""
#: Their keys were destroyed: nothing can place them again.
_LOST: Final = """
    UPDATE memory SET placement = 0, vector = NULL, embed_model = NULL, embed_dimensions = NULL
    WHERE placement = 2 AND memory_id = ANY($1::uuid[])"""
_ERASING: Final = "SELECT memory_id FROM memory WHERE placement = 4 ORDER BY memory_id LIMIT $1"
_ERASED: Final = "UPDATE memory SET placement = 0 WHERE placement = 4 AND memory_id = ANY($1::uuid[])"
_SPACES: Final = """
    SELECT embed_model, embed_dimensions, count(*) AS rows FROM memory
    WHERE placement = 3 GROUP BY embed_model, embed_dimensions ORDER BY rows DESC LIMIT 100"""
_DISPLACE: Final = "UPDATE memory SET placement = 2 WHERE placement = 3 AND embed_model = $1 AND embed_dimensions = $2"


class SqlPlacementWork:
    """Implements `PlacementWork`.

    Args:
        engine: of the `maintenance` role.
    """

    def __init__(self, engine: AsyncEngine, rows: SealedRows) -> None:
        self._engine = engine
        self._rows = rows

    async def recorded(self, *, most: int) -> Sequence[RecordedVector]:
        """See `PlacementWork.recorded`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_RECORDED, most)
        opened, lost = await self._rows.vectors(rows)
        if lost:
            await self._execute(_LOST, lost)
        return opened

    async def placed(self, vectors: Sequence[RecordedVector]) -> Collection[MemoryId]:
        """See `PlacementWork.placed`."""
        tenants = [vector.placed.tenant for vector in vectors]
        memories = [vector.placed.memory for vector in vectors]
        async with driver_scope(self._engine, None) as scope:
            rows = await scope.driver.fetch(_PLACED, tenants, memories)
            await scope.commit()
        return {MemoryId(uuid_of(row["memory_id"])) for row in rows}

    async def erasing(self, *, most: int) -> Sequence[MemoryId]:
        """See `PlacementWork.erasing`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_ERASING, most)
        return [MemoryId(uuid_of(row["memory_id"])) for row in rows]

    async def erased(self, memories: Collection[MemoryId]) -> None:
        """See `PlacementWork.erased`."""
        await self._execute(_ERASED, list(memories))

    async def spaces(self) -> Sequence[tuple[Space, int]]:
        """See `PlacementWork.spaces`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_SPACES)
        return [(space_of(row), row["rows"]) for row in rows]

    async def displace(self, space: Space) -> int:
        """See `PlacementWork.displace`."""
        return await self._execute(_DISPLACE, space.model, space.dimensions)

    async def _execute(self, statement: str, *values: object) -> int:
        async with driver_scope(self._engine, None) as scope:
            done = await scope.driver.execute(statement, *values)
            await scope.commit()
        return int(done.rpartition(" ")[2])
