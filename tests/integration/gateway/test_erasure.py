"""An erasure goes on to its end, whoever was away and whoever drives it, on real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import insert

from services.gateway.domain.tenant import LOCAL
from services.gateway.storage.tables import TENANT
from services.gateway.storage.tenant_work import SqlBeginTenantWork, SqlErasureBook, SqlTenantReader
from services.gateway.usecases.erase_tenants import EraseTenants
from services.gateway.usecases.tenant_ports import Erased
from services.meshkit.core.errors import NotFound, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import ErasureAction, ErasureStep, TenantState
from services.meshkit.sql.engine import AsyncEngine, sql_engine
from services.meshkit.sql.scope import tenant_scope
from services.meshkit.testing.fake_clock import FakeClock
from tests.integration.conftest import MakeDatabase


class Stores:
    """Two services with some rows each; one call erases at most ten."""

    services: Sequence[str] = ("memory", "tools")

    def __init__(self) -> None:
        self.rows = {"memory": 25, "tools": 3}
        self.away: set[str] = set()
        self.asked = asyncio.Event()

    async def plan(self, tenant: TenantId) -> Mapping[str, Sequence[ErasureStep] | None]:
        return {}

    async def erase(self, service: str, tenant: TenantId) -> Erased:
        self.asked.set()
        await asyncio.sleep(0)
        if service in self.away:
            raise Unavailable(service)
        count = min(10, self.rows[service])
        self.rows[service] -= count
        step = ErasureStep(service=service, store="rows", action=ErasureAction.DELETE, count=count)
        return Erased(steps=[step], done=count == 0)


class Notes:
    """Keeps the names of tenants."""

    def __init__(self) -> None:
        self.kept: list[TenantId] = []
        self.away = False
        self.unreadable = False

    async def keep_erased(self, tenant: TenantId) -> None:
        if self.away:
            raise Unavailable("the notes")
        self.kept.append(tenant)

    async def erased(self) -> Sequence[TenantId]:
        if self.unreadable:
            raise Unavailable("the notes")
        return self.kept


class Room:
    """A marked tenant, and gateways that may drive its erasure."""

    def __init__(self, app: AsyncEngine, maintenance: AsyncEngine) -> None:
        self.tenant, self.clock, self.stores, self.notes = TenantId(uuid4()), FakeClock(), Stores(), Notes()
        self.reader = SqlTenantReader(app)
        self._app, self._begin, self._book = app, SqlBeginTenantWork(app), SqlErasureBook(maintenance)

    def gateway(self, *, settle_seconds: float = 60) -> EraseTenants:
        """Gives a gateway that has just started."""
        return EraseTenants(
            begin=self._begin,
            book=self._book,
            stores=self.stores,
            notes=self.notes,
            tenants=self.reader,
            clock=self.clock,
            settle_seconds=settle_seconds,
            every_seconds=1,
        )

    async def add(self, tenant_id: TenantId, name: str = "") -> None:
        async with tenant_scope(self._app, tenant_id) as scope:
            values = {"name": name or str(tenant_id), "residency_region": "", "create_time": self.clock.now()}
            await scope.execute(insert(TENANT).values(tenant_id=tenant_id, **values))
            await scope.commit()

    async def mark(self, tenant_id: TenantId) -> None:
        await self.add(tenant_id)
        async with self._begin(tenant_id) as work:
            tenant = await work.tenants.lock(tenant_id)
            await work.tenants.replace(tenant.changed(state=TenantState.DELETING))
            await work.erasures.begin(tenant_id, self.clock.now(), self.stores.services)
            await work.commit()


@pytest.fixture
async def room(make_migrated: MakeDatabase) -> AsyncIterator[Room]:
    urls = await make_migrated("gateway")
    async with sql_engine(urls.app, pool_size=2) as app, sql_engine(urls.maintenance, pool_size=2) as maintenance:
        room = Room(app, maintenance)
        await room.mark(room.tenant)
        yield room


async def test_an_erasure_survives_outages_and_restarts_and_ends_when_nothing_more_comes(room: Room) -> None:
    room.stores.away = {"tools"}
    for _ in range(4):
        await room.gateway().round()
    half = await room.reader.erasure(room.tenant)
    assert (half.pending, half.end_time) == ({"memory", "tools"}, None), "something may still be under way"
    room.stores.away = set()
    room.stores.rows["memory"] = 4  # a call that was under way has written
    room.clock.advance(seconds=61)
    for _ in range(2):
        await room.gateway().round()
    ended = await room.reader.erasure(room.tenant)
    assert (ended.pending, ended.done) == (frozenset(), {"memory", "tools"})
    assert ended.end_time == room.clock.now()
    assert {step.service: step.count for step in ended.steps} == {"memory": 29, "tools": 3}
    assert (await room.reader.get(room.tenant)).state is TenantState.DELETED
    assert room.stores.rows == {"memory": 0, "tools": 0}


async def test_two_gateways_do_not_count_the_same_rows(room: Room) -> None:
    room.clock.advance(seconds=61)
    for _ in range(5):
        await asyncio.gather(room.gateway().round(), room.gateway().round())
    ended = await room.reader.erasure(room.tenant)
    assert {step.service: step.count for step in ended.steps} == {"memory": 25, "tools": 3}
    assert ended.end_time is not None
    assert ended.end_time - ended.start_time == timedelta(seconds=61)


async def test_every_erasure_gets_its_turn_in_each_round(room: Room) -> None:
    tenants = [room.tenant, *(TenantId(uuid4()) for _ in range(3))]
    for tenant in tenants[1:]:
        await room.mark(tenant)
    room.stores.rows = {"memory": 0, "tools": 0}
    room.clock.advance(seconds=61)
    await room.gateway().round()
    assert all([(await room.reader.erasure(tenant)).end_time for tenant in tenants])


async def test_nothing_is_erased_before_it_is_noted_outside_the_database(room: Room) -> None:
    room.notes.away = True
    await room.gateway().round()
    assert room.stores.rows == {"memory": 25, "tools": 3}
    room.notes.away = False
    await room.gateway().round()
    assert room.notes.kept == [room.tenant]
    assert room.stores.rows == {"memory": 15, "tools": 0}


async def test_a_database_from_before_an_erasure_erases_again_who_is_noted(room: Room) -> None:
    restored, unknown = TenantId(uuid4()), TenantId(uuid4())
    await room.add(restored)
    room.notes.kept = [unknown, restored, room.tenant]
    for _ in range(2):
        await room.gateway().mark_again()
    assert (await room.reader.get(restored)).state is TenantState.DELETING
    assert (await room.reader.erasure(restored)).pending == {"memory", "tools"}
    with pytest.raises(NotFound):
        await room.reader.get(unknown)
    room.clock.advance(seconds=61)
    for _ in range(4):
        await room.gateway().round()
    assert (await room.reader.get(restored)).state is TenantState.DELETED


async def test_no_note_erases_the_tenant_of_the_operators(room: Room) -> None:
    own = TenantId(uuid4())
    await room.add(own, LOCAL)
    room.notes.kept = [own]
    await room.gateway().mark_again()
    assert (await room.reader.get(own)).state is TenantState.ACTIVE


async def test_who_is_marked_is_erased_though_the_notes_cannot_be_read(room: Room) -> None:
    room.notes.unreadable = True
    working = asyncio.create_task(room.gateway()())
    await room.stores.asked.wait()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
