"""How late the log is at its archive, by what Postgres says of it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from prometheus_client import REGISTRY

from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.wal_archive import WalArchive, read_archive
from services.meshkit.telemetry import metrics, names
from services.meshkit.testing.fake_clock import FakeClock
from tests.integration.conftest import MakeDatabase

ENDED_LAST = "pg_walfile_name(pg_current_wal_lsn() - 16777216)"
LONG_AGO, OF_A_LATER_TIMELINE = "'000000010000000000000000'", "'000000F10000000000000000'"
BACKUP, HISTORY = "'000000010000000000000000.00000028.backup'", "'00000002.history'"
RECENTLY, BEFORE = "now() - interval '2 ms'", "now() - interval '1 h'"


@pytest.fixture
async def administrator(postgres: str) -> AsyncIterator[asyncpg.Connection]:
    """Gives a connection to a Postgres that has ended some segments."""
    connection: asyncpg.Connection = await asyncpg.connect(postgres)
    try:
        for _ in range(2):
            await connection.execute("SELECT txid_current(), pg_switch_wal()")
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("archived", "archived_at", "failed_at", "failing", "late"),
    [
        (ENDED_LAST, BEFORE, "null", False, False),
        (ENDED_LAST, RECENTLY, BEFORE, False, False),
        (LONG_AGO, RECENTLY, "null", False, True),
        (OF_A_LATER_TIMELINE, RECENTLY, "null", False, True),
        (ENDED_LAST, BEFORE, RECENTLY, True, True),
        ("null::text", "null::timestamptz", RECENTLY, True, True),
        ("null::text", "null::timestamptz", "null", False, False),
        (BACKUP, BEFORE, "null", False, False),
        (HISTORY, BEFORE, "null", False, False),
    ],
)
async def test_what_waits_or_failed_since_the_last_success_is_late(
    administrator: asyncpg.Connection, archived: str, archived_at: str, failed_at: str, failing: bool, late: bool
) -> None:
    # Postgres looks among temporary views first.
    await administrator.execute(
        f"CREATE TEMP VIEW pg_stat_archiver AS SELECT 7 AS archived_count, {archived} AS last_archived_wal, "
        f"{archived_at} AS last_archived_time, 'it' AS last_failed_wal, ({failed_at})::timestamptz AS last_failed_time"
    )
    state = await read_archive(administrator)
    assert (state.segments, state.failing, state.late_seconds > 0) == (7, failing, late)


async def test_a_server_without_an_archive_is_never_late(make_database: MakeDatabase) -> None:
    urls = await make_database("archived")
    metrics.WAL_ARCHIVE_LATE.set(7)
    async with sql_engine(urls.maintenance, pool_size=1, application_name="archived") as engine:
        await WalArchive(engine, clock=FakeClock()).look()
    assert REGISTRY.get_sample_value(names.WAL_ARCHIVE_LATE_SECONDS) == 0
