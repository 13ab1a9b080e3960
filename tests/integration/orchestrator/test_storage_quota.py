"""The bytes that a tenant's runs take are counted with the rows themselves, and no run begins beyond the quota."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from comitia.orchestrator.v1 import run_pb2
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.tenant import QuotaExceeded, Quotas
from services.orchestrator.domain.errors import StorageFull
from services.orchestrator.domain.sub_run_id import sub_run_id
from services.orchestrator.engine.run import OwnedRun, RunWrite, shard_of
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.storage.storage_used import SqlStorageRoom
from services.orchestrator.usecases.archive_runs import ArchiveRuns
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.retention import Retention
from services.orchestrator.usecases.run_access import RunAccess
from tests.integration.conftest import MakeDatabase
from tests.support.kept_runs import MOST_INLINE, KeptRuns, kept_runs
from tests.support.memory_access_gate import MemoryAccessGate

BIG = 3 * MOST_INLINE


@pytest.fixture
async def runs(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[KeptRuns]:
    async with kept_runs(await make_migrated("orchestrator"), tmp_path) as opened:
        yield opened


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(uuid4())


async def used(runs: KeptRuns, tenant: TenantId) -> tuple[int, int]:
    """Gives the bytes that are counted, and those that are there."""
    counted = await runs.value("SELECT coalesce(sum(bytes), 0)::bigint FROM storage_used WHERE tenant_id = $1", tenant)
    rows = await runs.value(
        "SELECT coalesce(sum(octet_length(payload)), 0)::bigint FROM journal WHERE tenant_id = $1", tenant
    )
    objects = await runs.value("SELECT coalesce(sum(bytes), 0)::bigint FROM journal_blob WHERE tenant_id = $1", tenant)
    return counted, rows + objects


async def test_runs_in_progress_may_take_a_tenth_more_and_no_more(runs: KeptRuns, tenant: TenantId) -> None:
    await runs.add(tenant, says=BIG)
    counted, _ = await used(runs, tenant)
    for quota, full in ((0, False), (counted, False), (counted * 10 // 11 + 1, False), (counted * 10 // 12, True)):
        runs.tenants.set(tenant, quotas=Quotas(max_storage_bytes=quota))
        room = SqlStorageRoom(app=runs.app, tenants=runs.tenants, clock=runs.clock)
        if full:
            with pytest.raises(StorageFull):
                await room.check(tenant)
        else:
            await room.check(tenant)
        await room.check(TenantId(uuid4()))


def move(runs: KeptRuns) -> ArchiveRuns:
    archive = SqlRunArchive(maintenance=runs.maintenance, keys=runs.keys, objects=runs.objects)
    records = SqlRecordStore(app=runs.app, codec=runs.codec, archive=archive)
    day = timedelta(days=1)
    recorded = RecordedRuns(records=records, access=RunAccess(MemoryAccessGate()))
    retention = Retention(runs.tenants, clock=runs.clock, keep=day, silent_seconds=5.0)
    return ArchiveRuns(archive=archive, runs=recorded, retention=retention, clock=runs.clock, pause=day)


async def test_what_is_counted_is_what_is_there_for_each_tenant(runs: KeptRuns, tenant: TenantId) -> None:
    other = TenantId(uuid4())
    await asyncio.gather(*(runs.add(who, says=says) for who in (tenant, other, tenant) for says in (10, BIG)))
    for who in (tenant, other):
        counted, there = await used(runs, who)
        assert counted == there > BIG
    assert (await used(runs, tenant))[0] > 1.5 * (await used(runs, other))[0]
    files = sum(file.stat().st_size for file in runs.files("blobs"))
    assert files == await runs.value("SELECT sum(bytes)::bigint FROM journal_blob")


async def test_a_commit_of_many_runs_counts_for_each_of_their_tenants(runs: KeptRuns, tenant: TenantId) -> None:
    other = TenantId(uuid4())
    started = [runs.writes(who) for who in (tenant, other, tenant, other)]
    for first, *_ in started:
        await runs.store.starts.create(first, None, runs.leases[first.run.shard])
    await runs.commit(*(write for _, *writes in started for write in writes))
    for who in (tenant, other):
        counted, there = await used(runs, who)
        assert counted == there > 0


async def test_a_commit_that_writes_nothing_counts_nothing(runs: KeptRuns, tenant: TenantId) -> None:
    first, write, *_ = runs.writes(tenant)
    lease = runs.leases[first.run.shard]
    await runs.store.starts.create(first, None, lease)
    before = await used(runs, tenant)
    stale = type(lease)(shard=lease.shard, epoch=lease.epoch - 1)
    assert list(await runs.store.journal.commit([stale], [write])) == [lease.shard]
    assert await used(runs, tenant) == before


async def test_no_run_begins_beyond_the_quota_and_those_that_have_go_on(runs: KeptRuns, tenant: TenantId) -> None:
    first, *others = runs.writes(tenant)
    await runs.store.starts.create(first, None, runs.leases[first.run.shard])
    counted, _ = await used(runs, tenant)
    runs.tenants.set(tenant, quotas=Quotas(max_storage_bytes=counted))
    for refused in (runs.store.starts.check_quota(tenant), runs.add(tenant)):
        with pytest.raises(QuotaExceeded) as caught:
            await refused
        assert {key: caught.value.metadata[key] for key in ("quota", "limit", "used")} == {
            "quota": "max_storage_bytes",
            "limit": str(counted),
            "used": str(counted),
        }
    assert await runs.value("SELECT count(*) FROM run WHERE tenant_id = $1", tenant) == 1
    for write in others:
        await runs.commit(write)
    await runs.add(TenantId(uuid4()))
    runs.tenants.set(tenant, quotas=Quotas(max_storage_bytes=100 * counted))
    await runs.add(tenant)


def first_of_sub_run(runs: KeptRuns, parent: OwnedRun) -> RunWrite:
    """Makes the write that begins a run as a step of another one."""
    run_id = sub_run_id(parent.run_id, "nodes/doubles#1.1")
    owned = OwnedRun(tenant=parent.tenant, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
    view = run_pb2.Run(run_id=run_id, parent_run_id=parent.run_id, state=run_pb2.RUN_STATE_RUNNING, sequence=1)
    return replace(runs.writes(parent.tenant)[0], run=owned, view=view)


async def test_a_run_in_progress_starts_others_beyond_the_quota_while_it_goes_on(
    runs: KeptRuns, tenant: TenantId
) -> None:
    parent = await runs.add(tenant, ended=False)
    counted, _ = await used(runs, tenant)
    begun = first_of_sub_run(runs, parent)
    lease = runs.leases[begun.run.shard]
    runs.tenants.set(tenant, quotas=Quotas(max_storage_bytes=counted, max_concurrent_runs=1))
    with pytest.raises(QuotaExceeded) as caught:
        await runs.store.starts.create(begun, None, lease)
    assert caught.value.metadata["quota"] == "max_concurrent_runs"
    runs.tenants.set(tenant, quotas=Quotas(max_storage_bytes=counted))
    assert (await runs.store.starts.create(begun, None, lease)).held
    with pytest.raises(QuotaExceeded):
        await runs.add(tenant)


async def test_what_is_archived_makes_room(runs: KeptRuns, tenant: TenantId) -> None:
    run = await runs.add(tenant, says=BIG)
    counted, _ = await used(runs, tenant)
    runs.tenants.set(tenant, quotas=Quotas(max_storage_bytes=counted))
    with pytest.raises(QuotaExceeded):
        await runs.store.starts.check_quota(tenant)
    runs.clock.shift = timedelta(days=2)
    assert await move(runs).round() == 1
    assert await runs.value("SELECT count(*) FROM journal WHERE run_id = $1", to_uuid(run.run_id, "run")) == 0
    assert await used(runs, tenant) == (0, 0)
    await runs.add(tenant)
