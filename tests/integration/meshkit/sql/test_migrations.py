"""Migrations of a service, both ways, and several at once."""

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, Table, Text, Uuid, select, text
from sqlalchemy.exc import ProgrammingError

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.sql.audit import audit_entry_tables
from services.meshkit.sql.data_keys import data_key_table
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import EXPAND, TableInUse, downgrade, drift, migrate, upgrade
from services.meshkit.sql.outbox import outbox_table
from services.meshkit.sql.request_ids import request_id_table
from services.meshkit.sql.scope import Scope, tenant_scope
from tests.integration.conftest import MakeDatabase


async def _tables(url: str) -> set[str]:
    async with sql_engine(url) as engine, engine.connect() as connection:
        rows = await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        return set(rows.scalars())


def step(revision: str, before: str, work: str) -> str:
    """Writes a migration."""
    return f'revision = "{revision}"\ndown_revision = "{before}"\n\n\ndef upgrade(op):\n    {work}\n'


async def _columns(url: str) -> set[str]:
    async with sql_engine(url) as engine, engine.connect() as connection:
        found = "SELECT attname FROM pg_attribute WHERE attrelid = 'note'::regclass AND NOT attisdropped"
        return set((await connection.execute(text(found))).scalars())


async def _write(scope: Scope, tenant: TenantId) -> None:
    """Does what the code of the first release does."""
    await scope.execute(
        text("INSERT INTO note (id, tenant_id, words) VALUES (:id, :tenant, 'abc')"),
        {"id": SystemIds().uuid(), "tenant": tenant},
    )


async def test_up_down_and_up_again(make_database: MakeDatabase, ledgerette: str) -> None:
    urls = await make_database("ledgerette")
    await asyncio.to_thread(upgrade, ledgerette, urls.migrator)
    full = await _tables(urls.migrator)
    assert {"note", "outbox", "request_id", "data_key", "schema_version_ledgerette"} <= full
    await asyncio.to_thread(downgrade, ledgerette, urls.migrator)
    assert await _tables(urls.migrator) == {"schema_version_ledgerette"}
    await asyncio.to_thread(upgrade, ledgerette, urls.migrator)
    assert await _tables(urls.migrator) == full


async def test_a_post_migration_reaches_the_rows_of_every_tenant(make_database: MakeDatabase, ledgerette: str) -> None:
    urls = await make_database("ledgerette")
    await migrate(ledgerette, urls.migrator, to="0001")
    ids = SystemIds()
    async with sql_engine(urls.app) as engine:
        for words in ("abc", "de"):
            tenant = TenantId(ids.uuid())
            async with tenant_scope(engine, tenant) as scope:
                await scope.execute(
                    text("INSERT INTO note VALUES (:id, :tenant, :words)"),
                    {"id": ids.uuid(), "tenant": tenant, "words": words},
                )
                await scope.commit()
    await migrate(ledgerette, urls.migrator)
    async with sql_engine(urls.maintenance) as engine, engine.connect() as connection:
        lengths = (await connection.execute(text("SELECT length FROM note ORDER BY 1"))).scalars().all()
    assert lengths == [2, 3]


