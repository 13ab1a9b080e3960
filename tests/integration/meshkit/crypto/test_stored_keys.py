"""The key ring on its real store: Postgres under row-level security, and a key file."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from prometheus_client import REGISTRY
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from comitia.gateway.v1.tenant_pb2 import TENANT_STATE_DELETED
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, from_uuid
from services.meshkit.crypto.errors import KeyDestroyed
from services.meshkit.crypto.kek_file import KekFile, add_kek, create_kek_file, drop_old_keks
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.crypto.rewrap import Rewrap
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.settings import ServiceSettings
from services.meshkit.sql.data_keys import SqlDataKeys, SqlWrappedKeys, count_messages, create_data_keys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import tenant_scope
from services.meshkit.sql.sealing import sealing
from services.meshkit.sql.tenant_data import DATA_KEY
from services.meshkit.sql.tenant_rows import TenantRows
from tests.integration.conftest import MakeDatabase

ANNA, BERT = TenantId(UUID(int=1)), TenantId(UUID(int=2))


def _make(connection: Connection) -> None:
    op = Operations(MigrationContext.configure(connection))
    create_data_keys(op)
    count_messages(op)


async def a_ring(engine: AsyncEngine, kek: Path) -> KeyRing:
    return KeyRing(SqlDataKeys(engine), await KekFile.read(kek), clock=SystemClock(), ids=SystemIds())


async def test_keys_survive_the_process(make_database: MakeDatabase, tmp_path: Path) -> None:
    async with a_vault(make_database) as (app, _):
        kek = tmp_path / "kek"
        create_kek_file(kek)
        annas = await (await a_ring(app, kek)).seal(ANNA, b"hello", aad=b"row")
        other = await a_ring(app, kek)
        assert await other.open(ANNA, annas, aad=b"row") == b"hello"
        with pytest.raises(KeyDestroyed):
            await other.open(BERT, annas, aad=b"row")


async def test_keys_of_an_erased_tenant_end_in_every_replica(make_database: MakeDatabase, tmp_path: Path) -> None:
    """One replica destroys them in the database, as the erasure does; all hear by their guard feed that it is done."""
    kek = tmp_path / "kek"
    create_kek_file(kek)
    async with AsyncExitStack() as stack:
        app, maintenance = await stack.enter_async_context(a_vault(make_database))
        feeds = [GuardFeed(clock=SystemClock()) for _ in range(2)]
        rings = [
            (
                await stack.enter_async_context(
                    sealing(
                        a_settings(kek),
                        service="vault",
                        app=app,
                        maintenance=maintenance,
                        tenants=feed,
                        clock=SystemClock(),
                        ids=SystemIds(),
                    )
                )
            ).keys
            for feed in feeds
        ]
        sealed = {tenant: await rings[0].seal(tenant, b"hello", aad=b"row") for tenant in (ANNA, BERT)}
        for ring in rings:
            assert [await ring.open(*one, aad=b"row") for one in sealed.items()] == [b"hello"] * 2

        assert await TenantRows("vault", maintenance, [DATA_KEY]).destroy_keys(ANNA) == 1
        assert rings[1].open_sync(ANNA, sealed[ANNA], aad=b"row") == b"hello", "it is in memory"
        feeds[0].take(erased(ANNA, reset=True))  # as a whole state
        feeds[1].take(pb.WatchGuardResponse(version=1, reset=True, complete=True))
        feeds[1].take(erased(ANNA))  # as a change
        for ring in rings:
            assert ring.tenants() == {BERT}
            assert REGISTRY.get_sample_value("comitia_cache_items", {"cache": "vault.data_keys"}) == 1
            with pytest.raises(KeyDestroyed):
                await ring.open(ANNA, sealed[ANNA], aad=b"row")
            assert ring.open_sync(BERT, sealed[BERT], aad=b"row") == b"hello"
        async with tenant_scope(app, ANNA) as scope:
            rows = (await scope.execute(text("SELECT wrapped, destroyed_time FROM data_key"))).all()
        assert [(row.wrapped, row.destroyed_time is not None) for row in rows] == [(None, True)]


@asynccontextmanager
async def a_vault(make_database: MakeDatabase) -> AsyncIterator[tuple[AsyncEngine, AsyncEngine]]:
    """Gives engines of `app` and `maintenance` on a database with a table of data keys."""
    urls = await make_database("vault")
    async with sql_engine(urls.migrator) as owner, owner.begin() as connection:
        await connection.run_sync(_make)
    async with sql_engine(urls.app) as app, sql_engine(urls.maintenance) as maintenance:
        yield app, maintenance


def a_settings(kek: Path) -> ServiceSettings:
    return ServiceSettings.model_validate(
        {
            "listen": "127.0.0.1:0",
            "database_url": "postgresql://x/y",
            "maintenance_database_url": "postgresql://x/y",
            "jwks_path": "a",
            "workload_key_path": "b",
            "workload_jwks_path": "c",
            "kek_path": kek,
        }
    )


def erased(tenant: TenantId, *, reset: bool = False) -> pb.WatchGuardResponse:
    """What the gateway tells once every service has erased a tenant."""
    gone = pb.GuardedTenant(tenant_id=from_uuid("tenant", tenant), state=TENANT_STATE_DELETED)
    return pb.WatchGuardResponse(version=2, reset=reset, complete=True, tenants=[gone])


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
