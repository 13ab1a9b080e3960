"""The key ring on its real store: Postgres under row-level security, and a key file."""

from pathlib import Path
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
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys, create_data_keys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import tenant_scope
from tests.integration.conftest import MakeDatabase

ANNA, BERT = TenantId(UUID(int=1)), TenantId(UUID(int=2))


def _make(connection: Connection) -> None:
    create_data_keys(Operations(MigrationContext.configure(connection)))


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