async def test_an_administrator_leaves_tables_to_the_migrator(
    make_database: MakeDatabase, ledgerette: str, postgres: str
) -> None:
    urls = await make_database("ledgerette")
    database = urls.app.split("/")[3].split("?")[0]
    admin = postgres.replace("/postgres?", f"/{database}?")
    await migrate(ledgerette, admin)
    async with sql_engine(admin) as engine, engine.connect() as connection:
        owners = await connection.execute(text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"))
        assert owners.scalars().all() == [f"{database}_migrator"]


async def test_seven_services_migrate_at_once_and_twice_is_once(make_database: MakeDatabase, ledgerette: str) -> None:
    databases = [await make_database("ledgerette") for _ in range(7)]
    begun = time.perf_counter()
    await asyncio.gather(
        *(asyncio.to_thread(upgrade, ledgerette, urls.migrator) for urls in (*databases, databases[0], databases[0]))
    )
    print(f"seven services migrated in {time.perf_counter() - begun:.2f} s")
    for urls in databases:
        assert "note" in await _tables(urls.migrator)


async def test_tables_py_and_the_database_are_compared(make_database: MakeDatabase, ledgerette: str) -> None:
    urls = await make_database("ledgerette")
    await migrate(ledgerette, urls.migrator, to="0001")
    metadata = MetaData()
    Table("note", metadata, Column("id", Uuid, primary_key=True), Column("tenant_id", Uuid, nullable=False))
    Table("price", metadata, Column("model", Text, primary_key=True))
    outbox_table(metadata)
    request_id_table(metadata)
    data_key_table(metadata)
    audit_entry_tables(metadata)
    differences = await drift(ledgerette, urls.migrator, metadata)
    assert len(differences) == 2
    assert "words" in differences[0]
    assert "nano_usd" in differences[1]


async def test_a_failing_migration_leaves_nothing(make_database: MakeDatabase, ledgerette: str, tmp_path: Path) -> None:
    urls = await make_database("ledgerette")
    file = tmp_path / "ledgerette" / "storage" / "migrations" / "versions" / "0003_pre_fail.py"
    file.write_text(
        'revision = "0003"\ndown_revision = "0002"\n\ndef upgrade(op):\n    op.execute("SELECT nonsense")\n'
    )
    with pytest.raises(Exception, match="nonsense"):
        await migrate(ledgerette, urls.migrator)
    assert await _tables(urls.migrator) == set()
    file.rename(file.with_name("3_fail.py"))
    with pytest.raises(ValueError, match="NNNN_pre_"):
        await migrate(ledgerette, urls.migrator)


async def test_what_new_code_needs_comes_first_and_what_only_old_code_needs_goes_last(
    make_database: MakeDatabase, ledgerette: str, tmp_path: Path
) -> None:
    urls = await make_database("ledgerette")
    versions = tmp_path / "ledgerette" / "storage" / "migrations" / "versions"
    versions.joinpath("0003_pre_add_title.py").write_text(
        step("0003", "0002", 'op.execute("ALTER TABLE note ADD title text")')
    )
    versions.joinpath("0004_post_drop_length.py").write_text(step("0004", "0003", 'op.drop_column("note", "length")'))
    for _again in range(2):
        await migrate(ledgerette, urls.migrator, to=EXPAND)
        assert await _columns(urls.migrator) >= {"title", "length"}
    await migrate(ledgerette, urls.migrator)
    await migrate(ledgerette, urls.migrator, to=EXPAND)
    assert "length" not in await _columns(urls.migrator)


async def test_a_migration_that_cannot_have_its_table_changes_nothing_and_the_code_before_goes_on(
    make_database: MakeDatabase, ledgerette: str
) -> None:
    urls = await make_database("ledgerette")
    await migrate(ledgerette, urls.migrator, to="0001")
    tenant = TenantId(SystemIds().uuid())
    async with sql_engine(urls.app) as engine, tenant_scope(engine, tenant) as busy:
        await _write(busy, tenant)
        with pytest.raises(TableInUse, match="of ledgerette was in use for longer than"):
            await migrate(ledgerette, urls.migrator, lock_seconds=0.2)
        await busy.commit()
        assert "length" not in await _columns(urls.migrator)
        async with tenant_scope(engine, tenant) as scope:
            await _write(scope, tenant)
            await scope.commit()
    await migrate(ledgerette, urls.migrator)
    assert "length" in await _columns(urls.migrator)


async def test_the_code_before_goes_on_after_a_migration_has_failed_half_way(
    make_database: MakeDatabase, ledgerette: str, tmp_path: Path
) -> None:
    urls = await make_database("ledgerette")
    await migrate(ledgerette, urls.migrator)
    file = tmp_path / "ledgerette" / "storage" / "migrations" / "versions" / "0003_pre_fail.py"
    file.write_text(step("0003", "0002", 'op.drop_column("note", "words")\n    op.execute("SELECT nonsense")'))
    with pytest.raises(ProgrammingError, match="nonsense"):
        await migrate(ledgerette, urls.migrator, to=EXPAND)
    tenant = TenantId(SystemIds().uuid())
    async with sql_engine(urls.app) as engine, tenant_scope(engine, tenant) as scope:
        await _write(scope, tenant)
        await scope.commit()


async def test_the_migrator_owns_tables_and_still_obeys_their_rules(
    make_database: MakeDatabase, ledgerette: str
) -> None:
    """Forced: the owner sees all rows through the maintenance policy only, never by ownership."""
    urls = await make_database("ledgerette")
    await migrate(ledgerette, urls.migrator, to="0001")
    async with sql_engine(urls.migrator) as engine, engine.begin() as connection:
        await connection.execute(text("DROP POLICY maintenance_rows ON note"))
        note = Table("note", MetaData(), Column("id", Uuid))
        assert (await connection.execute(select(note))).all() == []
