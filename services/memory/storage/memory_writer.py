"""Writes memories through asyncpg itself, many callers in one transaction."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from json import dumps
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.memory.domain.errors import MemoryNotFound
from services.memory.domain.memory import Memory, MemoryId, Placement, name_of
from services.memory.storage.one_trips import COLUMNS, REMEMBER
from services.memory.storage.sealed_rows import Row, SealedRows, uuid_of
from services.memory.usecases.ports import Stored
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import KnowsTenants, QuotaExceeded, rules_of
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import driver_scope

_OF_CALL: Final = f"SELECT {COLUMNS} FROM memory WHERE tenant_id = $1 AND call_key = $2"  # noqa: S608  # constants
#: What was never claimed to be embedded has no vector anywhere.
_FORGET: Final = """
    WITH there AS (
        SELECT memory_id, octet_length(payload) AS bytes FROM memory
        WHERE tenant_id = $1 AND memory_id = $2 AND forget_time IS NULL FOR UPDATE
    ), freed AS (
        UPDATE storage_used SET bytes = greatest(0, storage_used.bytes - there.bytes) FROM there WHERE tenant_id = $1
    )
    UPDATE memory
    SET payload = NULL, tags = '{}', vector = NULL, embed_model = NULL, embed_dimensions = NULL, forget_time = $3,
        placement = CASE WHEN placement = 0 OR (placement = 1 AND vector IS NULL AND lease_until IS NULL) THEN 0 ELSE 4
                    END
    WHERE tenant_id = $1 AND memory_id = (SELECT memory_id FROM there)
    RETURNING placement"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRow:
    """A memory on its way into the table."""

    memory: Memory
    payload: bytes
    call_key: bytes
    digest: bytes


class SqlMemoryWriter:
    """Implements `MemoryWriter`. Run its `group` as long as it is used."""

    def __init__(
        self, engine: AsyncEngine, rows: SealedRows, *, tenants: KnowsTenants, max_items: int, max_waiting: int
    ) -> None:
        self._engine = engine
        self._rows = rows
        self._tenants = tenants
        self._group = GroupCommit[NewRow, Stored](
            self._commit, name="memory.remember", max_items=max_items, max_waiting=max_waiting
        )

    @property
    def group(self) -> AbstractAsyncContextManager[object]:
        """Commits what waits while the block runs."""
        return self._group

    async def add(self, memory: Memory, *, call_key: bytes, digest: bytes) -> Stored:
        """See `MemoryWriter.add`."""
        payload = await self._rows.seal(memory)
        return await self._group.submit(NewRow(memory=memory, payload=payload, call_key=call_key, digest=digest))

    async def of_call(self, tenant: TenantId, call_key: bytes) -> Stored | None:
        """See `MemoryWriter.of_call`."""
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            row = await scope.driver.fetchrow(_OF_CALL, tenant, call_key)
        return None if row is None else await self._stored(row)

    async def forget(self, tenant: TenantId, memory: MemoryId, *, now: datetime) -> bool:
        """See `MemoryWriter.forget`."""
        async with driver_scope(self._engine, tenant) as scope:
            await claim_once(scope)
            placement = await scope.driver.fetchval(_FORGET, tenant, memory, now)
            if placement is None:
                if not await scope.driver.fetchval(
                    "SELECT true FROM memory WHERE tenant_id = $1 AND memory_id = $2", tenant, memory
                ):
                    raise MemoryNotFound(name_of(memory))
                return False
            await keep_once(scope, None)
            await scope.commit()
        return placement == Placement.ERASING

    async def _commit(self, batch: Sequence[NewRow]) -> Sequence[Stored | MeshError]:
        # In one order everywhere, so that two replicas with the same calls do not lock each other out.
        new = sorted(batch, key=lambda row: (row.memory.tenant, row.call_key))
        limits = [self._limit(row.memory.tenant) for row in new]
        found = await one_trip(self._engine, {row.memory.tenant for row in new}, REMEMBER, *_arrays(new), limits)
        earlier = {(TenantId(uuid_of(row["tenant_id"])), bytes(row["call_key"])): row for row in found}
        return [await self._outcome(row, earlier.get((row.memory.tenant, row.call_key))) for row in batch]

    def _limit(self, tenant: TenantId) -> int:
        return rules_of(self._tenants, tenant).quotas.max_storage_bytes

    async def _outcome(self, row: NewRow, there: Row | None) -> Stored | MeshError:
        """Gives the new memory, or what the same call stored before it, be it a moment ago in the same batch."""
        if there is None:
            return Stored(memory=row.memory, digest=row.digest)
        if there["memory_id"] is None:
            return QuotaExceeded("max_storage_bytes", limit=self._limit(row.memory.tenant), used=there["used"])
        if uuid_of(there["memory_id"]) == row.memory.id:
            return Stored(memory=row.memory, digest=row.digest)
        return await self._stored(there)

    async def _stored(self, row: Row) -> Stored:
        return Stored(memory=await self._rows.memory(row), digest=bytes(row["request_digest"]))


def _arrays(rows: Sequence[NewRow]) -> list[list[object]]:
    """Turns rows into one array per parameter of the insert."""
    values = [
        (
            row.memory.tenant,
            row.memory.id,
            row.memory.session,
            row.memory.agent,
            dumps(row.memory.tags),
            row.payload,
            row.call_key,
            row.digest,
            row.memory.verdict_id,
            row.memory.created,
            row.memory.expires,
            int(row.memory.placement),
            row.memory.project,
        )
        for row in rows
    ]
    return [list(column) for column in zip(*values, strict=True)]
