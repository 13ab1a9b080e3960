"""Audit entries in the transaction of their mutation: gapless, in the order of the commits, out of all reach."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.audit.feed import AuditFeed
from services.meshkit.core.audit import AuditDraft, enter_draft, mesh_acts, note
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import Internal, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.audit import STREAMS
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.connection import PreambleConnection
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.sql.scope import driver_scope, maintenance_scope, tenant_scope
from services.meshkit.testing import failpoints
from tests.integration.conftest import MakeDatabase

ANNA, BERT = TenantId(uuid4()), TenantId(uuid4())
_NOTE = "INSERT INTO note (id, tenant_id, words) VALUES (:id, :tenant, 'hello')"
_CHANGE = "UPDATE note SET words = 'other'"


@dataclass(frozen=True, slots=True)
class Room:
    """The database of a small service."""

    app: AsyncEngine
    maintenance: AsyncEngine
    urls: DatabaseUrls

    @property
    def store(self) -> SqlAuditStore:
        return SqlAuditStore(app=self.app, maintenance=self.maintenance)

    async def entries(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.store.after({}, most=100_000)]

    async def mutate(self, tenant: TenantId = ANNA, *, commit: bool = True) -> UUID:
        """Changes something with an entry, through Core."""
        enter_draft(a_draft(tenant))
        made = uuid4()
        async with tenant_scope(self.app, tenant) as scope:
            await scope.execute(text(_NOTE), {"id": made, "tenant": tenant})
            note(target=str(made), details={"limit_nano_usd": 1})
            if commit:
                await scope.commit()
        return made


@pytest.fixture
async def room(make_database: MakeDatabase, ledgerette: str) -> AsyncIterator[Room]:
    urls = await make_database("ledgerette")
    await migrate(ledgerette, urls.migrator, to="0001")
    async with sql_engine(urls.app, pool_size=16) as app, sql_engine(urls.maintenance) as maintenance:
        yield Room(app, maintenance, urls)


@pytest.fixture
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def a_draft(tenant: TenantId = ANNA) -> AuditDraft:
    return AuditDraft(action="budgets.write", method="a.v1.B/C", tenant=tenant, actor="key_1", request_hash=bytes(32))


def is_gapless(entries: list[dict[str, Any]]) -> bool:
    by_stream: dict[int, list[int]] = defaultdict(list)
    for entry in entries:
        by_stream[entry["stream"]].append(entry["position"])
    return all(positions == list(range(1, len(positions) + 1)) for positions in by_stream.values())


async def test_a_commit_writes_the_entry_of_its_call_once(room: Room) -> None:
    made = await room.mutate()
    async with tenant_scope(room.app, ANNA) as scope:
        await scope.execute(text(_CHANGE))
        await scope.commit()
    (entry,) = await room.entries()
    assert (entry["tenant_id"], entry["target"], entry["outcome"]) == (ANNA, str(made), 1)
    assert (entry["actor"], entry["details"]) == ("key_1", {"limit_nano_usd": "1"})


async def test_what_is_rolled_back_leaves_no_entry_and_no_gap(room: Room) -> None:
    await room.mutate()
    await room.mutate(commit=False)
    await room.mutate()
    entries = await room.entries()
    assert len(entries) == 2
    assert is_gapless(entries)


async def test_the_driver_writes_it_too(room: Room) -> None:
    enter_draft(a_draft())
    async with driver_scope(room.app, ANNA) as scope:
        await scope.driver.execute(_CHANGE)
        await scope.commit()
    assert len(await room.entries()) == 1


async def test_background_work_of_a_maintainer_and_side_work_write_none(room: Room) -> None:
    enter_draft(a_draft())
    async with maintenance_scope(room.maintenance) as scope:
        await scope.execute(text(_CHANGE))
        await scope.commit()
    async with tenant_scope(room.app, ANNA, audited=False) as scope:
        await scope.execute(text(_CHANGE))
        await scope.commit()
    assert await room.entries() == []


async def test_the_mesh_says_that_it_acted_itself(room: Room) -> None:
    async with tenant_scope(room.app, ANNA) as scope:
        await scope.execute(text(_CHANGE))
        with mesh_acts("cost", ANNA, action="budgets.limit", target="all", details={"why": "x" * 1_000}):
            await scope.commit()
    (entry,) = await room.entries()
    assert (entry["actor"], entry["action"], entry["target"]) == ("service:cost", "budgets.limit", "all")
    assert len(entry["details"]["why"]) == 256


async def test_a_mutation_of_nobody_is_refused(room: Room) -> None:
    enter_draft(AuditDraft(action="budgets.write", method="a.v1.B/C"))
    async with tenant_scope(room.app, ANNA) as scope:
        await scope.execute(text(_CHANGE))
        with pytest.raises(Internal):
            await scope.commit()


async def test_streams_have_no_gaps_whatever_many_writers_do_at_once(room: Room) -> None:
    """Every third rolls back, and some die between their entry and their commit."""
    failpoints_hit = 0

    async def write(number: int) -> None:
        nonlocal failpoints_hit
        try:
            await room.mutate(ANNA if number % 2 else BERT, commit=number % 3 != 0)
        except MeshError:
            failpoints_hit += 1

    failpoints.arm("audit.before_commit=error@50")
    try:
        await asyncio.gather(*(write(number) for number in range(300)))
    finally:
        failpoints.arm("")
    entries = await room.entries()
    assert failpoints_hit == 1
    assert len(entries) == 199
    assert is_gapless(entries)
    assert 1 < len({entry["stream"] for entry in entries}) <= STREAMS


async def test_a_reader_never_sees_a_gap_while_writers_are_at_work(room: Room) -> None:
    seen: dict[int, int] = {}
    done = asyncio.Event()

    async def read() -> None:
        while True:
            last = done.is_set()
            for entry in await room.store.after(seen, most=50):
                assert entry["position"] == seen.get(entry["stream"], 0) + 1
                seen[entry["stream"]] = entry["position"]
            if last and sum(seen.values()) == 200:
                return

    async def write() -> None:
        await asyncio.gather(*(room.mutate() for _ in range(200)))
        done.set()

    async with asyncio.timeout(30):
        await asyncio.gather(read(), write())


async def test_one_that_is_open_holds_back_nobody_and_its_place_is_taken_by_the_next(room: Room) -> None:
    held = asyncio.Event()
    release = asyncio.Event()

    async def hold() -> None:
        enter_draft(a_draft())
        async with driver_scope(room.app, ANNA) as scope:
            await room_insert(scope.driver)
            held.set()
            await release.wait()

    task = asyncio.create_task(hold())
    await held.wait()
    async with asyncio.timeout(5):
        for _ in range(3 * STREAMS):
            await room.mutate()
    release.set()
    await task
    entries = await room.entries()
    assert len(entries) == 3 * STREAMS
    assert is_gapless(entries)


async def room_insert(driver: PreambleConnection) -> None:
    """Adds an entry by hand, as whoever has the app role's password may."""
    await driver.execute(
        """INSERT INTO audit_entry (stream, position, record_time, tenant_id, actor, peer, action, method, target,
               outcome, reason, request_hash, request_id, correlation_id, source_address, details)
           VALUES (3, 77, '2001-01-01', $1, 'a', '', 'b', 'c', '', 1, '', '', '', '', '', '{}')""",
        ANNA,
    )


