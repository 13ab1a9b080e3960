"""The bytes that a tenant may store, counted by Postgres with the rows themselves."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.memory.domain.memory import Memory
from services.memory.storage.memory_writer import SqlMemoryWriter
from services.memory.storage.sealed_rows import SealedRows
from services.memory.transport.convert import ProtoPayload
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.tenant import QuotaExceeded, Quotas
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.conftest import MakeDatabase
from tests.support.known_tenants import KnownTenants
from tests.support.memory_table import NOON, a_memory

SIZE = 1_000


class Store:
    """Two writers over one database, as in two replicas."""

    def __init__(self, writers: list[SqlMemoryWriter], maintenance: AsyncEngine, known: KnownTenants) -> None:
        self.writers = writers
        self.known = known
        self._maintenance = maintenance

    async def add(self, tenant: TenantId, *, replica: int = 0, key: bytes | None = None) -> Memory:
        memory = a_memory("x" * SIZE, tenant=tenant)
        stored = await self.writers[replica].add(
            memory, call_key=secrets.token_bytes(32) if key is None else key, digest=b"d" * 32
        )
        return stored.memory

    async def used(self, tenant: TenantId) -> tuple[int, int]:
        """Gives the bytes that are counted, and those that are there."""
        statement = text(
            "SELECT coalesce((SELECT bytes FROM storage_used WHERE tenant_id = :tenant), 0),"
            " coalesce((SELECT sum(octet_length(payload)) FROM memory WHERE tenant_id = :tenant), 0)"
        )
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            counted, there = (await scope.execute(statement, {"tenant": tenant})).one()
        return int(counted), int(there)


@pytest.fixture
async def store(make_database: MakeDatabase, tmp_path: Path) -> AsyncIterator[Store]:
    urls = await make_database("memory")
    await migrate("services.memory", urls.migrator)
    create_kek_file(tmp_path / "kek")
    known = KnownTenants()
    async with (
        sql_engine(urls.app, pool_size=8) as app,
        sql_engine(urls.maintenance, pool_size=2) as maintenance,
        _writer(app, tmp_path, known) as first,
        _writer(app, tmp_path, known) as second,
    ):
        yield Store([first, second], maintenance, known)


@asynccontextmanager
async def _writer(app: AsyncEngine, folder: Path, known: KnownTenants) -> AsyncIterator[SqlMemoryWriter]:
    keys = KeyRing(SqlDataKeys(app), await KekFile.read(folder / "kek"), clock=SystemClock(), ids=SystemIds())
    writer = SqlMemoryWriter(app, SealedRows(keys, ProtoPayload()), tenants=known, max_items=8, max_waiting=1_000)
    async with writer.group:
        yield writer


async def test_a_tenant_stores_as_much_as_it_may_and_no_more_however_many_write_at_once(store: Store) -> None:
    tenant, other = TenantId(uuid4()), TenantId(uuid4())
    await store.add(tenant)
    one, _ = await store.used(tenant)
    store.known.set(tenant, quotas=Quotas(max_storage_bytes=10 * one + one // 2))
    outcomes = await asyncio.gather(
        *(store.add(tenant, replica=number % 2) for number in range(40)),
        *(store.add(other, replica=number % 2) for number in range(10)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, MeshError)]
    assert [type(error) for error in refused] == [QuotaExceeded] * 31
    assert {key: refused[0].metadata[key] for key in ("quota", "limit")} == {
        "quota": "max_storage_bytes",
        "limit": str(10 * one + one // 2),
    }
    assert await store.used(tenant) == (10 * one, 10 * one)
    assert await store.used(other) == (10 * one, 10 * one)


async def test_what_is_forgotten_makes_room(store: Store) -> None:
    tenant = TenantId(uuid4())
    memory = await store.add(tenant)
    one, _ = await store.used(tenant)
    store.known.set(tenant, quotas=Quotas(max_storage_bytes=one))
    with pytest.raises(QuotaExceeded):
        await store.add(tenant)
    await store.writers[0].forget(tenant, memory.id, now=NOON)
    assert await store.used(tenant) == (0, 0)
    await store.add(tenant)


async def test_a_call_that_stored_its_memory_gets_it_again_when_the_quota_is_full(store: Store) -> None:
    tenant, key = TenantId(uuid4()), secrets.token_bytes(32)
    first = await store.add(tenant, key=key)
    store.known.set(tenant, quotas=Quotas(max_storage_bytes=1))
    assert (await store.add(tenant, key=key)).id == first.id
