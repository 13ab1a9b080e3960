"""Reads memories of one tenant."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.memory.domain.errors import MemoryNotFound
from services.memory.domain.memory import Memory, MemoryId, name_of
from services.memory.storage.one_trips import RING, THERE, THOSE
from services.memory.storage.sealed_rows import SealedRows
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import driver_scope

# Put together from constants alone.
_GET: Final = f"{THERE} AND memory_id = $2"
_NEWEST: Final = "ORDER BY create_time DESC, memory_id DESC LIMIT $2"


class SqlMemoryReader:
    """Implements `MemoryReader`."""

    def __init__(self, engine: AsyncEngine, rows: SealedRows) -> None:
        self._engine = engine
        self._rows = rows

    async def get(self, tenant: TenantId, memory: MemoryId) -> Memory:
        """See `MemoryReader.get`."""
        found = await self._fetch(tenant, _GET, memory)
        if not found:
            raise MemoryNotFound(name_of(memory))
        return found[0]

    async def ring(self, tenant: TenantId, session: UUID, *, now: datetime, most: int) -> Sequence[Memory]:
        """See `MemoryReader.ring`."""
        return await self._rows.memories(await one_trip(self._engine, tenant, RING, tenant, session, now, most))

    async def those_of(self, tenant: TenantId, memories: Collection[MemoryId], *, agent: str) -> Sequence[Memory]:
        """See `MemoryReader.those_of`."""
        return await self._rows.memories(await one_trip(self._engine, tenant, THOSE, tenant, list(memories), agent))

    async def page(
        self,
        tenant: TenantId,
        *,
        size: int,
        after: tuple[datetime, UUID] | None,
        session: UUID | None,
        agent: str,
    ) -> Sequence[Memory]:
        """See `MemoryReader.page`."""
        values: list[Any] = [size]
        query = THERE
        if after is not None:
            query += f" AND (create_time, memory_id) < (${len(values) + 2}, ${len(values) + 3})"
            values += after
        if session is not None:
            query += f" AND session_id = ${len(values) + 2}"
            values.append(session)
        if agent:
            query += f" AND agent_name = ${len(values) + 2}"
            values.append(agent)
        return await self._fetch(tenant, f"{query} {_NEWEST}", *values)

    async def _fetch(self, tenant: TenantId, query: str, *values: object) -> list[Memory]:
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            rows = await scope.driver.fetch(query, tenant, *values)
        return await self._rows.memories(rows)
