"""What migrations leave to code from before and from after them, on both ways."""

from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.sql.scope import driver_scope
from tests.integration.conftest import MakeDatabase

PACKAGE: Final = "services.orchestrator"
_BEFORE: Final = """
    INSERT INTO run (tenant_id, run_id, shard, state, view, last_sequence, grant_id, owner, lease_epoch, lease_until)
    VALUES ($1, $2, 0, 1, '', 1, '', 'one', 1, now() - interval '1 second')"""
_AFTER: Final = """
    INSERT INTO run (tenant_id, run_id, shard, state, view, last_sequence, grant_id, wake_time)
    VALUES ($1, $2, 0, 1, '', 1, '', NULL)"""
#: What code from before takes up.
_LEFT_BEHIND: Final = "SELECT run_id FROM run WHERE state < 5 AND lease_until < now()"


async def begin(urls: DatabaseUrls, statement: str) -> str:
    tenant, run_id = TenantId(uuid4()), SystemIds().new("run")
    async with sql_engine(urls.app) as app, driver_scope(app, tenant) as scope:
        await scope.driver.execute(statement, tenant, to_uuid(run_id, "run"))
        await scope.commit()
    return str(to_uuid(run_id, "run"))


async def left_behind(urls: DatabaseUrls) -> set[str]:
    async with sql_engine(urls.maintenance) as engine, driver_scope(engine, None) as scope:
        return {str(row["run_id"]) for row in await scope.driver.fetch(_LEFT_BEHIND)}


async def test_runs_begin_by_the_code_before_and_after_until_the_old_leases_are_dropped(
    make_database: MakeDatabase,
) -> None:
    urls = await make_database("orchestrator")
    await migrate(PACKAGE, urls.migrator, to="0014")
    old, new = await begin(urls, _BEFORE), await begin(urls, _AFTER)
    assert await left_behind(urls) == {old}, "nobody takes up what the code after it drives"
    await migrate(PACKAGE, urls.migrator)
    await begin(urls, _AFTER)
    with pytest.raises(asyncpg.UndefinedColumnError):
        await begin(urls, _BEFORE)
    assert new


async def test_the_way_back_leaves_no_run_without_somebody_to_take_it_up(make_database: MakeDatabase) -> None:
    urls = await make_database("orchestrator")
    await migrate(PACKAGE, urls.migrator)
    early = await begin(urls, _AFTER)
    await migrate(PACKAGE, urls.migrator, to="0014", back=True)
    late = await begin(urls, _AFTER)
    assert await left_behind(urls) == set()
    await migrate(PACKAGE, urls.migrator, to="0005", back=True)
    assert await left_behind(urls) == {early, late}
    await begin(urls, _BEFORE)
    await migrate(PACKAGE, urls.migrator)


async def test_the_way_back_from_the_archive_takes_its_rights_away(make_database: MakeDatabase) -> None:
    urls = await make_database("orchestrator")
    await migrate(PACKAGE, urls.migrator)
    await migrate(PACKAGE, urls.migrator, to="0010", back=True)
    async with sql_engine(urls.maintenance) as engine, driver_scope(engine, None) as scope:
        for table in ("journal", "turn_place", "journal_blob"):
            held = await scope.driver.fetchval("SELECT has_table_privilege($1, 'DELETE')", table)
            assert not held, table
