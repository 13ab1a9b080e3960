"""One suite for the store of runs, on the fake and on real Postgres: who owns shards, and what commits refuse."""

import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.sql.scope import driver_scope
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.ports import RunStore
from services.orchestrator.engine.run import (
    SHARDS,
    SIGNAL,
    Holdings,
    OwnedRun,
    RunCommand,
    RunKind,
    RunView,
    RunWrite,
    ShardLease,
    StartKey,
    session_of,
    shard_of,
)
from services.orchestrator.storage.one_trips import SHARD_LOCK
from services.orchestrator.storage.run_store import SqlRunStore
from tests.support.known_tenants import KnownTenants
from tests.support.run_store import MemoryRunStore, WriteRefused
from tests.support.sessions import World, a_start, outcome_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
IDS = SystemIds()
#: What constraints say, here and there.
REFUSED = (WriteRefused, asyncpg.IntegrityConstraintViolationError)


class Views(RunStore, Protocol):
    """A store that also answers what callers ask of runs."""

    async def view(self, tenant: TenantId, run_id: str) -> RunView: ...

    async def turns(
        self, tenant: TenantId, run_id: str, *, after: int, most: int
    ) -> Sequence[tuple[int, session_pb2.Turn]]: ...


class Place(Protocol):
    """A store, and what its time and its other users do to it."""

    @property
    def store(self) -> Views: ...

    async def expire(self, *shards: int) -> None:
        """Has the leases of shards run out."""
        ...

    async def bury(self, owner: str) -> None:
        """Has a replica not be heard of for long."""
        ...

    def under_way(self, shard: int) -> AbstractAsyncContextManager[None]:
        """Has a commit of the shard be under way while the block runs."""
        ...

    async def erase(self, run: OwnedRun) -> None:
        """Takes a run out of the store, as the erasure of its tenant does."""
        ...


class InMemory:
    """The fake."""

    def __init__(self) -> None:
        self.store = MemoryRunStore(SystemClock())

    async def expire(self, *shards: int) -> None:
        """See `Place.expire`."""
        for shard in shards:
            self.store.shards[shard].until = SystemClock().now() - timedelta(seconds=1)

    async def bury(self, owner: str) -> None:
        """See `Place.bury`."""
        self.store.replicas[owner] = SystemClock().now() - timedelta(seconds=1)

    @asynccontextmanager
    async def under_way(self, shard: int) -> AsyncGenerator[None]:
        """See `Place.under_way`."""
        with self.store.under_way([shard]):
            yield

    async def erase(self, run: OwnedRun) -> None:
        """See `Place.erase`."""
        del self.store.runs[run.run_id]


class InPostgres:
    """The real thing."""

    def __init__(self, store: SqlRunStore, maintenance: AsyncEngine, migrator: AsyncEngine) -> None:
        self.store = store
        self._maintenance = maintenance
        self._migrator = migrator

    async def _execute(self, statement: str, *values: object) -> None:
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(statement, *values)
            await scope.commit()

    async def begin(self) -> None:
        """Has nobody hold anything."""
        await self._execute("DELETE FROM engine_replica")
        await self._execute("UPDATE shard SET owner = NULL, lease_until = NULL")

    async def expire(self, *shards: int) -> None:
        """See `Place.expire`."""
        await self._execute(
            "UPDATE shard SET lease_until = now() - interval '1 second' WHERE shard = ANY($1::smallint[])", list(shards)
        )

    async def bury(self, owner: str) -> None:
        """See `Place.bury`."""
        await self._execute(
            "UPDATE engine_replica SET alive_until = now() - interval '1 second' WHERE owner = $1", owner
        )

    @asynccontextmanager
    async def under_way(self, shard: int) -> AsyncGenerator[None]:
        """See `Place.under_way`."""
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(f"SELECT pg_advisory_xact_lock_shared({SHARD_LOCK}, $1)", shard)
            yield

    async def erase(self, run: OwnedRun) -> None:
        """See `Place.erase`."""
        async with self._migrator.begin() as connection:
            await connection.exec_driver_sql("DELETE FROM run WHERE run_id = $1", (to_uuid(run.run_id, "run"),))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(postgres: str) -> DatabaseUrls:
    made = await provision(postgres, f"comitia_orchestrator_{secrets.token_hex(4)}")
    await migrate("services.orchestrator", made.migrator)
    return made


