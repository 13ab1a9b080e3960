"""Deletes runs: their rows in one transaction each, then what lies of them in the object store."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.blobs.store import BlobStore, BlobStoreAway
from services.meshkit.core.audit import mesh_acts
from services.meshkit.core.failpoints import failpoint
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.sql.scope import driver_scope
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.sub_run_id import ids_of_tree
from services.orchestrator.engine.journal import JournalCodec, blob_name
from services.orchestrator.engine.run import RunKind, parent_of
from services.orchestrator.storage.advisory_locks import DELETIONS_LOCK
from services.orchestrator.storage.run_archive import part_name
from services.orchestrator.usecases.delete_runs import AnotherDeletes, KeptRun

_OLD_AT_ONCE: Final = 64
#: Sub-runs have ids of version 8.
_OLD: Final = """
    SELECT run_id FROM run
    WHERE tenant_id = $1 AND state IN (5, 6, 7) AND run_id < journal_first_id($2::timestamptz AT TIME ZONE 'UTC')
        AND ($3::uuid IS NULL OR run_id > $3) AND get_byte(uuid_send(run_id), 6) >> 4 <> 8
    ORDER BY run_id LIMIT $4"""
_LOOK: Final = "SELECT kind, view, state IN (5, 6, 7) AS ended FROM run WHERE tenant_id = $1 AND run_id = $2"
_BELOW: Final = "SELECT run_id FROM run WHERE tenant_id = $1 AND run_id BETWEEN $2 AND $3 ORDER BY run_id"
#: All of it or nothing. Replicas do not wait for each other: whoever does not get the lock leaves it to the other.
_DELETE: Final = f"""
    WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({DELETIONS_LOCK}, 0) AS mine),
    gone AS (
        DELETE FROM run USING turn
        WHERE turn.mine AND run.tenant_id = $1 AND run.run_id = $2 AND run.state IN (5, 6, 7)
        RETURNING run.archive_parts),
    facts AS (
        DELETE FROM journal WHERE run_id = $2 AND EXISTS (SELECT FROM gone) RETURNING octet_length(payload) AS bytes),
    blobs AS (
        DELETE FROM journal_blob WHERE run_id = $2 AND EXISTS (SELECT FROM gone) RETURNING digest, bytes),
    turns AS (DELETE FROM turn_place WHERE run_id = $2 AND EXISTS (SELECT FROM gone)),
    commands AS (DELETE FROM run_command WHERE run_id = $2 AND EXISTS (SELECT FROM gone)),
    taken AS (
        SELECT sum(bytes)::bigint AS bytes FROM (SELECT bytes FROM facts UNION ALL SELECT bytes FROM blobs) AS lay),
    freed AS (
        INSERT INTO storage_used (tenant_id, slot, bytes) SELECT $1, -1, -taken.bytes FROM taken WHERE taken.bytes > 0
        ON CONFLICT (tenant_id, slot) DO UPDATE SET bytes = storage_used.bytes + excluded.bytes)
    SELECT turn.mine, EXISTS (SELECT FROM gone) AS gone, coalesce((SELECT archive_parts FROM gone), 0) AS parts,
        ARRAY(SELECT digest FROM blobs) AS digests
    FROM turn"""  # noqa: S608  # a constant of ours

log = logger(__name__)


class SqlRunDeletions:
    """Implements `usecases.delete_runs.Deletions`.

    Between the two steps of a deletion a crash leaves objects that nothing names: the sweep deletes those.

    Args:
        app: writes audit entries.
        maintenance: engine of the `maintenance` role.
    """

    def __init__(self, *, app: AsyncEngine, maintenance: AsyncEngine, codec: JournalCodec, objects: BlobStore) -> None:
        self._app = app
        self._maintenance = maintenance
        self._codec = codec
        self._objects = objects

    async def old(self, tenant: TenantId, until: datetime, *, after: str | None) -> Sequence[str]:
        """See `Deletions.old`."""
        last = None if after is None else to_uuid(after, "run")
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_OLD, tenant, until, last, _OLD_AT_ONCE)
        return [from_uuid("run", row["run_id"]) for row in rows]

    async def look(self, tenant: TenantId, run_id: str) -> KeptRun | None:
        """See `Deletions.look`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            row = await scope.driver.fetchrow(_LOOK, tenant, to_uuid(run_id, "run"))
        if row is None:
            return None
        view = await self._codec.open_view(tenant, run_id, row["view"], RunKind(row["kind"]))
        ended = row["ended"] and view.HasField("end_time")
        return KeptRun(
            run_id=run_id,
            parent_run_id=parent_of(view),
            end_time=view.end_time.ToDatetime(tzinfo=UTC) if ended else None,
        )

    async def maybe_below(self, tenant: TenantId, run_id: str) -> Sequence[str]:
        """See `Deletions.maybe_below`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_BELOW, tenant, *ids_of_tree(run_id))
        return [from_uuid("run", row["run_id"]) for row in rows]

    async def delete(self, tenant: TenantId, run_id: str) -> bool:
        """See `Deletions.delete`."""
        async with driver_scope(self._maintenance, None) as scope:
            row = await scope.driver.fetchrow(_DELETE, tenant, to_uuid(run_id, "run"))
            if row is None or not row["mine"]:
                raise AnotherDeletes
            await scope.commit()
        if not row["gone"]:
            return False
        await failpoint("orchestrator.after_run_deleted")
        parts = [part_name(tenant, run_id, part) for part in range(row["parts"])]
        try:
            await self._objects.delete([*parts, *(blob_name(tenant, run_id, digest) for digest in row["digests"])])
        except BlobStoreAway as error:
            log.warning("objects of a deleted run are left to the sweep", run_id=run_id, cause=error.message)
        return True

    async def note(self, tenant: TenantId, runs: int) -> None:
        """See `Deletions.note`."""
        name = from_uuid("tenant", tenant)
        with mesh_acts("orchestrator", tenant, action="runs.delete", target=name, details={"runs": runs}):
            async with driver_scope(self._app, tenant) as scope:
                await scope.commit()
