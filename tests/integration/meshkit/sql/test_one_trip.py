"""Transactions of one round trip: the same isolation and the same all-or-nothing as any other."""

import asyncio
from dataclasses import replace
from importlib import import_module
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import PooledEngine
from services.meshkit.sql.migrations import downgrade, migrate
from services.meshkit.sql.one_trip import OneTrip, one_trip
from services.meshkit.sql.scope import driver_scope, maintenance_scope, tenant_scope
from tests.integration.meshkit.sql.conftest import Engines

ANNA, BERT = TenantId(UUID(int=1)), TenantId(UUID(int=2))


@pytest.fixture
def add_two() -> OneTrip:
    found: OneTrip = import_module("ledgerette.storage.one_trips").ADD_TWO
    return found


@pytest.fixture
def words_of() -> OneTrip:
    found: OneTrip = import_module("ledgerette.storage.one_trips").WORDS
    return found


async def test_it_writes_all_and_sees_its_own_tenant_only(
    engines: Engines, add_two: OneTrip, words_of: OneTrip
) -> None:
    await one_trip(engines.app, BERT, add_two, BERT, [uuid4(), uuid4()], "bert's")
    seen = await one_trip(engines.app, ANNA, add_two, ANNA, [uuid4(), uuid4()], "anna's")
    assert seen[0][0] == 2
    assert [row["words"] for row in await one_trip(engines.app, ANNA, words_of)] == ["anna's", "anna's"]
    assert len(await one_trip(engines.app, (ANNA, BERT), words_of)) == 4


async def test_the_scope_ends_with_it(engines: Engines, words_of: OneTrip) -> None:
    await one_trip(engines.app, ANNA, words_of)
    connection = await asyncpg.connect(engines.urls.app)
    try:
        await connection.fetch(words_of.call, f"{{{ANNA}}}")
        assert await connection.fetchval("SELECT current_setting('app.tenants', true)") in (None, "")
    finally:
        await connection.close()


async def test_background_work_sees_every_tenant(engines: Engines, add_two: OneTrip, words_of: OneTrip) -> None:
    await one_trip(engines.app, BERT, add_two, BERT, [uuid4(), uuid4()], "bert's")
    assert len(await one_trip(engines.maintenance, None, words_of)) == 2
    assert await one_trip(engines.app, None, words_of) == []


async def test_writing_for_another_tenant_is_refused_and_leaves_nothing(
    engines: Engines, add_two: OneTrip, words_of: OneTrip
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await one_trip(engines.app, ANNA, add_two, BERT, [uuid4(), uuid4()], "forged")
    again = uuid4()
    with pytest.raises(asyncpg.UniqueViolationError):
        await one_trip(engines.app, ANNA, add_two, ANNA, [again, again], "twice")
    assert await one_trip(engines.maintenance, None, words_of) == []


async def test_a_cancelled_caller_does_not_interrupt_it(engines: Engines, add_two: OneTrip, words_of: OneTrip) -> None:
    caller = asyncio.ensure_future(one_trip(engines.app, ANNA, add_two, ANNA, [uuid4(), uuid4()], "kept"))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert len(await one_trip(engines.app, ANNA, words_of)) == 2


async def test_trips_and_scopes_share_the_connections_and_wait_for_them(
    engines: Engines, add_two: OneTrip, words_of: OneTrip
) -> None:
    async def trip(number: int) -> None:
        await one_trip(engines.app, ANNA, add_two, ANNA, [uuid4(), uuid4()], f"{number}")

    async def scope() -> int:
        async with tenant_scope(engines.app, ANNA, read_only=True) as opened:
            return (await opened.execute(text("SELECT 1"))).scalar_one()

    await asyncio.gather(*(trip(number) if number % 3 else scope() for number in range(60)))
    assert len(await one_trip(engines.app, ANNA, words_of)) == 80


async def test_a_spare_connection_that_the_server_ended_is_replaced(engines: Engines, words_of: OneTrip) -> None:
    assert await one_trip(engines.app, ANNA, words_of) == []
    assert isinstance(engines.app, PooledEngine)
    spare = engines.app.take_spare()
    assert spare is not None
    spare.put_back()
    spare.driver.terminate()
    assert engines.app.take_spare() is None
    assert await one_trip(engines.app, ANNA, words_of) == []


async def test_other_roles_may_not_call_it(engines: Engines, words_of: OneTrip) -> None:
    connection = await asyncpg.connect(engines.urls.migrator)
    try:
        granted = await connection.fetchval(
            "SELECT array_agg(grantee::regrole::text) FROM pg_proc, aclexplode(proacl) WHERE proname = $1",
            words_of.function,
        )
    finally:
        await connection.close()
    assert not [role for role in granted if role in ("-", "public")]


async def test_going_back_to_the_beginning_takes_the_functions_too(engines: Engines, ledgerette: str) -> None:
    await migrate(ledgerette, engines.urls.migrator)
    await asyncio.to_thread(downgrade, ledgerette, engines.urls.migrator)
    connection = await asyncpg.connect(engines.urls.migrator)
    try:
        left = await connection.fetchval(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prolang <> 0"
            " AND proname ~ '_[0-9a-f]{12}$'"
        )
    finally:
        await connection.close()
    assert left == 0


async def test_one_that_is_planned_once_leaves_the_planner_as_it_was(engines: Engines) -> None:
    asked = "RETURN QUERY SELECT current_setting('plan_cache_mode'), current_setting('enable_seqscan');"
    once = OneTrip(name="plans", arguments=(), returns="TABLE (mode text, scans text)", body=asked, planned_once=True)
    each_time = replace(once, planned_once=False)
    connection = await asyncpg.connect(engines.urls.migrator)
    try:
        for statement in (*once.statements(["public"]), *each_time.statements(["public"])):
            await connection.execute(statement)
    finally:
        await connection.close()
    found = [tuple((await one_trip(engines.app, ANNA, work))[0]) for work in (once, each_time)]
    assert found == [("force_generic_plan", "off"), ("force_custom_plan", "on")]


async def test_transactions_of_several_statements_plan_each_for_its_values(engines: Engines) -> None:
    mode = "SELECT current_setting('plan_cache_mode')"
    found: set[str] = set()
    for read_only in (False, True):
        async with tenant_scope(engines.app, ANNA, read_only=read_only) as scope:
            found.add((await scope.execute(text(mode))).scalar_one())
        async with maintenance_scope(engines.app, read_only=read_only) as scope:
            found.add((await scope.execute(text(mode))).scalar_one())
        for tenants in (ANNA, None):
            async with driver_scope(engines.app, tenants, read_only=read_only) as driver:
                found.add(await driver.driver.fetchval(mode))
    assert found == {"force_custom_plan"}
    async with engines.app.connect() as connection:
        assert (await connection.execute(text(mode))).scalar_one() == "force_generic_plan"