async def test_nobody_chooses_a_place_or_a_time(room: Room) -> None:
    async with driver_scope(room.app, ANNA) as scope:
        await room_insert(scope.driver)
        await scope.commit()
    (entry,) = await room.entries()
    assert entry["position"] == 1
    assert entry["record_time"].year > 2001


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM audit_entry",
        "UPDATE audit_entry SET target = 'x'",
        "DELETE FROM audit_entry",
        "TRUNCATE audit_entry",
        "SELECT * FROM audit_stream",
        "UPDATE audit_stream SET position = 0",
        "INSERT INTO audit_stream VALUES (9, 0)",
        "DROP TRIGGER place_audit_entry ON audit_entry",
        "ALTER TABLE audit_entry DISABLE TRIGGER place_audit_entry",
        "CREATE OR REPLACE FUNCTION place_audit_entry() RETURNS trigger LANGUAGE sql AS ''",
    ],
)
async def test_requests_may_only_add(room: Room, statement: str) -> None:
    await room.mutate()
    async with tenant_scope(room.app, ANNA) as scope:
        with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
            await scope.execute(text(statement))


@pytest.mark.parametrize("statement", ["UPDATE audit_entry SET target = 'x'", "UPDATE audit_stream SET position = 0"])
async def test_a_maintainer_changes_nothing(room: Room, statement: str) -> None:
    await room.mutate()
    async with maintenance_scope(room.maintenance) as scope:
        with pytest.raises(ProgrammingError, match="permission denied"):
            await scope.execute(text(statement))


