"""Runs whose time is over by their tenant's rule are deleted wholly, with what they started, and nothing else is."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from comitia.orchestrator.v1 import run_pb2
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds, from_uuid, to_uuid
from services.meshkit.core.secret import Secret
from services.meshkit.core.tenant import SecurityPolicy, TenantState
from services.meshkit.sql.scope import driver_scope
from services.meshkit.testing.failpoints import arm
from services.orchestrator.domain.errors import RunNotFound
from services.orchestrator.domain.sub_run_id import sub_run_id
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.run import OwnedRun, shard_of
from services.orchestrator.storage.advisory_locks import DELETIONS_LOCK
from services.orchestrator.storage.blob_sweep import SweepBlobs
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.storage.run_deletions import SqlRunDeletions
from services.orchestrator.usecases.archive_runs import ArchiveRuns
from services.orchestrator.usecases.delete_runs import DeleteRuns
from services.orchestrator.usecases.export_run import ExportRun
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.retention import Retention
from services.orchestrator.usecases.run_access import RunAccess
from tests.integration.conftest import MakeDatabase
from tests.support.forks import fork
from tests.support.kept_runs import MOST_INLINE, KeptRuns, kept_runs
from tests.support.memory_access_gate import MemoryAccessGate

BIG = 3 * MOST_INLINE
PAUSE = timedelta(hours=1)
#: Days after which the tenants of these tests have their runs deleted.
DAYS = 30
AFTER_30_DAYS = SecurityPolicy(delete_runs_after_days=DAYS)
TABLES = ("run", "journal", "journal_blob", "turn_place", "run_command")


class Room:
    """Recorded runs, and what deletes them."""

    def __init__(self, kept: KeptRuns) -> None:
        self.kept = kept
        archive = SqlRunArchive(maintenance=kept.maintenance, keys=kept.keys, objects=kept.objects)
        records = SqlRecordStore(app=kept.app, codec=kept.codec, archive=archive)
        self.recorded = RecordedRuns(records=records, access=RunAccess(MemoryAccessGate()))
        self.retention = Retention(kept.tenants, clock=kept.clock, keep=timedelta(days=1), silent_seconds=5.0)
        self.archiving = ArchiveRuns(
            archive=archive,
            runs=self.recorded,
            retention=self.retention,
            clock=kept.clock,
            pause=PAUSE,
            part_bytes=4_096,
        )
        self.deletions = SqlRunDeletions(
            app=kept.app, maintenance=kept.maintenance, codec=kept.codec, objects=kept.objects
        )
        self.deleting = DeleteRuns(deletions=self.deletions, retention=self.retention, clock=kept.clock, pause=PAUSE)

    async def ended(
        self, tenant: TenantId, *, days_ago: float = DAYS + 1, began: datetime | None = None, says: int = 10
    ) -> OwnedRun:
        """Records a session that ended some days ago.

        Args:
            began: when it began; by default a minute before.
        """
        at = datetime.now(UTC) - timedelta(days=days_ago)
        first, *others = self.kept.writes(tenant, says=says, began=began or at - timedelta(minutes=1))
        assert others[-1].view is not None
        others[-1].view.end_time.FromDatetime(at)
        await self.kept.store.starts.create(first, None, self.kept.leases[first.run.shard])
        for write in others:
            await self.kept.commit(write)
        return first.run

    async def below(self, parent: OwnedRun, name: str = "inner", *, days_ago: float | None = DAYS + 2) -> OwnedRun:
        """Records a run that another one started; None leaves it in progress."""
        run_id = sub_run_id(parent.run_id, f"nodes/{name}#1.1")
        run = OwnedRun(tenant=parent.tenant, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
        view = run_pb2.Run(run_id=run_id, parent_run_id=parent.run_id, state=run_pb2.RUN_STATE_RUNNING, sequence=1)
        if days_ago is not None:
            view.state = run_pb2.RUN_STATE_SUCCEEDED
            view.end_time.FromDatetime(datetime.now(UTC) - timedelta(days=days_ago))
        write = replace(self.kept.writes(parent.tenant)[0], run=run, view=view)
        await self.kept.store.starts.create(write, None, self.kept.leases[run.shard])
        return run

    async def archive(self) -> int:
        """Archives all that has ended, as of two days from now."""
        self.kept.clock.shift = timedelta(days=2)
        archived = await self.archiving.round()
        self.kept.clock.shift = timedelta()
        return archived

    async def sweep(self) -> int:
        """Sweeps objects, as of two days from now."""
        self.kept.clock.shift = timedelta(days=2)
        swept = await SweepBlobs(
            self.kept.maintenance, self.kept.objects, clock=self.kept.clock, grace=timedelta(days=1), pause=PAUSE
        ).sweep()
        self.kept.clock.shift = timedelta()
        return swept

    async def rows(self, run: OwnedRun) -> int:
        """Counts what any table holds of a run."""
        counts = [
            await self.kept.value(f"SELECT count(*) FROM {table} WHERE run_id = $1", run.uuid) for table in TABLES
        ]
        return sum(counts)

    async def kept_of(self, *runs: OwnedRun) -> list[bool]:
        """Says of which of these runs something is kept in the database."""
        return [await self.rows(run) > 0 for run in runs]

    async def used(self, tenant: TenantId) -> tuple[int, int]:
        """Gives the bytes that are counted of a tenant, and those that are there."""
        counted = "SELECT coalesce(sum(bytes), 0)::bigint FROM storage_used WHERE tenant_id = $1"
        there = """SELECT ((SELECT coalesce(sum(octet_length(payload)), 0) FROM journal WHERE tenant_id = $1)
            + (SELECT coalesce(sum(bytes), 0) FROM journal_blob WHERE tenant_id = $1))::bigint"""
        return await self.kept.value(counted, tenant), await self.kept.value(there, tenant)

    async def export(self, run: OwnedRun) -> bytes:
        caller = Caller(
            principal=Principal(tenant=run.tenant, subject="key_ada", roles=frozenset({Role.ADMIN}), token=Secret("t"))
        )
        return b"".join([piece async for piece in ExportRun(runs=self.recorded)(caller, run.run_id)])


@pytest.fixture
async def room(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[Room]:
    async with kept_runs(await make_migrated("orchestrator"), tmp_path) as opened:
        yield Room(opened)
    arm("")


@pytest.fixture
def tenant(room: Room) -> TenantId:
    tenant = TenantId(uuid4())
    room.kept.tenants.set(tenant, security_policy=AFTER_30_DAYS)
    return tenant


@pytest.mark.parametrize("archived", [False, True], ids=["in the journal", "in the archive"])
async def test_nothing_is_left_of_a_deleted_run_and_its_bytes_are_free(
    room: Room, tenant: TenantId, archived: bool
) -> None:
    run = await room.ended(tenant, says=BIG)
    async with driver_scope(room.kept.app, tenant) as scope:
        # One that came too late to be carried out.
        await scope.driver.execute(
            "INSERT INTO run_command (tenant_id, run_id, command_id, kind, subject) VALUES ($1, $2, $2, 'cancel', '')",
            *(tenant, run.uuid),
        )
        await scope.commit()
    if archived:
        assert await room.archive() == 1
        await room.sweep()
    assert room.kept.files("archive" if archived else "blobs") != []
    assert await room.deleting.round() == 1
    assert await room.kept_of(run) == [False]
    assert room.kept.files() == []
    assert await room.used(tenant) == (0, 0)
    for read in (room.kept.store.journal.view(tenant, run.run_id), room.export(run)):
        with pytest.raises(RunNotFound):
            await read
    assert await room.kept.store.journal.views(tenant, before=None, most=5) == ([], False)
    assert await room.deleting.round() == 0


async def test_only_what_is_over_by_the_tenants_own_rule_is_deleted(room: Room, tenant: TenantId) -> None:
    unruled, patient, suspended, erased = (TenantId(uuid4()) for _ in range(4))
    room.kept.tenants.set(patient, security_policy=SecurityPolicy(delete_runs_after_days=DAYS + 2))
    room.kept.tenants.set(suspended, security_policy=AFTER_30_DAYS, state=TenantState.SUSPENDED)
    room.kept.tenants.set(erased, security_policy=AFTER_30_DAYS, state=TenantState.DELETING)
    others = [await room.ended(who) for who in (unruled, patient, suspended, erased)]
    over = await room.ended(tenant)
    young = await room.ended(tenant, days_ago=DAYS - 1, began=datetime.now(UTC) - timedelta(days=100))
    working = await room.kept.add(tenant, ended=False, began=datetime.now(UTC) - timedelta(days=100))
    assert await room.deleting.round() == 1
    assert await room.kept_of(over, young, working, *others) == [False, True, True, True, True, True, True]
    counted, there = await room.used(tenant)
    assert counted == there > 0
    room.kept.clock.shift = timedelta(days=1.5)
    assert await room.deleting.round() == 2
    assert await room.kept_of(young, working, *others) == [False, True, True, False, True, True]


async def test_nothing_is_deleted_while_nobody_knows_which_rules_hold(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant)
    room.kept.tenants.silent = 6.0
    assert await room.deleting.round() == 0
    room.kept.tenants.silent = 0.0
    room.kept.tenants.set(tenant)
    assert await room.deleting.round() == 0
    assert await room.kept_of(run) == [True]


async def test_a_tree_goes_as_a_whole_and_not_before_its_last_run_is_over(room: Room, tenant: TenantId) -> None:
    root = await room.ended(tenant)
    inner = await room.below(root)
    late = await room.below(inner, days_ago=DAYS - 1)
    # Began in the same millisecond, so by their ids they could belong to either.
    moment = datetime.fromtimestamp((root.uuid.int >> 80) / 1000, UTC)
    neighbour = await room.ended(tenant, began=moment)
    of_neighbour = await room.below(neighbour)
    assert await room.deleting.round() == 2
    assert await room.kept_of(neighbour, of_neighbour, root, inner, late) == [False, False, True, True, True]
    room.kept.clock.shift = timedelta(days=1.5)
    assert await room.deleting.round() == 3
    assert await room.kept_of(root, inner, late) == [False, False, False]


async def test_a_run_stays_while_one_below_it_is_in_progress(room: Room, tenant: TenantId) -> None:
    root = await room.ended(tenant)
    inner = await room.below(root)
    working = await room.below(inner, days_ago=None)
    assert await room.deleting.round() == 0
    assert await room.kept_of(root, inner, working) == [True, True, True]
    assert not await room.deletions.delete(tenant, working.run_id)


async def test_a_sub_run_is_never_deleted_before_the_run_that_started_it(room: Room, tenant: TenantId) -> None:
    root = await room.ended(tenant, days_ago=1, began=datetime.now(UTC) - timedelta(days=100))
    inner = await room.below(root, days_ago=99)
    assert await room.deleting.round() == 0
    assert await room.kept_of(root, inner) == [True, True]


@pytest.mark.parametrize("hit", [1, 2, 3])
async def test_a_crash_after_any_run_of_a_tree_leaves_what_the_next_round_finds(
    room: Room, tenant: TenantId, hit: int
) -> None:
    root = await room.ended(tenant, says=BIG)
    await room.below(await room.below(root))
    await room.archive()
    arm(f"orchestrator.after_run_deleted=error@{hit}")
    assert await room.deleting.round() == hit - 1
    assert await room.kept.value("SELECT count(*) FROM run") == 3 - hit
    arm("")
    assert await room.deleting.round() == 3 - hit
    assert await room.kept.value("SELECT count(*) FROM run") == 0
    # What the crash has left behind is named by nothing.
    assert await room.sweep() > 0
    assert room.kept.files() == []
    assert await room.used(tenant) == (0, 0)


async def test_a_crash_before_the_commit_leaves_the_run_whole(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant, says=BIG)
    before, rows = await room.export(run), await room.rows(run)
    async with driver_scope(room.kept.maintenance, None) as scope:
        # Somebody holds the row, so the deletion waits in the middle of its transaction.
        await scope.driver.execute("SELECT FROM run WHERE run_id = $1 FOR UPDATE", run.uuid)
        deleting = asyncio.create_task(room.deleting.round())
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(20):
            while not await room.kept.value(waiting):  # noqa: ASYNC110  # the database tells nobody
                await asyncio.sleep(0.01)
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
    assert await room.rows(run) == rows
    assert await room.export(run) == before
    assert await room.deleting.round() == 1


async def test_one_replica_deletes_at_a_time(room: Room, tenant: TenantId) -> None:
    for _ in range(4):
        await room.ended(tenant)
    async with driver_scope(room.kept.maintenance, None) as scope:
        await scope.driver.execute(f"SELECT pg_advisory_xact_lock({DELETIONS_LOCK}, 0)")
        assert await room.deleting.round() == 0
    both = await asyncio.gather(room.deleting.round(), room.deleting.round())
    assert sum(both) + await room.deleting.round() == 4
    assert await room.used(tenant) == (0, 0)


async def test_a_run_that_cannot_be_read_holds_up_no_other(room: Room, tenant: TenantId) -> None:
    broken, whole = await room.ended(tenant), await room.ended(tenant)
    connection = await asyncpg.connect(room.kept.urls.migrator)
    try:
        await connection.execute("UPDATE run SET view = $2 WHERE run_id = $1", broken.uuid, b"not what was sealed")
    finally:
        await connection.close()
    assert await room.deleting.round() == 1
    assert await room.kept_of(broken, whole) == [True, False]


async def test_a_fork_has_copies_of_what_it_shares_and_stays_whole(room: Room, tenant: TenantId) -> None:
    origin = await room.ended(tenant, says=BIG)
    shared = await room.kept.facts(origin)
    run_id = SystemIds().new("run")
    run = OwnedRun(tenant=tenant, run_id=run_id, grant_id="grant_fork", shard=shard_of(run_id))
    first = LiveRun(run).begin_with(fork(shared, path="rounds/1/Apollo", run_id=run_id))
    await room.kept.store.starts.create(first, None, room.kept.leases[run.shard])
    answers = [entry.call_answered for entry in await room.kept.facts(run) if entry.HasField("call_answered")]
    assert answers == [shared[3].call_answered, shared[5].call_answered]
    assert await room.kept.value("SELECT count(*) FROM journal_blob WHERE run_id = $1", run.uuid) > 0
    before = await room.export(run)
    assert await room.deleting.round() == 1
    assert await room.kept_of(origin, run) == [False, True]
    assert await room.sweep() == 0
    assert await room.export(run) == before


async def test_who_reads_a_run_while_it_is_deleted_is_told_so(room: Room, tenant: TenantId) -> None:
    whole = await room.ended(tenant, says=BIG)
    opened = await room.recorded.of_tenant(tenant, whole.run_id)
    assert await room.deleting.round() == 1
    with pytest.raises(RunNotFound):
        async for _ in opened.rows():
            pass
    archived = await room.ended(tenant, says=BIG)
    await room.archive()
    pieces = ExportRun(runs=room.recorded)(
        Caller(principal=Principal(tenant=tenant, subject="key_ada", roles=frozenset({Role.ADMIN}), token=Secret("t"))),
        archived.run_id,
    )
    await anext(pieces)
    assert await room.deleting.round() == 1
    with pytest.raises(RunNotFound):
        async for _ in pieces:
            pass


async def test_the_audit_trail_says_how_many_runs_went_by_the_rule(room: Room, tenant: TenantId) -> None:
    await room.below(await room.ended(tenant))
    await room.ended(tenant)
    assert await room.deleting.round() == 3
    async with driver_scope(room.kept.maintenance, None, read_only=True) as scope:
        entries = await scope.driver.fetch("SELECT tenant_id, actor, action, target, details FROM audit_entry")
    assert [tuple(entry) for entry in entries] == [
        (tenant, "service:orchestrator", "runs.delete", from_uuid("tenant", tenant), {"runs": "3"})
    ]


async def test_requests_delete_no_run(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant)
    async with driver_scope(room.kept.app, tenant) as scope:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await scope.driver.execute("DELETE FROM run WHERE run_id = $1", to_uuid(run.run_id, "run"))
