"""The key ring on its real store: Postgres under row-level security, and a key file."""

import asyncio
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.errors import KeyDestroyed
from services.meshkit.crypto.kek_file import KekFile, add_kek, create_kek_file, drop_old_keks
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.crypto.rewrap import Rewrap
from services.meshkit.sql.data_keys import SqlDataKeys, SqlWrappedKeys, count_messages, create_data_keys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import tenant_scope
from tests.integration.conftest import MakeDatabase

ANNA, BERT = TenantId(UUID(int=1)), TenantId(UUID(int=2))


def _make(connection: Connection) -> None:
    op = Operations(MigrationContext.configure(connection))
    create_data_keys(op)
    count_messages(op)


async def a_ring(engine: AsyncEngine, kek: Path) -> KeyRing:
    return KeyRing(SqlDataKeys(engine), await KekFile.read(kek), clock=SystemClock(), ids=SystemIds())


async def test_keys_survive_the_process_and_end_when_destroyed(make_database: MakeDatabase, tmp_path: Path) -> None:
    urls, kek = await make_database("vault"), tmp_path / "kek"
    create_kek_file(kek)
    async with sql_engine(urls.migrator) as owner, owner.begin() as connection:
        await connection.run_sync(_make)
    async with sql_engine(urls.app) as engine:
        ring = await a_ring(engine, kek)
        annas, berts = [await ring.seal(tenant, b"hello", aad=b"row") for tenant in (ANNA, BERT)]
        other = await a_ring(engine, kek)
        assert await other.open(ANNA, annas, aad=b"row") == b"hello"
        with pytest.raises(KeyDestroyed):
            await other.open(BERT, annas, aad=b"row")
        assert await other.destroy(ANNA) == 1
        with pytest.raises(KeyDestroyed):
            await other.open(ANNA, annas, aad=b"row")
        assert await other.open(BERT, berts, aad=b"row") == b"hello"
        async with tenant_scope(engine, ANNA) as scope:
            rows = (await scope.execute(text("SELECT wrapped, destroyed_time FROM data_key"))).all()
        assert [(row.wrapped, row.destroyed_time is not None) for row in rows] == [(None, True)]


async def test_the_key_is_rotated_under_load_and_no_read_fails(make_database: MakeDatabase, tmp_path: Path) -> None:
    """Three processes seal and open all the time while the key-encryption key is replaced five times."""
    urls, kek = await make_database("rotation"), tmp_path / "kek"
    create_kek_file(kek)
    tenants = [TenantId(UUID(int=number)) for number in range(1, 13)]
    kept: list[tuple[TenantId, bytes]] = []
    opened, stop, dice = 0, asyncio.Event(), Random(7)

    async def work(ring: KeyRing) -> None:
        nonlocal opened
        while not stop.is_set():
            tenant = dice.choice(tenants)
            kept.append((tenant, await ring.seal(tenant, b"hello", aad=b"row")))
            owner, envelope = dice.choice(kept)
            assert await ring.open(owner, envelope, aad=b"row") == b"hello"
            opened += 1

    async with sql_engine(urls.migrator) as owner, owner.begin() as connection:
        await connection.run_sync(_make)
    async with sql_engine(urls.app) as app, sql_engine(urls.maintenance) as maintenance:

        def a_busy_ring(wrapper: KekFile) -> KeyRing:
            # So few keys fit that the store and the wrapper are asked all the time.
            return KeyRing(SqlDataKeys(app), wrapper, clock=SystemClock(), ids=SystemIds(), capacity=3)

        wrappers = [await KekFile.read(kek) for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for wrapper in wrappers:
                tasks.create_task(work(a_busy_ring(wrapper)))
            rows = SqlWrappedKeys(maintenance)
            rewraps = [Rewrap(rows, one, service="test", clock=SystemClock()) for one in wrappers]
            for _ in range(5):
                before = opened
                add_kek(kek)
                await asyncio.gather(*(rewrap.sweep() for rewrap in rewraps))
                # Whoever wrapped with the old key a moment before the file changed is found by the next look.
                while await rows.count_otherwise(await wrappers[0].mark()):
                    await rewraps[0].sweep()
                drop_old_keks(kek)
                while opened < before + 60:  # noqa: ASYNC110  # a figure to reach, not an event
                    await asyncio.sleep(0.01)
            stop.set()
        fresh = KeyRing(SqlDataKeys(app), await KekFile.read(kek), clock=SystemClock(), ids=SystemIds())
        for tenant, envelope in kept:
            assert await fresh.open(tenant, envelope, aad=b"row") == b"hello"
    assert opened >= 300
