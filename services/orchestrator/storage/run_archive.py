"""The archive of runs: their files in the object store, sealed in parts, and the way there out of the journal.

archive/<tenant>/<run>/<part>         a piece of the file that ExportRun gives
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.blobs.store import BlobStore
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.scope import driver_scope

#: Below it lie the files.
ARCHIVE: Final = "archive/"
_DUE_AT_ONCE: Final = 64
#: Tenants are found one after the other by the index, so that each has its turn in every round.
_DUE: Final = """
    WITH RECURSIVE having_runs (tenant_id) AS (
        (SELECT tenant_id FROM run WHERE state IN (5, 6, 7) AND archive_parts IS NULL
            AND ($6::uuid IS NULL OR tenant_id > $6) ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT run.tenant_id FROM run WHERE state IN (5, 6, 7) AND archive_parts IS NULL
                AND run.tenant_id > before.tenant_id ORDER BY run.tenant_id LIMIT 1)
        FROM having_runs AS before WHERE before.tenant_id IS NOT NULL)
    SELECT due.tenant_id, due.run_id FROM having_runs
    LEFT JOIN unnest($1::uuid[], $2::timestamptz[]) AS own (tenant_id, until) USING (tenant_id)
    CROSS JOIN LATERAL (
        SELECT run.tenant_id, run.run_id FROM run
        WHERE run.tenant_id = having_runs.tenant_id AND run.tenant_id <> ALL($7::uuid[])
            AND state IN (5, 6, 7) AND archive_parts IS NULL
            AND run.run_id < journal_first_id(coalesce(own.until, $3) AT TIME ZONE 'UTC')
            AND run.run_id <> ALL($5::uuid[])
            AND (SELECT record_time FROM journal WHERE journal.run_id = run.run_id
                 ORDER BY first_sequence DESC LIMIT 1) < coalesce(own.until, $3)
        ORDER BY run.run_id LIMIT $4) AS due
    LIMIT $4"""
_MARK: Final = """
    UPDATE run SET archive_parts = $2 WHERE run_id = $1 AND state IN (5, 6, 7) AND archive_parts IS NULL
    RETURNING tenant_id"""
_TAKE_OUT: Final = """
    WITH gone AS (DELETE FROM journal WHERE run_id = $1 RETURNING entry_count, octet_length(payload) AS bytes)
    SELECT coalesce(sum(entry_count), 0)::bigint AS facts, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone"""
_TAKE_OUT_NAMES: Final = """
    WITH gone AS (DELETE FROM journal_blob WHERE run_id = $1 RETURNING bytes)
    SELECT coalesce(sum(bytes), 0)::bigint FROM gone"""
_FREE: Final = """
    INSERT INTO storage_used (tenant_id, slot, bytes) VALUES ($1, -1, -$2::bigint)
    ON CONFLICT (tenant_id, slot) DO UPDATE SET bytes = storage_used.bytes + excluded.bytes"""


class ArchiveIncomplete(Internal):
    """What was written to the archive is not all that the journal holds. Nothing was taken out of it."""


class SqlRunArchive:
    """Implements `usecases.archive_runs.Archive`.

    Args:
        maintenance: engine of the `maintenance` role.
        at_once: runs that `due` gives.
    """

    def __init__(
        self, *, maintenance: AsyncEngine, keys: KeyRing, objects: BlobStore, at_once: int = _DUE_AT_ONCE
    ) -> None:
        self._at_once = at_once
        self._maintenance = maintenance
        self._keys = keys
        self._objects = objects

    async def due(
        self,
        until: datetime,
        own: Mapping[TenantId, datetime],
        *,
        after: TenantId | None,
        but: Collection[str],
        without: Collection[TenantId],
    ) -> Sequence[tuple[TenantId, str]]:
        """See `Archive.due`."""
        moments = list(own), list(own.values()), until
        left_out = [to_uuid(run_id, "run") for run_id in but]
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_DUE, *moments, self._at_once, left_out, after, list(without))
        return [(TenantId(row["tenant_id"]), from_uuid("run", row["run_id"])) for row in rows]

    async def put(self, tenant: TenantId, run_id: str, part: int, content: bytes) -> None:
        """See `Archive.put`."""
        name = part_name(tenant, run_id, part)
        await self._objects.put(name, await self._keys.seal(tenant, content, aad=name.encode()))

    async def take_out(self, run_id: str, *, parts: int, facts: int) -> bool:
        """See `Archive.take_out`."""
        run = to_uuid(run_id, "run")
        async with driver_scope(self._maintenance, None) as scope:
            tenant = await scope.driver.fetchval(_MARK, run, parts)
            if tenant is None:
                return False
            taken = await scope.driver.fetchrow(_TAKE_OUT, run)
            if taken is None or taken["facts"] != facts:
                found = 0 if taken is None else taken["facts"]
                raise ArchiveIncomplete(f"{facts} facts were archived and the journal has {found}", run_id=run_id)
            await scope.driver.execute("DELETE FROM turn_place WHERE run_id = $1", run)
            # What lies in the object store is in the file, and swept.
            freed: int = await scope.driver.fetchval(_TAKE_OUT_NAMES, run)
            await scope.driver.execute(_FREE, tenant, taken["bytes"] + freed)
            await scope.commit()
        return True

    async def part(self, tenant: TenantId, run_id: str, part: int) -> bytes:
        """Gives a part of a run's file. Raises: BlobStoreAway, BlobMissing, KeyDestroyed, SealBroken."""
        name = part_name(tenant, run_id, part)
        return await self._keys.open(tenant, await self._objects.get(name), aad=name.encode())


def part_name(tenant: TenantId, run_id: str, part: int) -> str:
    """Names a part of a run's file."""
    return f"{archive_of(tenant)}{run_id}/{part:06d}"


def archive_of(tenant: TenantId) -> str:
    """Names the folder of a tenant's archived runs."""
    return f"{ARCHIVE}{from_uuid('tenant', tenant)}/"
