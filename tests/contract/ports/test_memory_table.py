"""One suite for the table of memories, on the fake and on real Postgres."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest
import pytest_asyncio

from services.memory.domain.errors import MemoryNotFound
from services.memory.domain.memory import Memory, Placement
from services.memory.domain.vector import Embedding, Space
from services.memory.storage.embed_work import SqlEmbedWork
from services.memory.storage.memory_reader import SqlMemoryReader
from services.memory.storage.memory_writer import SqlMemoryWriter
from services.memory.storage.placement_work import SqlPlacementWork
from services.memory.storage.sealed_rows import SealedRows
from services.memory.transport.convert import ProtoPayload
from services.memory.usecases.ports import EmbedWork, MemoryReader, MemoryWriter, PlacementWork
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from services.meshkit.testing.fake_clock import NOON
from tests.support.hashing_embedder import vector_of
from tests.support.known_tenants import KnownTenants
from tests.support.memory_table import MemoryTable, a_memory

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPACE = Space("model", 8)


class Table(MemoryWriter, MemoryReader, EmbedWork, PlacementWork, Protocol):
    """All ports of storage at once."""


class PostgresTable:
    """The real repositories, as one table."""

    def __init__(
        self, writer: SqlMemoryWriter, reader: SqlMemoryReader, embed: SqlEmbedWork, placement: SqlPlacementWork
    ) -> None:
        self.add, self.of_call, self.forget = writer.add, writer.of_call, writer.forget
        self.get, self.ring, self.those_of, self.page = reader.get, reader.ring, reader.those_of, reader.page
        self.project_of = reader.project_of
        self.claim, self.give_back, self.record = embed.claim, embed.give_back, embed.record
        self.outdate, self.has_placed = embed.outdate, embed.has_placed
        self.recorded, self.placed, self.erasing = placement.recorded, placement.placed, placement.erasing
        self.erased, self.spaces, self.displace = placement.erased, placement.spaces, placement.displace


@pytest_asyncio.fixture(params=["memory", "postgres"], scope="module", loop_scope="module")
async def table(
    request: pytest.FixtureRequest, postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Table]:
    if request.param == "memory":
        yield MemoryTable()
        return
    urls = await provision(postgres, f"comitia_memory_{secrets.token_hex(4)}")
    await migrate("services.memory", urls.migrator)
    kek: Path = tmp_path_factory.mktemp("kek") / "kek"
    create_kek_file(kek)
    async with sql_engine(urls.app, pool_size=4) as app, sql_engine(urls.maintenance, pool_size=2) as maintenance:
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(kek), clock=SystemClock(), ids=SystemIds())
        rows = SealedRows(keys, ProtoPayload())
        writer = SqlMemoryWriter(app, rows, tenants=KnownTenants(), max_items=8, max_waiting=100)
        reader = SqlMemoryReader(app, rows)
        async with writer.group, reader.rings:
            yield PostgresTable(
                writer,
                reader,
                SqlEmbedWork(app, rows, lease=timedelta(minutes=1)),
                SqlPlacementWork(maintenance, rows),
            )


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(uuid4())


async def added(table: Table, tenant: TenantId, text: str = "Ban cars.", **changes: Any) -> Memory:
    memory = a_memory(text, tenant=tenant, **changes)
    return (await table.add(memory, call_key=secrets.token_bytes(32), digest=b"d" * 32)).memory


def embedded(text: str, space: Space = SPACE) -> Embedding:
    return Embedding(space, vector_of(text, space.dimensions))


async def test_what_is_added_is_read_back_whole(table: Table, tenant: TenantId) -> None:
    memory = await added(
        table, tenant, session=uuid4(), tags=("a", 'with "quotes" {x}', "ü"), expires=NOON + timedelta(hours=1)
    )
    assert await table.get(tenant, memory.id) == memory
    with pytest.raises(MemoryNotFound):
        await table.get(TenantId(uuid4()), memory.id)


async def test_a_call_makes_one_row_per_tenant(table: Table, tenant: TenantId) -> None:
    key, digest = secrets.token_bytes(32), b"1" * 32
    wanted = [a_memory(f"try {number}", tenant=tenant) for number in range(12)]
    stored = await asyncio.gather(*(table.add(memory, call_key=key, digest=digest) for memory in wanted))
    assert len({one.memory.id for one in stored}) == 1
    elsewhere = await table.add(a_memory(tenant=TenantId(uuid4())), call_key=key, digest=b"2" * 32)
    assert elsewhere.digest == b"2" * 32
    found = await table.of_call(tenant, key)
    assert found is not None
    assert (found.memory.id, found.digest) == (stored[0].memory.id, digest)
    assert await table.of_call(TenantId(uuid4()), key) is None


async def test_the_ring_is_the_latest_of_a_session(table: Table, tenant: TenantId) -> None:
    session = uuid4()
    made = [
        await added(
            table, tenant, session=session, created=NOON + timedelta(seconds=n), expires=NOON + timedelta(minutes=n)
        )
        for n in range(5)
    ]
    found = await table.ring(tenant, session, project="", now=NOON + timedelta(minutes=1), most=2)
    assert [memory.id for memory in found] == [made[4].id, made[3].id]
    everything = await table.ring(tenant, session, project="", now=NOON + timedelta(minutes=1), most=50)
    assert [memory.id for memory in everything] == [made[4].id, made[3].id, made[2].id]
    assert not await table.ring(TenantId(uuid4()), session, project="", now=NOON, most=50)


async def test_a_project_finds_its_own_only(table: Table, tenant: TenantId) -> None:
    session, later = uuid4(), NOON + timedelta(minutes=1)
    names = ("", "claims", "payroll")
    made = {name: await added(table, tenant, session=session, expires=later, project=name) for name in names}
    ids = [memory.id for memory in made.values()]
    for name, memory in made.items():
        assert [one.id for one in await table.ring(tenant, session, project=name, now=NOON, most=50)] == [memory.id]
        assert [one.id for one in await table.those_of(tenant, ids, project=name, agent="")] == [memory.id]
        assert (await table.get(tenant, memory.id)).project == name
        assert await table.project_of(tenant, memory.id) == name


async def test_the_project_of_a_memory_is_known_when_it_is_forgotten(table: Table, tenant: TenantId) -> None:
    made = await added(table, tenant, project="claims")
    await table.forget(tenant, made.id, now=NOON)
    assert await table.project_of(tenant, made.id) == "claims"
    with pytest.raises(MemoryNotFound):
        await table.project_of(TenantId(uuid4()), made.id)


async def test_pages_are_newest_first_and_filtered(table: Table, tenant: TenantId) -> None:
    session = uuid4()
    made = [
        await added(table, tenant, session=session if n % 2 else None, agent=f"a{n % 2}", created=NOON + timedelta(n))
        for n in range(4)
    ]
    first = await table.page(tenant, size=3, after=None, session=None, agent="")
    rest = await table.page(tenant, size=3, after=(first[-1].created, first[-1].id), session=None, agent="")
    assert [memory.id for memory in (*first, *rest)] == [memory.id for memory in reversed(made)]
    of_session = await table.page(tenant, size=3, after=None, session=session, agent="")
    assert [memory.id for memory in of_session] == [made[3].id, made[1].id]
    assert not await table.page(tenant, size=3, after=None, session=session, agent="a0")


async def test_claimed_memories_are_nobody_elses(table: Table, tenant: TenantId) -> None:
    made = [await added(table, tenant) for _ in range(3)]
    await added(table, tenant, placement=Placement.NONE)
    first = await table.claim(tenant, project=None, most=2)
    second = await table.claim(tenant, project=None, most=2)
    assert sorted(memory.id for memory in (*first, *second)) == sorted(memory.id for memory in made)
    assert not await table.claim(tenant, project=None, most=2)
    await table.give_back(tenant, [first[0].id])
    assert [memory.id for memory in await table.claim(tenant, project=None, most=2)] == [first[0].id]
    assert not await table.claim(TenantId(uuid4()), project=None, most=2)


async def test_who_asks_for_one_project_is_given_no_memory_of_another(table: Table, tenant: TenantId) -> None:
    atlas, none = await added(table, tenant, project="atlas"), await added(table, tenant)
    assert not await table.claim(tenant, project="other", most=5)
    assert [memory.id for memory in await table.claim(tenant, project="atlas", most=5)] == [atlas.id]
    assert [memory.id for memory in await table.claim(tenant, project=None, most=5)] == [none.id]


async def test_a_recorded_vector_goes_its_way(table: Table, tenant: TenantId) -> None:
    space = Space(f"model-{uuid4()}", 8)
    memory = await added(table, tenant)
    vector = embedded("ban cars", space)
    assert set(await table.record(tenant, [(memory.id, vector)], Placement.RECORDED)) == {memory.id}
    (waiting,) = [one for one in await table.recorded(most=100) if one.placed.memory == memory.id]
    assert (waiting.space, waiting.placed.vector) == (space, vector.vector)
    assert not await table.has_placed(tenant, space)
    assert set(await table.placed([waiting])) == {memory.id}
    assert not await table.placed([waiting])
    assert await table.has_placed(tenant, space)
    assert not await table.has_placed(TenantId(uuid4()), space)
    assert (space, 1) in await table.spaces()
    assert await table.displace(space) == 1
    assert [one.placed.memory for one in await table.recorded(most=100) if one.space == space] == [memory.id]
    assert set(await table.placed([waiting])) == {memory.id}


async def test_another_model_makes_memories_pending_again(table: Table, tenant: TenantId) -> None:
    memory = await added(table, tenant)
    await table.record(tenant, [(memory.id, embedded("x"))], Placement.PLACED)
    assert await table.outdate(tenant, SPACE) == 0
    assert await table.outdate(TenantId(uuid4()), Space("other", 8)) == 0
    assert await table.outdate(tenant, Space("other", 8)) == 1
    assert [one.id for one in await table.claim(tenant, project=None, most=5)] == [memory.id]


async def test_forgetting_erases_once_and_leaves_the_call_known(table: Table, tenant: TenantId) -> None:
    key = secrets.token_bytes(32)
    memory = (await table.add(a_memory(tenant=tenant), call_key=key, digest=b"d" * 32)).memory
    await table.record(tenant, [(memory.id, embedded("x"))], Placement.PLACED)
    with pytest.raises(MemoryNotFound):
        await table.forget(TenantId(uuid4()), memory.id, now=NOON)
    assert await table.forget(tenant, memory.id, now=NOON)
    assert not await table.forget(tenant, memory.id, now=NOON)
    with pytest.raises(MemoryNotFound):
        await table.get(tenant, memory.id)
    assert memory.id in await table.erasing(most=100)
    await table.erased([memory.id])
    assert memory.id not in await table.erasing(most=100)
    known = await table.of_call(tenant, key)
    assert known is not None
    assert known.memory == replace(memory, parts=(), tags=(), placement=Placement.NONE, context=known.memory.context)


async def test_what_was_never_claimed_leaves_nothing_to_erase(table: Table, tenant: TenantId) -> None:
    fresh, taken = await added(table, tenant), await added(table, tenant)
    assert not await table.forget(tenant, fresh.id, now=NOON)
    await table.claim(tenant, project=None, most=5)
    assert await table.forget(tenant, taken.id, now=NOON)
    assert not await table.record(tenant, [(taken.id, embedded("x"))], Placement.PLACED)
