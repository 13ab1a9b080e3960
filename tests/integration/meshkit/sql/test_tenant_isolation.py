"""Forced row-level security on real Postgres, as the role that serves requests."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import (
    Column,
    MetaData,
    Table,
    Text,
    Uuid,
    exc,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.errors import DatabaseBusy, TransactionConflict
from services.meshkit.sql.scope import driver_scope, maintenance_scope, tenant_scope
from tests.integration.meshkit.sql.conftest import Engines

ANNA, BERT = TenantId(UUID(int=1)), TenantId(UUID(int=2))
NOTE = Table(
    "note",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid),
    Column("words", Text),
)


async def _write(engine: AsyncEngine, tenant: TenantId, words: str) -> UUID:
    note = uuid4()
    async with tenant_scope(engine, tenant) as scope:
        await scope.execute(NOTE.insert().values(id=note, tenant_id=tenant, words=words))
        await scope.commit()
    return note


async def _words(engine: AsyncEngine, *tenants: TenantId) -> list[str]:
    async with tenant_scope(engine, tenants, read_only=True) as scope:
        return sorted((await scope.execute(select(NOTE.c.words))).scalars().all())


async def test_a_tenant_sees_its_own_rows_only(engines: Engines) -> None:
    await _write(engines.app, ANNA, "anna's")
    await _write(engines.app, BERT, "bert's")
    assert await _words(engines.app, ANNA) == ["anna's"]
    assert await _words(engines.app, BERT) == ["bert's"]


async def test_a_batch_sees_the_rows_of_its_tenants(engines: Engines) -> None:
    carl = TenantId(UUID(int=3))
    for tenant, words in ((ANNA, "a"), (BERT, "b"), (carl, "c")):
        await _write(engines.app, tenant, words)
    assert await _words(engines.app, ANNA, BERT) == ["a", "b"]


async def test_a_row_of_another_tenant_cannot_be_inserted(engines: Engines) -> None:
    with pytest.raises(exc.ProgrammingError, match="row-level security"):
        async with tenant_scope(engines.app, ANNA) as scope:
            await scope.execute(NOTE.insert().values(id=uuid4(), tenant_id=BERT, words="forged"))


async def test_rows_of_another_tenant_are_neither_changed_nor_deleted(
    engines: Engines,
) -> None:
    note = await _write(engines.app, BERT, "bert's")
    async with tenant_scope(engines.app, ANNA) as scope:
        changed = await scope.execute(NOTE.update().where(NOTE.c.id == note).values(words="stolen"))
        deleted = await scope.execute(NOTE.delete().where(NOTE.c.id == note))
        await scope.commit()
    assert (changed.rowcount, deleted.rowcount) == (0, 0)
    assert await _words(engines.app, BERT) == ["bert's"]


async def test_a_row_cannot_be_given_to_another_tenant(engines: Engines) -> None:
    note = await _write(engines.app, ANNA, "anna's")
    with pytest.raises(exc.ProgrammingError, match="row-level security"):
        async with tenant_scope(engines.app, ANNA) as scope:
            await scope.execute(NOTE.update().where(NOTE.c.id == note).values(tenant_id=BERT))


async def test_without_the_setting_a_statement_fails_on_a_fresh_and_on_a_used_connection(
    engines: Engines,
) -> None:
    async with engines.app.connect() as connection:
        with pytest.raises(exc.DBAPIError, match=r"app\.tenants"):
            await connection.execute(select(NOTE))
    await _write(engines.app, ANNA, "anna's")
    for _ in range(4):
        async with engines.app.connect() as connection:
            with pytest.raises(exc.DBAPIError, match=r"app\.tenants|malformed array"):
                await connection.execute(select(NOTE))


async def test_after_commit_the_scope_has_no_tenant(engines: Engines) -> None:
    await _write(engines.app, ANNA, "anna's")
    with pytest.raises(exc.DBAPIError, match="malformed array"):
        async with tenant_scope(engines.app, ANNA) as scope:
            await scope.execute(select(NOTE))
            await scope.commit()
            await scope.execute(select(NOTE))


async def test_an_unused_scope_leaves_no_tenant_on_its_connection(
    engines: Engines,
) -> None:
    await _write(engines.app, ANNA, "anna's")
    for _ in range(4):
        async with tenant_scope(engines.app, ANNA):
            pass
        async with engines.app.connect() as connection:
            with pytest.raises(exc.DBAPIError):
                await connection.execute(select(NOTE))


async def test_tenants_do_not_leak_through_a_pool_under_load(engines: Engines) -> None:
    tenants = [TenantId(UUID(int=number)) for number in range(10, 20)]

    async def write_and_read(tenant: TenantId) -> bool:
        await _write(engines.app, tenant, str(tenant))
        return set(await _words(engines.app, tenant)) == {str(tenant)}

    assert all(await asyncio.gather(*(write_and_read(tenant) for tenant in tenants * 10)))


async def test_leaving_without_commit_rolls_back(engines: Engines) -> None:
    async with tenant_scope(engines.app, ANNA) as scope:
        await scope.execute(NOTE.insert().values(id=uuid4(), tenant_id=ANNA, words="lost"))
    assert await _words(engines.app, ANNA) == []


async def test_a_read_only_scope_refuses_to_write(engines: Engines) -> None:
    # As a primary that has become a standby refuses: nobody tells the two apart by what Postgres says.
    with pytest.raises(Unavailable) as refusal:
        async with tenant_scope(engines.app, ANNA, read_only=True) as scope:
            await scope.execute(NOTE.insert().values(id=uuid4(), tenant_id=ANNA, words="no"))
    assert "read-only" in str(refusal.value.__cause__)


async def test_the_maintenance_role_sees_all_tenants_and_the_app_role_cannot_pretend(
    engines: Engines,
) -> None:
    await _write(engines.app, ANNA, "a")
    await _write(engines.app, BERT, "b")
    async with maintenance_scope(engines.maintenance) as scope:
        assert len((await scope.execute(select(NOTE))).all()) == 2
    with pytest.raises(exc.DBAPIError):
        async with maintenance_scope(engines.app) as scope:
            await scope.execute(select(NOTE))


async def test_the_app_role_cannot_take_another_role_or_switch_the_rules_off(
    engines: Engines,
) -> None:
    for statement in (
        "SET ROLE postgres",
        "ALTER TABLE note DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant_rows ON note",
    ):
        with pytest.raises(exc.DBAPIError):
            async with tenant_scope(engines.app, ANNA) as scope:
                await scope.execute(text(statement))


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_scope_is_for_one_to_a_thousand_tenants(engines: Engines, count: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        async with tenant_scope(engines.app, [TenantId(UUID(int=number)) for number in range(count)]):
            pass


async def test_a_cancelled_caller_does_not_interrupt_its_commit(engines: Engines) -> None:
    async def write(note: UUID) -> None:
        caller = asyncio.current_task()
        assert caller is not None
        async with tenant_scope(engines.app, ANNA) as scope:
            await scope.execute(NOTE.insert().values(id=note, tenant_id=ANNA, words=str(note)))
            asyncio.get_running_loop().call_soon(caller.cancel)
            await scope.commit()

    for _ in range(20):
        note = uuid4()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(write(note))
        assert str(note) in await _words(engines.app, ANNA)


async def test_the_driver_scope_sees_its_tenants_only_and_commits_explicitly(engines: Engines) -> None:
    insert = "INSERT INTO note SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[])"
    async with driver_scope(engines.app, [ANNA, BERT]) as scope:
        await scope.driver.execute(insert, [uuid4(), uuid4()], [ANNA, BERT], ["a", "b"])
        await scope.commit()
    async with driver_scope(engines.app, ANNA) as scope:
        await scope.driver.execute(insert, [uuid4()], [ANNA], ["lost"])
    async with driver_scope(engines.app, ANNA, read_only=True) as scope:
        assert [row["words"] for row in await scope.driver.fetch("SELECT words FROM note")] == ["a"]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with driver_scope(engines.app, ANNA) as scope:
            await scope.driver.execute(insert, [uuid4()], [BERT], ["forged"])
    async with driver_scope(engines.maintenance, None) as scope:
        assert await scope.driver.fetchval("SELECT count(*) FROM note") == 2
    async with engines.app.connect() as connection:
        with pytest.raises(exc.DBAPIError):
            await connection.execute(select(NOTE))


async def test_a_transaction_costs_three_round_trips(engines: Engines) -> None:
    await _write(engines.app, ANNA, "warm")
    sent: list[str] = []

    async with tenant_scope(engines.app, ANNA) as scope:
        scope.driver.add_query_logger(lambda record: sent.append(record.query))
        await scope.execute(NOTE.insert().values(id=uuid4(), tenant_id=ANNA, words="x"))
        await scope.commit()
    # The prepared INSERT is the third; asyncpg does not log those.
    assert [query.split("(")[0] for query in sent] == ["BEGIN;SELECT set_config", "COMMIT;"]


async def test_a_full_pool_says_that_it_is_busy(engines: Engines) -> None:
    async with (
        sql_engine(engines.urls.app, pool_size=1, pool_timeout_seconds=0.05) as engine,
        tenant_scope(engine, ANNA) as scope,
    ):
        await scope.execute(select(NOTE))
        with pytest.raises(DatabaseBusy):
            async with tenant_scope(engine, ANNA):
                pass


async def test_a_deadlock_is_a_conflict_and_a_constraint_stays_itself(engines: Engines) -> None:
    one, two = await _write(engines.app, ANNA, "1"), await _write(engines.app, ANNA, "2")
    holds = asyncio.Barrier(2)

    async def lock(first: UUID, second: UUID) -> None:
        async with tenant_scope(engines.app, ANNA) as scope:
            await scope.execute(select(NOTE).where(NOTE.c.id == first).with_for_update())
            await holds.wait()
            await scope.execute(select(NOTE).where(NOTE.c.id == second).with_for_update())

    outcomes = await asyncio.gather(lock(one, two), lock(two, one), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [TransactionConflict]
    with pytest.raises(exc.IntegrityError):
        async with tenant_scope(engines.app, ANNA) as scope:
            await scope.execute(NOTE.insert().values(id=one, tenant_id=ANNA, words="again"))


async def test_a_closed_connection_is_replaced_and_an_absent_server_is_unavailable(
    engines: Engines, postgres: str
) -> None:
    await _write(engines.app, ANNA, "before")
    admin = await asyncpg.connect(postgres)
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '%_app'")
    await admin.close()
    await asyncio.sleep(0.05)
    assert await _words(engines.app, ANNA) == ["before"]
    async with sql_engine("postgresql://nobody@127.0.0.1:1/none") as engine:
        with pytest.raises(Unavailable):
            async with tenant_scope(engine, ANNA) as scope:
                await scope.execute(select(NOTE))


@pytest.mark.parametrize("form", ["core", "driver"])
async def test_a_cancelled_reader_leaves_no_transaction_to_the_next_caller(engines: Engines, form: str) -> None:
    """Cancelled anywhere, also within BEGIN, a connection never carries its read-only transaction or tenant on."""

    async def read() -> None:
        if form == "driver":
            async with driver_scope(engines.app, BERT, read_only=True) as scope:
                await scope.driver.fetch("SELECT words FROM note")
        else:
            await _words(engines.app, BERT)

    for number in range(120):
        readers = [asyncio.ensure_future(read()) for _ in range(4)]
        for _ in range(number % 40):
            await asyncio.sleep(0)
        for reader in readers:
            reader.cancel()
        outcomes = await asyncio.gather(*readers, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
        async with driver_scope(engines.app, ANNA) as scope:
            written = await scope.driver.execute("INSERT INTO note VALUES ($1, $2, 'after')", uuid4(), ANNA)
            assert written == "INSERT 0 1"
            assert await scope.driver.fetchval("SELECT count(*) FROM note WHERE tenant_id = $1", BERT) == 0
            await scope.commit()
