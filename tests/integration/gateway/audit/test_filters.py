"""A page of a long trail costs about what it shows, whatever it is filtered by."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.storage.audit_reader import PAGE, SqlAuditReader
from services.gateway.usecases.audit_ports import EntryFilter
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import driver_scope
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.audit.conftest import administrator

TENANT = TenantId(UUID(int=7))
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ENTRIES = 20_000
#: Of one page.
MOST = 51
#: One entry a second; the rare ones are the oldest, which is the worst place when the newest are shown first.
_FILL = """
    INSERT INTO audit_chain SELECT $1, i, $2::timestamptz + i * interval '1 second',
        CASE WHEN i < 20 THEN 'key_rare' ELSE 'key_' || i % 3 END,
        CASE WHEN i < 20 THEN 'rare.write' ELSE 'agents.write' END,
        CASE WHEN i < 20 THEN 'agent_rare' ELSE 'agent_' || i % 1000 END,
        convert_to('entry ' || i, 'UTF8'), sha256(int8send(i)), sha256(int8send(-i)), ''
    FROM generate_series(0, $3::bigint - 1) AS i"""

FILTERS = {
    "nothing": (EntryFilter(), MOST),
    "actor": (EntryFilter(actor="key_rare"), 20),
    "action": (EntryFilter(action="rare.write"), 20),
    "action that there is not": (EntryFilter(action="agents.delete"), 0),
    "target": (EntryFilter(target="agent_rare"), 20),
    "actor and action": (EntryFilter(actor="key_1", action="rare.write"), 0),
    "the last half minute": (EntryFilter(after_time=BEGIN + timedelta(seconds=ENTRIES - 30)), 30),
    "since the beginning": (EntryFilter(after_time=BEGIN), MOST),
    "the future": (EntryFilter(after_time=BEGIN + timedelta(days=365)), 0),
}


@asynccontextmanager
async def a_long_trail(make_migrated: MakeDatabase, postgres: str) -> AsyncIterator[AsyncEngine]:
    urls = await make_migrated("gateway")
    async with administrator(postgres, urls) as connection:
        await connection.execute(_FILL, TENANT, BEGIN, ENTRIES)
        await connection.execute("ANALYZE audit_chain")
    async with sql_engine(urls.app, pool_size=1) as app:
        yield app


async def test_no_filter_reads_more_than_it_shows(make_migrated: MakeDatabase, postgres: str) -> None:
    async with a_long_trail(make_migrated, postgres) as app:
        reader = SqlAuditReader(app)
        for name, (wanted, found) in FILTERS.items():
            page = await reader.page(TENANT, wanted, before=None, most=MOST)
            assert len(page) == found, name
            assert [one.index for one in page] == sorted((one.index for one in page), reverse=True)
            assert (read := await rows_read(app, wanted)) <= 2 * MOST, f"{name}: {read} rows were read"


async def rows_read(app: AsyncEngine, wanted: EntryFilter) -> int:
    """Counts the rows that Postgres took up for a page."""
    values = (wanted.actor, wanted.action, wanted.target, wanted.after_time)
    async with driver_scope(app, TENANT, read_only=True) as scope:
        plan = await scope.driver.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {PAGE}", TENANT, None, *values, MOST)
    return max(_read(node) for node in _nodes(plan[0]["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)


def _read(node: dict[str, Any]) -> int:
    return int(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * int(node["Actual Loops"])