async def test_an_entry_of_another_tenant_cannot_be_added(room: Room) -> None:
    enter_draft(a_draft(BERT))
    async with tenant_scope(room.app, ANNA) as scope:
        await scope.execute(text(_CHANGE))
        with pytest.raises(DBAPIError, match="row-level security"):
            await scope.commit()
    assert await room.entries() == []
    # The connection is fit for the next one.
    await room.mutate()
    assert len(await room.entries()) == 1


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE note; --", "\\x00", "\x00 \ud7ff \U0001f600", '{"a": 1}', "$$ $1 :a %s"]
)
async def test_whatever_a_target_is_called_is_stored_as_it_is(room: Room, text: str) -> None:
    enter_draft(a_draft())
    async with driver_scope(room.app, ANNA) as scope:
        await scope.driver.execute(_CHANGE)
        note(target=text, details={text: text})
        await scope.commit()
    (entry,) = await room.entries()
    kept = text.replace("\x00", "\ufffd")
    assert (entry["target"], entry["details"]) == (kept, {kept: kept})


async def test_old_entries_go_once_the_gateway_has_them_and_young_ones_never(room: Room) -> None:
    for _ in range(4):
        await room.mutate()
    (stream,) = {entry["stream"] for entry in await room.entries()}
    await _age(room, stream, through=3)
    feed = AuditFeed(room.store, service="cost", clock=SystemClock())
    assert await feed.forget_once() == 0, "nobody has said yet what the gateway has"

    assert await room.store.forget({stream: 3}, most=100) == 2
    assert await room.store.forget({stream: 4}, most=100) == 1
    assert [entry["position"] for entry in await room.entries()] == [4]
    async with maintenance_scope(room.maintenance) as scope:
        assert (await scope.execute(text("DELETE FROM audit_entry"))).rowcount == 0


async def test_a_deleted_tail_leaves_a_gap_behind(room: Room) -> None:
    """Whoever deletes what the gateway has not seen cannot turn the counter back."""
    for _ in range(2):
        await room.mutate()
    (stream,) = {entry["stream"] for entry in await room.entries()}
    await _age(room, stream, through=2)
    async with maintenance_scope(room.maintenance) as scope:
        assert (await scope.execute(text("DELETE FROM audit_entry"))).rowcount == 2
        await scope.commit()
    await room.mutate()
    assert [entry["position"] for entry in await room.entries()] == [3]


async def _age(room: Room, stream: int, *, through: int) -> None:
    async with sql_engine(room.urls.migrator, pool_size=1) as owner, owner.begin() as connection:
        await connection.execute(text("ALTER TABLE audit_entry NO FORCE ROW LEVEL SECURITY"))
        await connection.execute(
            text("UPDATE audit_entry SET record_time = now() - interval '8 days' WHERE stream = :s AND position <= :p"),
            {"s": stream, "p": through},
        )
        await connection.execute(text("ALTER TABLE audit_entry FORCE ROW LEVEL SECURITY"))
