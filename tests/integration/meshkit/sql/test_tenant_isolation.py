"""Forced row-level security on real Postgres, as the role that serves requests."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    Table,
    Text,
    Uuid,
    exc,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.rls import tenant_table
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
from tests.integration.conftest import MakeDatabase

ANNA, BERT = TenantId(UUID(int=1)), TenantId(UUID(int=2))
NOTE = Table(
    "note",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid),
    Column("words", Text),
)


@dataclass(frozen=True, slots=True)
class Engines:
    app: AsyncEngine
    maintenance: AsyncEngine


@pytest.fixture
async def engines(make_database: MakeDatabase) -> AsyncIterator[Engines]:
    urls = await make_database("notes")
    async with sql_engine(urls.migrator) as owner, owner.begin() as connection:
        await connection.run_sync(_make_note_table)
    async with (
        sql_engine(urls.app, pool_size=2) as app,
        sql_engine(urls.maintenance, pool_size=2) as maintenance,
    ):
        yield Engines(app, maintenance)


def _make_note_table(connection: Connection) -> None:
    op = Operations(MigrationContext.configure(connection))
    op.execute("CREATE TABLE note (id uuid PRIMARY KEY, tenant_id uuid NOT NULL, words text NOT NULL)")
    tenant_table(op, "note")


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
    with pytest.raises(exc.DBAPIError, match="read-only"):
        async with tenant_scope(engines.app, ANNA, read_only=True) as scope:
            await scope.execute(NOTE.insert().values(id=uuid4(), tenant_id=ANNA, words="no"))


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