@pytest.fixture(params=["memory", "postgres"])
def backend(request: pytest.FixtureRequest) -> DatabaseUrls | None:
    """The database to use, None for the fake."""
    return None if request.param == "memory" else request.getfixturevalue("urls")


@pytest_asyncio.fixture(loop_scope="module")
async def place(backend: DatabaseUrls | None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    if backend is None:
        yield InMemory()
        return
    kek: Path = tmp_path_factory.getbasetemp() / "kek"
    with suppress(FileExistsError):
        create_kek_file(kek)
    async with (
        sql_engine(backend.app, pool_size=3) as app,
        sql_engine(backend.maintenance, pool_size=2) as maintenance,
        sql_engine(backend.migrator, pool_size=1) as migrator,
    ):
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(kek), clock=SystemClock(), ids=IDS)
        store = SqlRunStore(
            app=app, commits=app, maintenance=maintenance, codec=JournalCodec(keys), tenants=KnownTenants()
        )
        found = InPostgres(store, maintenance, migrator)
        await found.begin()
        yield found


@pytest.fixture
def store(place: Place) -> Views:
    return place.store


@pytest.fixture
def tenant() -> TenantId:
    """A tenant of the test's own, for the database lives longer than the test."""
    return TenantId(uuid4())


class Driven:
    """A run as its owner has it in memory."""

    def __init__(self, tenant: TenantId, *, shard: int | None = None, **fields: object) -> None:
        run_id = IDS.new("run")
        while shard is not None and shard_of(run_id) != shard:
            run_id = IDS.new("run")
        self.run = OwnedRun(tenant=tenant, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
        self.live = LiveRun(self.run)
        started = a_start(**fields)  # type: ignore[arg-type]
        started.session.session_id = run_id
        self.world = World()
        self.first = self.live.begin(started, Timestamp(seconds=1))
        self.live.recorded(self.first)

    @property
    def calls(self) -> list[journal_pb2.JournalEntry]:
        return list(self.live.outstanding)

    def on(self, *commands: RunCommand) -> RunWrite:
        """Answers one call, takes commands, and gives what is to be written."""
        for intended in self.calls[:1]:
            key = intended.path, intended.call_intended.call_index
            self.live.answered(key, outcome_of(self.world, intended))
        self.live.tell(commands)
        write = self.live.advance(Timestamp(seconds=2))
        assert write is not None
        self.live.recorded(write)
        return write


async def a_run(store: RunStore, tenant: TenantId, lease: ShardLease | None, **fields: object) -> Driven:
    """Records a run; without a lease its starter does not hold its shard."""
    driven = Driven(tenant, shard=None if lease is None else lease.shard, **fields)
    created = await store.create(driven.first, None, lease)
    assert (created.earlier, created.held) == (None, lease is not None)
    return driven


def an_owner(name: str | None = None) -> str:
    return f"{name or 'r' + secrets.token_hex(4)}/{uuid4()}"


async def join(store: RunStore, owner: str, held: Holdings | None = None, *, restarted: bool = False) -> Holdings:
    return await store.hold(owner, () if held is None else held.leases, restarted=restarted, most=None)


def shards_of(held: Holdings) -> list[int]:
    return sorted(lease.shard for lease in held.leases)


def a_command(kind: str, by: str = "key_ada") -> RunCommand:
    return RunCommand(command_id=IDS.uuid(), kind=kind, by=by)


async def cancel(store: RunStore, lease: ShardLease, driven: Driven) -> None:
    """Ends a run."""
    command = a_command("cancel")
    await store.add_command(driven.run.tenant, driven.run.run_id, command)
    assert list(await store.commit([lease], [driven.on(command)])) == []


async def journal_of(store: RunStore, run: OwnedRun) -> list[tuple[int, bytes]]:
    found = list[tuple[int, bytes]]()
    while batch := await store.entries(run.tenant, run.run_id, after=found[-1][0] if found else 0):
        found += [(sequence, entry.SerializeToString(deterministic=True)) for sequence, entry in batch]
    return found


# --- who owns shards


async def test_one_replica_owns_all_shards_and_keeps_them(store: Views) -> None:
    owner = an_owner()
    held = await join(store, owner)
    assert (shards_of(held), held.share) == (list(range(SHARDS)), SHARDS)
    again = await join(store, owner, held)
    assert sorted(again.leases, key=lambda lease: lease.shard) == sorted(held.leases, key=lambda lease: lease.shard)


async def test_shards_are_claimed_a_bounded_number_at_a_time(store: Views) -> None:
    held = await store.hold(an_owner(), (), restarted=False, most=5)
    assert len(held.leases) == 5


async def test_a_leased_shard_is_nobodys_to_claim(store: Views) -> None:
    await join(store, an_owner())
    second = await join(store, an_owner())
    assert (second.leases, second.share) == ((), SHARDS // 2)


@pytest.mark.parametrize("replicas", [2, 3])
async def test_replicas_get_fair_shares_once_the_first_hands_over(store: Views, replicas: int) -> None:
    owners = [an_owner() for _ in range(replicas)]
    held = {owner: await join(store, owner) for owner in owners}
    share = -(-SHARDS // replicas)
    held = {owner: await join(store, owner, held[owner]) for owner in owners}
    assert {one.share for one in held.values()} == {share}
    surplus = held[owners[0]].leases[share:]
    await store.release(owners[0], surplus, leaving=False)
    for owner in owners[1:]:
        held[owner] = await join(store, owner, held[owner])
    kept = held[owners[0]].leases[:share]
    assert [len(kept), *(len(held[owner].leases) for owner in owners[1:])] == [
        share,
        *([share] * (replicas - 2)),
        SHARDS - share * (replicas - 1),
    ]
    owned = [*(lease.shard for lease in kept), *(shard for owner in owners[1:] for shard in shards_of(held[owner]))]
    assert set(Counter(owned).values()) == {1}, "a shard has one owner"


async def test_a_change_of_hands_raises_the_epoch(store: Views) -> None:
    first = an_owner()
    before = {lease.shard: lease.epoch for lease in (await join(store, first)).leases}
    await store.release(first, [ShardLease(shard=7, epoch=before[7])], leaving=False)
    [taken] = (await store.hold(an_owner(), (), restarted=False, most=1)).leases
    assert (taken.shard, taken.epoch) == (7, before[7] + 1)


async def test_a_restarted_replica_takes_its_shards_at_once(store: Views) -> None:
    before = await join(store, an_owner("r-restarted"))
    reborn = an_owner("r-restarted")
    assert not (await join(store, reborn)).leases, "unless it says so, the leases have to run out"
    after = await join(store, reborn, restarted=True)
    assert (shards_of(after), after.share) == (list(range(SHARDS)), SHARDS)
    epochs = {lease.shard: lease.epoch for lease in before.leases}
    assert all(lease.epoch == epochs[lease.shard] + 1 for lease in after.leases)


async def test_a_restarted_replica_takes_nothing_of_others(store: Views) -> None:
    first = await join(store, an_owner())
    other = an_owner()
    assert not (await join(store, other, restarted=True)).leases
    assert len(first.leases) == SHARDS


async def test_an_expired_lease_that_nobody_claimed_can_be_extended(place: Place, tenant: TenantId) -> None:
    store, owner = place.store, an_owner()
    held = await join(store, owner)
    driven = await a_run(store, tenant, held.leases[0])
    await place.expire(held.leases[0].shard)
    assert list(await store.commit([held.leases[0]], [driven.on()])) == [held.leases[0].shard]
    again = await join(store, owner, held)
    assert set(again.leases) == set(held.leases)


async def test_an_expired_lease_is_free_for_others(place: Place) -> None:
    store, owner, other = place.store, an_owner(), an_owner()
    held = await join(store, owner)
    await join(store, other)
    await place.expire(3, 5)
    assert shards_of(await join(store, other)) == [3, 5]
    assert {3, 5}.isdisjoint(shards_of(await join(store, owner, held)))


async def test_what_an_owner_holds_without_knowing_it_gets_again(store: Views) -> None:
    """The answer to its claim was lost, so nobody else would take it until the lease runs out."""
    owner = an_owner()
    lost = {lease.shard: lease.epoch for lease in (await join(store, owner)).leases}
    again = {lease.shard: lease.epoch for lease in (await join(store, owner)).leases}
    assert again == {shard: epoch + 1 for shard, epoch in lost.items()}


async def test_a_released_shard_is_free_at_once(store: Views) -> None:
    first, second = an_owner(), an_owner()
    held = await join(store, first)
    await join(store, second)
    await store.release(first, held.leases[:2], leaving=False)
    assert shards_of(await join(store, second)) == sorted(lease.shard for lease in held.leases[:2])


async def test_a_replica_that_leaves_takes_no_share_any_more(store: Views) -> None:
    first, second = an_owner(), an_owner()
    held = await join(store, first)
    await join(store, second)
    await store.release(first, held.leases, leaving=True)
    after = await join(store, second)
    assert (after.share, len(after.leases)) == (SHARDS, SHARDS)


async def test_a_replica_that_is_silent_takes_no_share_any_more(place: Place) -> None:
    first, second = an_owner(), an_owner()
    await join(place.store, first)
    await join(place.store, second)
    await place.bury(first)
    assert (await join(place.store, second)).share == SHARDS


async def test_nobody_releases_what_another_has_claimed(place: Place) -> None:
    store, first, second = place.store, an_owner(), an_owner()
    held = await join(store, first)
    await join(store, second)
    await place.expire(9)
    taken = await join(store, second)
    await store.release(first, held.leases, leaving=True)
    assert taken.leases[0] in (await join(store, second, taken)).leases


async def test_a_claim_leaves_out_a_shard_whose_commit_is_under_way(place: Place) -> None:
    store, first, second = place.store, an_owner(), an_owner()
    await join(store, first)
    await join(store, second)
    await place.expire(4, 6)
    async with place.under_way(4):
        assert shards_of(taken := await join(store, second)) == [6]
    assert shards_of(await join(store, second, taken)) == [4, 6]


# --- the fence


async def test_a_commit_under_an_old_epoch_writes_nothing_and_names_the_shards(place: Place, tenant: TenantId) -> None:
    store, first = place.store, an_owner()
    held = await join(store, first)
    lease = held.leases[11]
    driven = await a_run(store, tenant, lease)
    before, command = await journal_of(store, driven.run), a_command("cancel")
    await store.add_command(tenant, driven.run.run_id, command)
    write = driven.on(command)
    await place.expire(lease.shard)
    [taken] = (await join(store, an_owner())).leases
    assert list(await store.commit([lease], [write])) == [lease.shard]
    assert await journal_of(store, driven.run) == before
    assert (await store.view(tenant, driven.run.run_id)).state == session_pb2.SESSION_STATE_RUNNING
    assert await store.is_waiting(tenant, command)
    assert list(await store.commit([taken], [write])) == []
    assert (await store.view(tenant, driven.run.run_id)).state == session_pb2.SESSION_STATE_CANCELLED
    assert not await store.is_waiting(tenant, command)


async def test_of_two_shards_one_lost_writes_nothing(place: Place, tenant: TenantId) -> None:
    store = place.store
    leases = (await join(store, an_owner())).leases[:2]
    runs = [await a_run(store, tenant, lease) for lease in leases]
    before = [await journal_of(store, driven.run) for driven in runs]
    writes = [driven.on() for driven in runs]
    await place.expire(leases[1].shard)
    assert list(await store.commit(leases, writes)) == [leases[1].shard]
    assert [await journal_of(store, driven.run) for driven in runs] == before
    assert list(await store.commit(leases[:1], writes[:1])) == []
    assert len(await journal_of(store, runs[0].run)) > len(before[0])


async def test_a_commit_under_a_released_lease_writes_nothing(store: Views, tenant: TenantId) -> None:
    owner = an_owner()
    [lease, *_] = (await join(store, owner)).leases
    driven = await a_run(store, tenant, lease)
    await store.release(owner, [lease], leaving=False)
    assert list(await store.commit([lease], [driven.on()])) == [lease.shard]


async def test_a_fact_recorded_twice_is_refused(store: Views, tenant: TenantId) -> None:
    [lease, other, *_] = (await join(store, an_owner())).leases
    driven, neighbour = await a_run(store, tenant, lease), await a_run(store, tenant, other)
    write = driven.on()
    assert list(await store.commit([lease], [write])) == []
    recorded, before = await journal_of(store, driven.run), await journal_of(store, neighbour.run)
    with pytest.raises(REFUSED):
        await store.commit([lease, other], [neighbour.on(), write])
    assert await journal_of(store, driven.run) == recorded
    assert await journal_of(store, neighbour.run) == before, "its neighbour was not written either"


async def test_what_many_answers_lead_to_is_one_write(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    entries = [journal_pb2.JournalEntry(path="nodes/a")] * 40_000
    write = RunWrite(run=driven.run, first_sequence=driven.first.last_sequence + 1, entries=entries, view=None)
    assert list(await store.commit([lease], [write])) == []
    [(last, _)] = await store.entries(tenant, driven.run.run_id, after=write.last_sequence - 1)
    assert last == write.last_sequence


async def test_a_write_that_gives_sub_runs_up_cancels_those_that_go_on(store: Views, tenant: TenantId) -> None:
    [lease, other, *_] = (await join(store, an_owner())).leases
    parent, going, ended = [await a_run(store, tenant, each) for each in (lease, other, other)]
    await cancel(store, other, ended)
    orphans = [going.run.run_id, ended.run.run_id, IDS.new("run")]
    for _ in range(2):
        assert list(await store.commit([lease], [replace(parent.on(), orphans=orphans)])) == []
    [command] = await store.commands_of(going.run.run_id)
    assert (command.kind, command.by, command.payload) == ("cancel", parent.run.run_id, b"")
    assert not await store.commands_of(ended.run.run_id)
    assert list(await store.commit([other], [going.on(command)])) == []
    assert (await store.view(tenant, going.run.run_id)).state == session_pb2.SESSION_STATE_CANCELLED


async def test_a_write_that_is_refused_cancels_no_sub_run(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    parent, going = [await a_run(store, tenant, lease) for _ in range(2)]
    write = replace(parent.on(), orphans=[going.run.run_id])
    stale = ShardLease(shard=lease.shard, epoch=lease.epoch - 1)
    assert list(await store.commit([stale], [write])) == [lease.shard]
    assert not await store.commands_of(going.run.run_id)


async def test_a_run_that_is_gone_fails_the_commit(place: Place, tenant: TenantId) -> None:
    store = place.store
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    await place.erase(driven.run)
    with pytest.raises(REFUSED):
        await store.commit([lease], [driven.on()])


async def test_of_several_writes_of_a_run_the_last_view_is_seen(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    writes = [driven.on() for _ in range(8)]
    assert sum(write.view is not None for write in writes) > 1
    assert list(await store.commit([lease], writes)) == []
    last = [write for write in writes if write.view is not None][-1]
    assert await store.view(tenant, driven.run.run_id) == last.view
    sequences = [sequence for sequence, _ in await journal_of(store, driven.run)]
    assert sequences == list(range(1, writes[-1].last_sequence + 1))


async def test_a_write_that_shows_nothing_new_leaves_the_view(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    write = driven.on()
    assert (write.view, bool(write.entries)) == (None, True), "an answer to a recall is not seen"
    await store.commit([lease], [write])
    assert await store.view(tenant, driven.run.run_id) == driven.first.view


# --- starting


async def test_a_run_whose_starter_holds_no_lease_waits_to_be_adopted(store: Views, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, None)
    [adopt] = await store.commands_of(driven.run.run_id)
    assert (adopt.kind, adopt.by) == ("adopt", "")
    assert list((await asked(store, driven.run.shard))[driven.run.run_id]) == [adopt]


async def test_a_run_started_under_a_lost_lease_waits_to_be_adopted(place: Place, tenant: TenantId) -> None:
    store = place.store
    [lease, *_] = (await join(store, an_owner())).leases
    await place.expire(lease.shard)
    driven = Driven(tenant, shard=lease.shard)
    assert not (await store.create(driven.first, None, lease)).held
    assert [command.kind for command in await store.commands_of(driven.run.run_id)] == ["adopt"]


async def test_the_same_request_starts_one_run(store: Views, tenant: TenantId) -> None:
    key = StartKey(tenant=tenant, kind=RunKind.SESSION, request_id=uuid4(), body=b"a")
    first, second = Driven(tenant), Driven(tenant)
    assert await store.started_before(key) is None
    assert (await store.create(first.first, key, None)).earlier is None
    assert await store.started_before(key) == first.first.view
    assert (await store.create(second.first, key, None)).earlier == first.first.view
    assert await store.owned_run(second.run.run_id) is None, "nothing was written"
    other = StartKey(tenant=tenant, kind=RunKind.SESSION, request_id=key.request_id, body=b"b")
    with pytest.raises(RequestIdReused):
        await store.create(second.first, other, None)


# --- what an owner finds


async def test_runs_that_rest_or_have_ended_are_not_looked_up(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    running, cancelled = [await a_run(store, tenant, lease) for _ in range(2)]
    manual = await a_run(store, tenant, lease, manual_advance=True)
    while manual.calls:
        await store.commit([lease], [manual.on()])
    await cancel(store, lease, cancelled)
    assert (await store.view(tenant, manual.run.run_id)).state == session_pb2.SESSION_STATE_WAITING
    mine = {driven.run.run_id for driven in (running, cancelled, manual)}
    found = list[OwnedRun]()
    while batch := await store.open_runs(lease.shard, after=found[-1].run_id if found else None):
        found += batch
    assert [run for run in found if run.run_id in mine] == [running.run]
    assert sorted(run.run_id for run in found) == [run.run_id for run in found]
    assert await store.owned_run(manual.run.run_id) == manual.run
    assert await store.owned_run(cancelled.run.run_id) is None


async def test_a_paused_run_rests_and_wakes_for_its_moment_alone(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    moment = datetime(2040, 1, 1, tzinfo=UTC)
    late, soon = [await a_run(store, tenant, lease) for _ in range(2)]
    for driven, minutes in ((late, 9), (soon, 1)):
        paused = session_pb2.Session()
        paused.CopyFrom(session_of(driven.first.view or paused))
        paused.state = session_pb2.SESSION_STATE_PAUSED
        nothing = RunWrite(
            run=driven.run,
            first_sequence=99,
            entries=(),
            view=paused,
            wake_time=moment + timedelta(minutes=minutes),
        )
        assert list(await store.commit([lease], [nothing])) == []
    mine = {late.run.run_id, soon.run.run_id}
    assert mine.isdisjoint(run.run_id for run in await store.open_runs(lease.shard, after=None))

    async def waking(minutes: int, shard: int, *but: str) -> list[OwnedRun]:
        found = await store.waking_runs([shard], before=moment + timedelta(minutes=minutes), but=but)
        return [run for run in found if run.run_id in mine]

    assert await waking(0, lease.shard) == []
    assert await waking(1, lease.shard) == [soon.run]
    assert await waking(20, lease.shard) == [soon.run, late.run]
    assert await waking(20, lease.shard, soon.run.run_id) == [late.run]
    assert await waking(20, (lease.shard + 1) % SHARDS) == []
    await cancel(store, lease, late)
    assert await waking(20, lease.shard) == [soon.run]


async def test_turns_are_given_in_order_and_from_any_point(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    while driven.calls:
        await store.commit([lease], [driven.on()])
    turns = await store.turns(tenant, driven.run.run_id, after=0, most=10)
    assert [number for number, _ in turns] == [1, 2, 3, 4]
    assert [turn.index for _, turn in turns] == [1, 2, 3, 4]
    assert list(await store.turns(tenant, driven.run.run_id, after=1, most=2)) == list(turns[1:3])


# --- commands


async def asked(store: Views, shard: int) -> dict[str, Sequence[RunCommand]]:
    """Gives the commands of all runs of a shard, page by page."""
    found = dict[str, Sequence[RunCommand]]()
    while page := await store.commands([shard], after=max(found, default=None)):
        assert list(page) == sorted(page)
        found.update(page)
    return found


async def test_a_command_that_is_the_latest_already_waits_once(store: Views, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, (await join(store, an_owner())).leases[0])
    advance, end = a_command("advance"), a_command("cancel")
    assert await store.add_command(tenant, driven.run.run_id, advance) == advance
    assert await store.add_command(tenant, driven.run.run_id, end) == end
    later = a_command("cancel", by="key_bob")
    assert await store.add_command(tenant, driven.run.run_id, later) == end
    assert list(await store.commands_of(driven.run.run_id)) == [advance, end]
    assert list((await asked(store, driven.run.shard))[driven.run.run_id]) == [advance, end]
    assert driven.run.run_id not in await asked(store, (driven.run.shard + 1) % SHARDS)
    assert not await store.is_waiting(tenant, later)


async def test_who_asks_for_a_pause_again_after_somebody_undid_it_is_heard(store: Views, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, (await join(store, an_owner())).leases[0])
    said = [a_command(kind) for kind in ("pause", "resume", "pause")]
    for command in said:
        assert await store.add_command(tenant, driven.run.run_id, command) == command
    assert list(await store.commands_of(driven.run.run_id)) == said


async def test_what_somebody_asks_to_and_fro_is_bounded(store: Views, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, (await join(store, an_owner())).leases[0])
    for number in range(70):
        await store.add_command(tenant, driven.run.run_id, a_command(("pause", "resume")[number % 2]))
    assert len(await store.commands_of(driven.run.run_id)) == 64


async def test_a_thousand_signals_hide_no_other_command(store: Views, tenant: TenantId) -> None:
    lease = (await join(store, an_owner())).leases[0]
    runs = sorted([await a_run(store, tenant, lease) for _ in range(2)], key=lambda driven: driven.run.run_id)
    for _ in range(1_000):
        signal = RunCommand(command_id=IDS.uuid(), kind=SIGNAL, by="key_ada", payload=b"{}")
        await store.add_command(tenant, runs[0].run.run_id, signal)
    ends = [a_command("cancel"), a_command("cancel")]
    for driven, end in zip(runs, ends, strict=True):
        await store.add_command(tenant, driven.run.run_id, end)
    assert (await store.commands_of(runs[0].run.run_id))[-1] == ends[0]
    found = await asked(store, lease.shard)
    assert found[runs[0].run.run_id][-1] == ends[0]
    assert list(found[runs[1].run.run_id]) == [ends[1]]


async def test_each_signal_waits_with_what_it_carries(store: Views, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, (await join(store, an_owner())).leases[0])
    signals = [
        RunCommand(command_id=IDS.uuid(), kind=SIGNAL, by="key_ada", payload=f"number {number}".encode())
        for number in range(3)
    ]
    for signal in signals:
        assert await store.add_command(tenant, driven.run.run_id, signal) == signal
    assert list(await store.commands_of(driven.run.run_id)) == signals
    assert list((await asked(store, driven.run.shard))[driven.run.run_id]) == signals


async def test_what_a_commit_is_done_with_waits_no_longer(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    done, open_ = a_command("adopt"), a_command("cancel")
    for command in (done, open_):
        await store.add_command(tenant, driven.run.run_id, command)
    nothing = RunWrite(run=driven.run, first_sequence=99, entries=(), view=None, commands=(done.command_id,))
    assert list(await store.commit([lease], [nothing])) == []
    assert not await store.is_waiting(tenant, done)
    assert await store.is_waiting(tenant, open_)


async def test_a_command_has_its_effect_once(store: Views, tenant: TenantId) -> None:
    """Whoever read it just before it was done does not do it again."""
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    command = a_command("cancel")
    await store.add_command(tenant, driven.run.run_id, command)
    done = RunWrite(run=driven.run, first_sequence=99, entries=(), view=None, commands=(command.command_id,))
    await store.commit([lease], [done])
    before = await journal_of(store, driven.run)
    with pytest.raises(REFUSED):
        await store.commit([lease], [driven.on(command)])
    assert await journal_of(store, driven.run) == before


async def test_only_commands_of_runs_that_have_ended_are_late(store: Views, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    running, ended = [await a_run(store, tenant, lease) for _ in range(2)]
    await cancel(store, lease, ended)
    early, late = a_command("cancel"), a_command("cancel")
    await store.add_command(tenant, running.run.run_id, early)
    await store.add_command(tenant, ended.run.run_id, late)
    assert ended.run.run_id not in await asked(store, lease.shard)
    assert await store.drop_late_commands() == 1
    assert await store.is_waiting(tenant, early)
    assert not await store.is_waiting(tenant, late)
    assert await store.drop_late_commands() == 0
