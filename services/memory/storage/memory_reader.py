"""Reads memories of one tenant."""

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.memory.domain.errors import MemoryNotFound
from services.memory.domain.memory import Memory, MemoryId, name_of
from services.memory.storage.one_trips import RINGS, THERE, THOSE
from services.memory.storage.sealed_rows import Row, SealedRows
from services.meshkit.batching.dispatcher import BatchDispatcher
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import driver_scope

# Put together from constants alone.
_GET: Final = f"{THERE} AND memory_id = $2"
_PROJECT_OF: Final = "SELECT project FROM memory WHERE tenant_id = $1 AND memory_id = $2"
_NEWEST: Final = "ORDER BY create_time DESC, memory_id DESC LIMIT $2"


#: Rings of one round trip: a ring has at most 50 memories, a memory some 64 KB.
_MOST_RINGS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ring:
    """The latest turns of a session, as they are asked for."""

    tenant: TenantId
    session: UUID
    now: datetime
    most: int
    project: str


class SqlMemoryReader:
    """Implements `MemoryReader`. Run its `rings` as long as it is used."""

    def __init__(self, engine: AsyncEngine, rows: SealedRows) -> None:
        self._engine = engine
        self._rows = rows
        self._rings = BatchDispatcher[_Ring, Sequence[Row]](
            self._read_rings, name="memory.rings", max_items=_MOST_RINGS, workers=2
        )

    @property
    def rings(self) -> AbstractAsyncContextManager[object]:
        """Reads the rings that are asked for at the same time in one round trip, while the block runs."""
        return self._rings

    async def get(self, tenant: TenantId, memory: MemoryId) -> Memory:
        """See `MemoryReader.get`."""
        found = await self._fetch(tenant, _GET, memory)
        if not found:
            raise MemoryNotFound(name_of(memory))
        return found[0]

    async def project_of(self, tenant: TenantId, memory: MemoryId) -> str:
        """See `MemoryReader.project_of`."""
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            project: str | None = await scope.driver.fetchval(_PROJECT_OF, tenant, memory)
        if project is None:
            raise MemoryNotFound(name_of(memory))
        return project

    async def ring(
        self, tenant: TenantId, session: UUID, *, project: str, now: datetime, most: int
    ) -> Sequence[Memory]:
        """See `MemoryReader.ring`."""
        asked = _Ring(tenant=tenant, session=session, now=now, most=most, project=project)
        # Opened out here: a row that does not open fails its own caller only.
        return await self._rows.memories(await self._rings.call(asked))

    async def those_of(
        self, tenant: TenantId, memories: Collection[MemoryId], *, project: str, agent: str
    ) -> Sequence[Memory]:
        """See `MemoryReader.those_of`."""
        found = await one_trip(self._engine, tenant, THOSE, tenant, list(memories), agent, project)
        return await self._rows.memories(found)

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

    async def _read_rings(self, batch: Sequence[_Ring]) -> Sequence[Sequence[Row]]:
        tenants = [ring.tenant for ring in batch]
        columns = (
            [ring.session for ring in batch],
            [ring.now for ring in batch],
            [ring.most for ring in batch],
            [ring.project for ring in batch],
        )
        found: list[list[Row]] = [[] for _ in batch]
        for row in await one_trip(self._engine, set(tenants), RINGS, tenants, *columns):
            place: int = row["place"]
            found[place - 1].append(row)
        return found

    async def _fetch(self, tenant: TenantId, query: str, *values: object) -> list[Memory]:
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            rows = await scope.driver.fetch(query, tenant, *values)
        return await self._rows.memories(rows)
