"""Signs for and archives the chains of all tenants, as role `maintenance`."""

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from comitia_sdk.audit.head import Head
from services.gateway.domain.audit_entry import ChainedEntry
from services.gateway.domain.audit_stream import KnownBreak
from services.gateway.storage.audit_gaps import ACKNOWLEDGED, BREAKS, break_of
from services.gateway.storage.audit_intake import tree_of
from services.gateway.usecases.audit_ports import Archivable, ArchivePart, BreakCounts, Unsigned
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import DriverScope, driver_scope

#: One gateway signs at a time.
_SEAL_LOCK: Final = 0x6175_6469_7402

_LOCK: Final = "SELECT pg_advisory_xact_lock($1)"
_UNSIGNED: Final = """
    SELECT tenant_id, size, chain_hash, peaks FROM audit_tree
    WHERE size > signed_size AND ($1::uuid IS NULL OR tenant_id = $1) AND NOT tenant_id = ANY($2::uuid[])
    ORDER BY tenant_id LIMIT $3"""
_SIGNED: Final = """
    WITH signed AS (SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS given (tenant_id, size, head)),
    kept AS (INSERT INTO audit_head (tenant_id, size, head) SELECT * FROM signed ON CONFLICT DO NOTHING)
    UPDATE audit_tree SET signed_size = signed.size FROM signed WHERE audit_tree.tenant_id = signed.tenant_id"""
_TENANTS: Final = "SELECT tenant_id FROM audit_tree ORDER BY tenant_id"
# Those that nobody has looked into come first, so that no number of old ones hides them.
_BREAKS: Final = f"{BREAKS} ORDER BY given.actor IS NOT NULL, notice_time LIMIT $1"
_COUNTS: Final = f"""
    SELECT count(*) FILTER (WHERE known) AS acknowledged, count(*) FILTER (WHERE NOT known) AS unknown
    FROM (SELECT EXISTS ({ACKNOWLEDGED}) AS known FROM audit_break) AS found"""  # noqa: S608  # constants
_OLDEST: Final = """
    SELECT tree.tenant_id, tree.archived_size, tree.signed_size FROM audit_tree AS tree
    JOIN audit_chain AS oldest ON oldest.tenant_id = tree.tenant_id AND oldest.index = tree.archived_size
    WHERE tree.archived_size < tree.signed_size AND oldest.record_time < $1 LIMIT 1"""
_OLD: Final = """
    SELECT index, canonical, leaf_hash, chain_hash, record_time < $4 AS old FROM audit_chain
    WHERE tenant_id = $1 AND index >= $2 AND index < $3 ORDER BY index"""
_ARCHIVE: Final = """
    INSERT INTO audit_archive (tenant_id, first_index, end_index) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"""
_EMPTY: Final = """
    UPDATE audit_chain SET canonical = NULL, actor = NULL, action = NULL, target = NULL
    WHERE tenant_id = $1 AND index >= $2 AND index < $3"""
_ARCHIVED: Final = "UPDATE audit_tree SET archived_size = greatest(archived_size, $2) WHERE tenant_id = $1"


class SqlAuditTrails:
    """Implements `usecases.audit_ports.AuditTrails`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    @asynccontextmanager
    async def seal(self) -> AsyncGenerator["SqlSealing"]:
        """See `AuditTrails.seal`."""
        async with driver_scope(self._engine, None) as scope:
            await scope.driver.execute(_LOCK, _SEAL_LOCK)
            yield SqlSealing(scope)

    async def tenants(self) -> list[TenantId]:
        """See `AuditTrails.tenants`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            return [TenantId(row["tenant_id"]) for row in await scope.driver.fetch(_TENANTS)]

    async def breaks(self, *, most: int) -> list[KnownBreak]:
        """See `AuditTrails.breaks`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_BREAKS, most)
        return [break_of(row) for row in rows]

    async def count_breaks(self) -> BreakCounts:
        """See `AuditTrails.count_breaks`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            ((acknowledged, unknown),) = await scope.driver.fetch(_COUNTS)
        return BreakCounts(open=unknown, acknowledged=acknowledged)

    async def archivable(self, before: datetime, *, most: int) -> Archivable | None:
        """See `AuditTrails.archivable`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            oldest = await scope.driver.fetchrow(_OLDEST, before)
            if oldest is None:
                return None
            first, signed = oldest["archived_size"], oldest["signed_size"]
            end = min(first + most, signed)
            rows = await scope.driver.fetch(_OLD, oldest["tenant_id"], first, end, before)
        entries: list[ChainedEntry] = []
        for row in rows:
            if not row["old"]:
                break
            entries.append(
                ChainedEntry(
                    index=row["index"],
                    canonical=row["canonical"],
                    leaf_hash=row["leaf_hash"],
                    chain_hash=row["chain_hash"],
                )
            )
        tenant = TenantId(oldest["tenant_id"])
        return Archivable(part=ArchivePart(tenant=tenant, first=first, end=first + len(entries)), entries=entries)

    async def archived(self, part: ArchivePart) -> None:
        """See `AuditTrails.archived`."""
        async with driver_scope(self._engine, None) as scope:
            for statement in (_ARCHIVE, _EMPTY):
                await scope.driver.execute(statement, part.tenant, part.first, part.end)
            await scope.driver.execute(_ARCHIVED, part.tenant, part.end)
            await scope.commit()


class SqlSealing:
    """Implements `usecases.audit_ports.Sealing`."""

    def __init__(self, scope: DriverScope) -> None:
        self._scope = scope

    async def unsigned(self, tenant: TenantId | None, *, without: Collection[TenantId], most: int) -> list[Unsigned]:
        """See `Sealing.unsigned`."""
        rows = await self._scope.driver.fetch(_UNSIGNED, tenant, list(without), most)
        return [
            Unsigned(
                tenant=TenantId(row["tenant_id"]), tree=tree_of(row["size"], row["peaks"]), chain_hash=row["chain_hash"]
            )
            for row in rows
        ]

    async def signed(self, heads: Mapping[TenantId, Head]) -> None:
        """See `Sealing.signed`."""
        sizes, texts = [head.size for head in heads.values()], [head.to_json() for head in heads.values()]
        await self._scope.driver.execute(_SIGNED, list(heads), sizes, texts)

    async def commit(self) -> None:
        """See `Sealing.commit`."""
        await self._scope.commit()
