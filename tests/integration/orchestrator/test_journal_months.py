"""The journal is divided by month: made ahead, dropped when empty, and nothing is lost on the way there and back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.errors import TransactionConflict
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.sql.scope import driver_scope, maintenance_scope
from services.orchestrator.storage.journal_months import MONTHS_AHEAD, JournalMonths
from tests.integration.conftest import MakeDatabase

PACKAGE: Final = "services.orchestrator"
TENANT: Final = TenantId(uuid4())
NOW: Final = datetime.now(UTC)


@pytest.fixture
async def urls(make_database: MakeDatabase) -> DatabaseUrls:
    made = await make_database("orchestrator")
    await migrate(PACKAGE, made.migrator)
    return made


@pytest.fixture
async def maintenance(urls: DatabaseUrls) -> AsyncIterator[AsyncEngine]:
    async with sql_engine(urls.maintenance) as engine:
        yield engine


def month(ahead: int) -> datetime:
    """Gives the first moment of the present month or one ahead."""
    years, months = divmod(NOW.month - 1 + ahead, 12)
    return datetime(NOW.year + years, months + 1, 1, tzinfo=UTC)


def run_of(moment: datetime) -> UUID:
    """Makes the id of a run that began at a moment."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (uuid4().int >> 48))


async def add(urls: DatabaseUrls, moment: datetime) -> UUID:
    run_id = run_of(moment)
    async with sql_engine(urls.app) as engine, driver_scope(engine, TENANT) as scope:
        await scope.driver.execute(
            "INSERT INTO journal (tenant_id, run_id, first_sequence, entry_count, payload, commitments)"
            " VALUES ($1, $2, 1, 1, 'x', 'y')",
            *(TENANT, run_id),
        )
        await scope.commit()
    return run_id


async def places(maintenance: AsyncEngine) -> dict[UUID, str]:
    """Says in which partition each run lies."""
    async with driver_scope(maintenance, None, read_only=True) as scope:
        rows = await scope.driver.fetch("SELECT run_id, tableoid::regclass::text AS place FROM journal")
    return {row["run_id"]: row["place"] for row in rows}


async def partitions(maintenance: AsyncEngine) -> set[str]:
    async with driver_scope(maintenance, None, read_only=True) as scope:
        rows = await scope.driver.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'journal'::regclass"
        )
    return {row["name"] for row in rows}


@asynccontextmanager
async def migrator(urls: DatabaseUrls) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(urls.migrator)
    try:
        yield connection
    finally:
        await connection.close()


async def test_there_is_a_partition_for_this_month_and_those_ahead(
    urls: DatabaseUrls, maintenance: AsyncEngine
) -> None:
    months = {f"journal_{month(ahead):%Ym%m}" for ahead in range(MONTHS_AHEAD + 1)}
    assert await partitions(maintenance) == months | {"journal_default"}
    assert await JournalMonths(maintenance, clock=SystemClock()).keep() == (0, 0)
    firsts = [await add(urls, month(ahead)) for ahead in range(MONTHS_AHEAD + 1)]
    last = await add(urls, month(1) - timedelta(milliseconds=1))
    found = await places(maintenance)
    assert [found[run_id] for run_id in firsts] == sorted(months)
    assert found[last] == f"journal_{NOW:%Ym%m}"


async def test_a_month_that_is_missing_is_made_with_the_rows_that_came_before_it(
    urls: DatabaseUrls, maintenance: AsyncEngine
) -> None:
    name = f"journal_{month(2):%Ym%m}"
    async with migrator(urls) as connection:
        await connection.execute(f"DROP TABLE {name}")
    early, other = await add(urls, month(2) + timedelta(days=3)), await add(urls, month(9))
    assert await places(maintenance) == {early: "journal_default", other: "journal_default"}
    assert await JournalMonths(maintenance, clock=SystemClock()).keep() == (1, 0)
    assert await places(maintenance) == {early: name, other: "journal_default"}
    async with sql_engine(urls.migrator) as engine, maintenance_scope(engine) as scope:
        assert [guard.faults for guard in await audit_catalogue(scope) if guard.faults] == []


async def test_past_partitions_are_dropped_once_they_are_empty(urls: DatabaseUrls, maintenance: AsyncEngine) -> None:
    long_ago = datetime(2020, 5, 4, tzinfo=UTC)
    async with migrator(urls) as connection:
        for name, first, end in (("2020m05", (2020, 5), (2020, 6)), ("2021q2", (2021, 4), (2021, 7))):
            low, high = ((int(datetime(*at, 1, tzinfo=UTC).timestamp() * 1000) << 80) for at in (first, end))
            await connection.execute(
                f"CREATE TABLE journal_{name} PARTITION OF journal"
                f" FOR VALUES FROM ('{UUID(int=low)}') TO ('{UUID(int=high)}')"
            )
    kept = await add(urls, long_ago)
    months = JournalMonths(maintenance, clock=SystemClock())
    assert await months.keep() == (0, 1)
    assert "journal_2021q2" not in await partitions(maintenance)
    assert await places(maintenance) == {kept: "journal_2020m05"}
    async with migrator(urls) as connection:
        await connection.execute("DELETE FROM journal WHERE run_id = $1", kept)
    assert await months.keep() == (0, 1)
    assert "journal_2020m05" not in await partitions(maintenance)


async def test_a_commit_under_way_is_not_waited_for_long(urls: DatabaseUrls, maintenance: AsyncEngine) -> None:
    async with migrator(urls) as connection:
        await connection.execute(f"DROP TABLE journal_{month(3):%Ym%m}")
    async with sql_engine(urls.app) as app, driver_scope(app, TENANT) as scope:
        await scope.driver.execute(
            "INSERT INTO journal (tenant_id, run_id, first_sequence, entry_count, payload, commitments)"
            " VALUES ($1, $2, 1, 1, 'x', 'y')",
            *(TENANT, run_of(month(9))),
        )
        with pytest.raises(TransactionConflict):
            await JournalMonths(maintenance, clock=SystemClock()).keep()
    assert await JournalMonths(maintenance, clock=SystemClock()).keep() == (1, 0)


async def test_requests_cannot_touch_partitions(urls: DatabaseUrls) -> None:
    async with sql_engine(urls.app) as app:
        for statement in ("SELECT make_journal_months(1)", "SELECT drop_journal_months()"):
            async with driver_scope(app, TENANT) as scope:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await scope.driver.execute(statement)


async def test_rows_survive_the_way_from_quarters_to_months_and_back(
    make_database: MakeDatabase,
) -> None:
    urls = await make_database("orchestrator")
    await migrate(PACKAGE, urls.migrator, to="0008")
    here, far = await add(urls, datetime(2026, 2, 3, tzinfo=UTC)), await add(urls, datetime(2031, 1, 1, tzinfo=UTC))
    async with sql_engine(urls.maintenance) as maintenance:
        await migrate(PACKAGE, urls.migrator, to="0009")
        assert await places(maintenance) == {here: "journal_2026q1", far: "journal_default"}
        later = await add(urls, month(0))
        assert (await places(maintenance))[later] == f"journal_{NOW:%Ym%m}"
        await migrate(PACKAGE, urls.migrator, to="0008", back=True)
        found = await places(maintenance)
        assert found == {
            here: "journal_2026q1",
            far: "journal_default",
            later: f"journal_{NOW.year}q{(NOW.month + 2) // 3}" if NOW.year <= 2028 else "journal_default",
        }
        assert len(await partitions(maintenance)) == 13
        await migrate(PACKAGE, urls.migrator)
        assert set(await places(maintenance)) == set(found)
