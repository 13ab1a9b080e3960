"""Reads the audit trail of one tenant, as role `app` under row-level security."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from comitia_sdk.audit.head import Head
from comitia_sdk.audit.merkle import Place
from services.gateway.domain.audit_entry import ChainedEntry
from services.gateway.usecases.audit_ports import ArchivePart, EntryFilter, StoredLink
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import driver_scope

_HASH_BYTES: Final = 32

_SIZE: Final = "SELECT size FROM audit_tree WHERE tenant_id = $1"
_CHAIN_HASH: Final = "SELECT chain_hash FROM audit_chain WHERE tenant_id = $1 AND index = $2"
#: Planned anew for each filter, as `sql_engine` says, so each has its index: a page reads about what it shows.
PAGE: Final = """
    SELECT index, canonical, leaf_hash, chain_hash FROM audit_chain
    WHERE tenant_id = $1 AND canonical IS NOT NULL AND ($2::bigint IS NULL OR index < $2)
      AND ($3::text IS NULL OR actor = $3) AND ($4::text IS NULL OR action = $4) AND ($5::text IS NULL OR target = $5)
      AND ($6::timestamptz IS NULL OR record_time >= $6)
    ORDER BY index DESC LIMIT $7"""
_STRETCH: Final = """
    SELECT index, canonical, leaf_hash, chain_hash FROM audit_chain
    WHERE tenant_id = $1 AND index >= $2 AND index < $3 AND canonical IS NOT NULL ORDER BY index"""
_LINKS: Final = """
    SELECT index, canonical, leaf_hash, chain_hash, subtrees FROM audit_chain
    WHERE tenant_id = $1 AND index >= $2 AND index < $3 ORDER BY index"""
_PARTS: Final = """
    SELECT first_index, end_index FROM audit_archive
    WHERE tenant_id = $1 AND end_index > $2 AND first_index < $3 ORDER BY first_index"""
_HASHES: Final = "SELECT index, leaf_hash, subtrees FROM audit_chain WHERE tenant_id = $1 AND index = ANY($2::bigint[])"
_NEWEST_HEAD: Final = "SELECT head FROM audit_head WHERE tenant_id = $1 AND size > $2 ORDER BY size DESC LIMIT 1"
_HEAD: Final = "SELECT head FROM audit_head WHERE tenant_id = $1 AND size = $2"
_HEADS: Final = "SELECT head FROM audit_head WHERE tenant_id = $1 AND size > $2 ORDER BY size LIMIT $3"


class SqlAuditReader:
    """Implements `usecases.audit_ports.AuditReader`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def size(self, tenant: TenantId) -> int:
        """See `AuditReader.size`."""
        return int(await self._value(tenant, _SIZE) or 0)

    async def chain_hash(self, tenant: TenantId, index: int) -> bytes | None:
        """See `AuditReader.chain_hash`."""
        return await self._value(tenant, _CHAIN_HASH, index)

    async def page(self, tenant: TenantId, wanted: EntryFilter, *, before: int | None, most: int) -> list[ChainedEntry]:
        """See `AuditReader.page`."""
        values = (before, wanted.actor, wanted.action, wanted.target, wanted.after_time, most)
        return [_entry(row) for row in await self._rows(tenant, PAGE, *values)]

    async def stretch(self, tenant: TenantId, first: int, end: int) -> list[ChainedEntry]:
        """See `AuditReader.stretch`."""
        return [_entry(row) for row in await self._rows(tenant, _STRETCH, first, end)]

    async def links(self, tenant: TenantId, first: int, end: int) -> list[StoredLink]:
        """See `AuditReader.links`."""
        return [StoredLink(**dict(row)) for row in await self._rows(tenant, _LINKS, first, end)]

    async def archive_parts(self, tenant: TenantId, first: int, end: int) -> list[ArchivePart]:
        """See `AuditReader.archive_parts`."""
        rows = await self._rows(tenant, _PARTS, first, end)
        return [ArchivePart(tenant=tenant, first=row["first_index"], end=row["end_index"]) for row in rows]

    async def hashes(self, tenant: TenantId, places: Iterable[Place]) -> dict[Place, bytes]:
        """See `AuditReader.hashes`: the hash of a subtree lies with its last leaf."""
        last_leaf = {place: ((place.number + 1) << place.level) - 1 for place in places}
        rows = await self._rows(tenant, _HASHES, list(set(last_leaf.values())))
        by_index = {row["index"]: row["leaf_hash"] + row["subtrees"] for row in rows}
        return {
            place: by_index[index][place.level * _HASH_BYTES : (place.level + 1) * _HASH_BYTES]
            for place, index in last_leaf.items()
            if index in by_index
        }

    async def newest_head(self, tenant: TenantId, *, covering: int = 0) -> Head | None:
        """See `AuditReader.newest_head`."""
        return _head(await self._value(tenant, _NEWEST_HEAD, covering))

    async def head(self, tenant: TenantId, size: int) -> Head | None:
        """See `AuditReader.head`."""
        return _head(await self._value(tenant, _HEAD, size))

    async def heads(self, tenant: TenantId, *, above: int, most: int) -> list[Head]:
        """See `AuditReader.heads`."""
        return [Head.from_json(row["head"]) for row in await self._rows(tenant, _HEADS, above, most)]

    async def _rows(self, tenant: TenantId, statement: str, *values: object) -> list[Any]:
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            return await scope.driver.fetch(statement, tenant, *values)

    async def _value(self, tenant: TenantId, statement: str, *values: object) -> Any:
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            return await scope.driver.fetchval(statement, tenant, *values)


def _entry(row: Mapping[str, Any]) -> ChainedEntry:
    return ChainedEntry(
        index=row["index"], canonical=row["canonical"], leaf_hash=row["leaf_hash"], chain_hash=row["chain_hash"]
    )


def _head(text: bytes | None) -> Head | None:
    return None if text is None else Head.from_json(text)
