"""Facts of runs that ended long ago move to the archive, as the file that an export gives, and none is lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from comitia_sdk.record.run_file import RunFileReader
from services.meshkit.core.access import RelationMissing
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.secret import Secret
from services.meshkit.core.tenant import SecurityPolicy
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.scope import driver_scope, maintenance_scope
from services.meshkit.testing.failpoints import arm
from services.orchestrator.domain.errors import RunArchived, RunNotFound
from services.orchestrator.engine.run import OwnedRun
from services.orchestrator.record.replaying import Rerun
from services.orchestrator.storage.blob_sweep import SweepBlobs, TenantObjects
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import ArchiveIncomplete, SqlRunArchive
from services.orchestrator.usecases.archive_runs import ArchiveRuns
from services.orchestrator.usecases.export_run import ExportRun
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.retention import Retention
from services.orchestrator.usecases.run_access import RunAccess
from tests.integration.conftest import MakeDatabase
from tests.support.kept_runs import MOST_INLINE, KeptRuns, kept_runs
from tests.support.memory_access_gate import MemoryAccessGate

KEEP = timedelta(days=90)
NOBODY: Mapping[TenantId, timedelta] = {}


class Room:
    """Recorded runs, and what moves them to the archive."""

    def __init__(self, kept: KeptRuns) -> None:
        self.kept = kept
        self.gate = MemoryAccessGate()
        self.archive = SqlRunArchive(maintenance=kept.maintenance, keys=kept.keys, objects=kept.objects)
        records = SqlRecordStore(app=kept.app, codec=kept.codec, archive=self.archive)
        self.recorded = RecordedRuns(records=records, access=RunAccess(self.gate))
        self._export = ExportRun(runs=self.recorded)

    def mover(self, own: Mapping[TenantId, timedelta] = NOBODY, *, part_bytes: int = 4_096) -> ArchiveRuns:
        return ArchiveRuns(
            archive=self.archive,
            runs=self.recorded,
            retention=Retention(self.kept.tenants, clock=self.kept.clock, keep=KEEP, silent_seconds=5.0, own=own),
            clock=self.kept.clock,
            pause=KEEP,
            part_bytes=part_bytes,
        )

    async def ended(self, tenant: TenantId, *, days_ago: float = 91, says: int = 10) -> OwnedRun:
        """Records a run that ended some days before the present, as the archive sees it."""
        began = datetime.now(UTC) - timedelta(days=days_ago)
        run = await self.kept.add(tenant, says=says, began=began)
        connection = await asyncpg.connect(self.kept.urls.migrator)
        try:
            await connection.execute(
                "UPDATE journal SET record_time = $2 WHERE run_id = $1", to_uuid(run.run_id, "run"), began
            )
        finally:
            await connection.close()
        return run

    async def export(self, run: OwnedRun, *, caller: Caller | None = None) -> bytes:
        pieces = self._export(caller or a_caller(run.tenant), run.run_id)
        return b"".join([piece async for piece in pieces])

    async def rows(self, run: OwnedRun) -> tuple[int, int, int]:
        """Counts what the hot tables hold of a run: rows of the journal, places of turns, names of objects."""
        run_id = to_uuid(run.run_id, "run")
        tables = ("journal", "turn_place", "journal_blob")
        one, two, three = [
            await self.kept.value(f"SELECT count(*) FROM {table} WHERE run_id = $1", run_id) for table in tables
        ]
        return one, two, three


def a_caller(tenant: TenantId, *roles: Role) -> Caller:
    return Caller(
        principal=Principal(tenant=tenant, subject="key_ada", roles=frozenset(roles or {Role.ADMIN}), token=Secret("t"))
    )


@pytest.fixture
async def room(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[Room]:
    async with kept_runs(await make_migrated("orchestrator"), tmp_path) as opened:
        yield Room(opened)
    arm("")


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(uuid4())


async def test_an_archived_run_is_exported_byte_for_byte_as_before(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant, says=3 * MOST_INLINE)
    before = await room.export(run)
    assert await room.mover().round() == 1
    assert await room.rows(run) == (0, 0, 0)
    files = room.kept.files("archive")
    assert len(files) > 3
    assert all(b"rounds/1" not in file.read_bytes() for file in files)
    after = await room.export(run)
    assert after == before
    reader, rerun = RunFileReader(BytesIO(after)), Rerun(run.run_id)
    for fact in reader.facts():
        rerun.take_fact(fact.entry)
    assert rerun.finish().same
    assert await room.mover().round() == 0


async def test_an_archived_run_is_seen_as_it_ended_and_its_facts_are_refused(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant)
    seen = await room.kept.store.journal.view(tenant, run.run_id)
    assert await room.mover().round() == 1
    assert await room.kept.store.journal.view(tenant, run.run_id) == seen
    assert await room.kept.store.journal.views(tenant, before=None, most=5) == ([seen], False)
    with pytest.raises(RunArchived):
        await room.kept.store.journal.entries(tenant, run.run_id)
    with pytest.raises(RunArchived):
        await room.kept.store.journal.turns(tenant, run.run_id, after=0, most=5)
    with pytest.raises(RunArchived):
        await room.recorded.open(a_caller(tenant), run.run_id)


async def test_only_runs_that_ended_long_ago_are_archived(room: Room, tenant: TenantId) -> None:
    young = await room.ended(tenant, days_ago=89)
    working = await room.kept.add(tenant, ended=False, began=datetime.now(UTC) - timedelta(days=200))
    late = await room.kept.add(tenant, began=datetime.now(UTC) - timedelta(days=200))
    assert await room.mover().round() == 0
    room.kept.clock.shift = timedelta(days=2)
    assert await room.mover().round() == 1
    room.kept.clock.shift = timedelta(days=91)
    assert await room.mover().round() == 1
    assert [(await room.rows(run))[0] > 0 for run in (young, working, late)] == [False, True, False]


async def test_a_tenant_may_have_a_retention_of_its_own(room: Room, tenant: TenantId) -> None:
    longer, shorter = TenantId(uuid4()), TenantId(uuid4())
    own = {longer: timedelta(days=1), shorter: timedelta(days=1)}
    # What a tenant says itself goes before what the operator says of it.
    room.kept.tenants.set(longer, security_policy=SecurityPolicy(archive_after_days=365))
    runs = {who: await room.ended(who, days_ago=days) for who, days in ((tenant, 10), (longer, 100), (shorter, 10))}
    assert await room.mover(own).round() == 1
    assert [(await room.rows(runs[who]))[0] > 0 for who in (tenant, longer, shorter)] == [True, True, False]


async def test_a_crash_before_the_facts_are_taken_out_costs_a_second_try(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant)
    before = await room.export(run)
    # A part of the file lies there, and one that no file has any more.
    await room.archive.put(tenant, run.run_id, 0, b"cut short")
    await room.archive.put(tenant, run.run_id, 999, b"of another try")
    assert await room.export(run) == before
    assert await room.mover().round() == 1
    assert await room.export(run) == before
    room.kept.clock.shift = timedelta(days=3)
    sweep = SweepBlobs(
        room.kept.maintenance, room.kept.objects, clock=room.kept.clock, grace=timedelta(days=1), pause=KEEP
    )
    files = room.kept.files("archive")
    assert await sweep.sweep() == 1
    assert [file for file in files if not file.exists()] == [file for file in files if file.name == "000999"]
    assert await room.export(run) == before


async def test_two_replicas_archive_a_run_once(room: Room, tenant: TenantId) -> None:
    runs = [await room.ended(tenant) for _ in range(3)]
    before = [await room.export(run) for run in runs]
    assert sum(await asyncio.gather(room.mover().round(), room.mover().round())) == 3
    assert [await room.export(run) for run in runs] == before


async def test_nothing_is_taken_out_that_is_not_in_the_archive(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant)
    before = await room.rows(run)
    with pytest.raises(ArchiveIncomplete):
        await room.archive.take_out(run.run_id, parts=1, facts=3)
    assert await room.rows(run) == before
    assert len(await room.kept.facts(run)) > 3


async def test_objects_of_an_archived_run_are_swept(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant, says=3 * MOST_INLINE)
    before = await room.export(run)
    await room.mover().round()
    assert room.kept.files("blobs")
    room.kept.clock.shift = timedelta(days=2)
    await SweepBlobs(
        room.kept.maintenance, room.kept.objects, clock=room.kept.clock, grace=timedelta(days=1), pause=KEEP
    ).sweep()
    assert room.kept.files("blobs") == []
    assert await room.export(run) == before


async def test_runs_that_cannot_be_read_do_not_hold_up_the_others(room: Room, tenant: TenantId) -> None:
    # One at a time: those that fail come first.
    room.archive = SqlRunArchive(
        maintenance=room.kept.maintenance, keys=room.kept.keys, objects=room.kept.objects, at_once=1
    )
    broken = [await room.ended(tenant, days_ago=200, says=3 * MOST_INLINE) for _ in range(2)]
    for file in room.kept.files("blobs"):
        file.unlink()
    whole = [await room.ended(who) for who in (tenant, tenant, TenantId(uuid4()))]
    assert await room.mover().round() == 3
    assert [(await room.rows(run))[0] > 0 for run in (*broken, *whole)] == [True, True, False, False, False]


async def test_an_archived_run_shows_itself_to_those_who_may_read_it(room: Room, tenant: TenantId) -> None:
    run = await room.ended(tenant)
    await room.mover().round()
    stranger = a_caller(TenantId(uuid4()))
    with pytest.raises(RunNotFound):
        await room.export(run, caller=stranger)
    bound = Caller(
        principal=Principal(
            tenant=tenant, subject="key_b", roles=frozenset({Role.ADMIN}), token=Secret("t"), project="rivers"
        )
    )
    with pytest.raises((RunNotFound, RelationMissing)):
        await room.export(run, caller=bound)


async def test_erasing_a_tenant_covers_its_archive(room: Room, tenant: TenantId) -> None:
    other = TenantId(uuid4())
    for who in (tenant, other):
        await room.ended(who)
    await room.mover().round()
    erasure = TenantObjects(room.kept.objects)
    assert (await erasure.plan(tenant)).count == len(room.kept.files(f"archive/{from_uuid('tenant', tenant)}")) > 0
    await erasure.erase(tenant)
    assert room.kept.files(f"archive/{from_uuid('tenant', tenant)}") == []
    assert room.kept.files(f"archive/{from_uuid('tenant', other)}") != []


async def test_requests_take_nothing_out_of_the_journal(room: Room, tenant: TenantId) -> None:
    await room.kept.add(tenant)
    for table in ("journal", "turn_place", "journal_blob"):
        async with driver_scope(room.kept.app, tenant) as scope:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await scope.driver.execute(f"DELETE FROM {table}")


async def test_the_tables_of_the_archive_go_back_and_forth(make_database: MakeDatabase) -> None:
    urls = await make_database("orchestrator")
    await migrate("services.orchestrator", urls.migrator)
    await migrate("services.orchestrator", urls.migrator, to="0010", back=True)
    await migrate("services.orchestrator", urls.migrator)
    async with sql_engine(urls.migrator) as engine, maintenance_scope(engine) as scope:
        assert [guard.name for guard in await audit_catalogue(scope) if guard.faults] == []
