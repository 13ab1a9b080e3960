"""Chains what services wrote."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia_sdk.audit.merkle import Tree
from services.gateway.domain.audit_entry import ChainEnd, FedEntry, Link
from services.gateway.domain.audit_stream import Cursor
from services.gateway.storage.audit_gaps import ACKNOWLEDGED
from services.gateway.usecases.audit_ports import Advance
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import PreambleConnection
from services.meshkit.sql.scope import driver_scope

#: One gateway chains at a time; the others wait for a few milliseconds.
_CHAIN_LOCK: Final = 0x6175_6469_7401
_HASH_BYTES: Final = 32

_LOCK: Final = "SELECT pg_advisory_xact_lock($1)"
_CURSORS: Final = "SELECT service, stream, position, leaf_hash, again FROM audit_cursor"
_CURSORS_OF: Final = "SELECT stream, position, leaf_hash, again FROM audit_cursor WHERE service = $1"
_ENDS: Final = "SELECT tenant_id, size, chain_hash, peaks FROM audit_tree WHERE tenant_id = ANY($1::uuid[])"
_CHAINED: Final = "SELECT leaf_hash FROM audit_chain WHERE leaf_hash = ANY($1::bytea[])"
_ADD: Final = """
    INSERT INTO audit_chain
        (tenant_id, index, record_time, actor, action, target, canonical, leaf_hash, chain_hash, subtrees)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::bytea[],
                         $8::bytea[], $9::bytea[], $10::bytea[])"""
_MOVE_ENDS: Final = """
    INSERT INTO audit_tree (tenant_id, size, chain_hash, peaks, signed_size, archived_size)
    SELECT t, s, c, p, 0, 0 FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bytea[]) AS moved (t, s, c, p)
    ON CONFLICT (tenant_id) DO UPDATE
       SET size = EXCLUDED.size, chain_hash = EXCLUDED.chain_hash, peaks = EXCLUDED.peaks"""
_MOVE_CURSORS: Final = """
    INSERT INTO audit_cursor (service, stream, position, leaf_hash, again)
    SELECT $1, * FROM unnest($2::integer[], $3::bigint[], $4::bytea[], $5::boolean[])
    ON CONFLICT (service, stream) DO UPDATE
       SET position = EXCLUDED.position, leaf_hash = EXCLUDED.leaf_hash, again = EXCLUDED.again"""
_NOTE_BREAKS: Final = """
    INSERT INTO audit_break (service, stream, position, kind, notice_time)
    SELECT $1, s, p, k, $5 FROM unnest($2::integer[], $3::bigint[], $4::text[]) AS noted (s, p, k)
    ON CONFLICT (service, stream, position, kind) DO UPDATE SET notice_time = EXCLUDED.notice_time"""
_OPEN: Final = f"""
    SELECT service, count(*) AS count FROM audit_break WHERE NOT EXISTS ({ACKNOWLEDGED}) GROUP BY service"""  # noqa: S608  # a constant


class SqlAuditIntake:
    """Implements `usecases.audit_ports.AuditIntake`, as role `maintenance`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def cursors(self) -> dict[str, dict[int, Cursor]]:
        """See `AuditIntake.cursors`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_CURSORS)
        found: dict[str, dict[int, Cursor]] = defaultdict(dict)
        for row in rows:
            found[row["service"]][row["stream"]] = _cursor(row)
        return found

    async def open_breaks(self) -> dict[str, int]:
        """See `AuditIntake.open_breaks`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            return {row["service"]: row["count"] for row in await scope.driver.fetch(_OPEN)}

    async def take(self, service: str, advances: Sequence[Advance], *, now: datetime) -> int:
        """See `AuditIntake.take`."""
        async with driver_scope(self._engine, None) as scope:
            await scope.driver.execute(_LOCK, _CHAIN_LOCK)
            rows = await scope.driver.fetch(_CURSORS_OF, service)
            known = {row["stream"]: _cursor(row) for row in rows}
            moved = [one for one in advances if known.get(one.stream, Cursor()) == one.seen]
            fresh = await _without_chained(scope.driver, moved)
            await _chain(scope.driver, fresh)
            await scope.driver.execute(
                _MOVE_CURSORS,
                service,
                [one.stream for one in moved],
                [one.cursor.position for one in moved],
                [one.cursor.leaf_hash for one in moved],
                [one.cursor.again for one in moved],
            )
            breaks = [one.found for one in moved if one.found is not None]
            if breaks:
                streams, positions = [one.stream for one in breaks], [one.position for one in breaks]
                kinds = [one.kind.value for one in breaks]
                await scope.driver.execute(_NOTE_BREAKS, service, streams, positions, kinds, now)
            await scope.commit()
        return len(fresh)


async def _without_chained(driver: PreambleConnection, moved: Iterable[Advance]) -> list[FedEntry]:
    """Leaves out what streams that are read again bring once more. Rare, so it may look through the whole table."""
    fresh: list[FedEntry] = []
    again: list[FedEntry] = []
    for one in moved:
        (again if one.seen.again else fresh).extend(one.fresh)
    if again:
        rows = await driver.fetch(_CHAINED, [entry.leaf_hash for entry in again])
        chained = {bytes(row["leaf_hash"]) for row in rows}
        fresh.extend(entry for entry in again if entry.leaf_hash not in chained)
    return fresh


async def _chain(driver: PreambleConnection, fresh: Sequence[FedEntry]) -> None:
    if not fresh:
        return
    by_tenant: dict[TenantId, list[FedEntry]] = defaultdict(list)
    for entry in fresh:
        by_tenant[entry.tenant].append(entry)
    ends = await _ends(driver, by_tenant)
    links = [link for tenant, entries in by_tenant.items() for link in ends[tenant].link(entries)]
    await driver.execute(_ADD, *_columns(links))
    await driver.execute(
        _MOVE_ENDS,
        list(ends),
        [end.tree.size for end in ends.values()],
        [end.chain_hash for end in ends.values()],
        [b"".join(end.tree.peaks) for end in ends.values()],
    )


async def _ends(driver: PreambleConnection, tenants: Iterable[TenantId]) -> dict[TenantId, ChainEnd]:
    ends = {tenant: ChainEnd.new() for tenant in tenants}
    for row in await driver.fetch(_ENDS, list(ends)):
        ends[TenantId(row["tenant_id"])] = ChainEnd(tree_of(row["size"], row["peaks"]), row["chain_hash"])
    return ends


def _columns(links: Sequence[Link]) -> tuple[list[UUID], list[Any], *tuple[list[Any], ...]]:
    entries = [link.entry for link in links]
    return (
        [entry.tenant for entry in entries],
        [link.index for link in links],
        [entry.record_time for entry in entries],
        [entry.actor for entry in entries],
        [entry.action for entry in entries],
        [entry.target for entry in entries],
        [entry.canonical for entry in entries],
        [entry.leaf_hash for entry in entries],
        [link.chain_hash for link in links],
        [link.subtrees for link in links],
    )


def tree_of(size: int, peaks: bytes) -> Tree:
    """Reads the right edge of a tree."""
    return Tree(size, [peaks[at : at + _HASH_BYTES] for at in range(0, len(peaks), _HASH_BYTES)])


def _cursor(row: Record) -> Cursor:
    return Cursor(position=row["position"], leaf_hash=row["leaf_hash"], again=row["again"])
