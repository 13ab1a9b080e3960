"""What is too big for a row lies in the object store, sealed; what no journal names is swept away."""

from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from services.meshkit.blobs.store import BlobMissing
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.crypto.commitments import commit
from services.meshkit.crypto.errors import KeyServiceAway, SealBroken
from services.meshkit.sql.scope import driver_scope
from services.meshkit.testing.failpoints import FailpointHit, arm
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.ports import WritesNotReady
from services.orchestrator.storage.blob_sweep import SweepBlobs, TenantObjects
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import SqlRunArchive
from tests.integration.conftest import MakeDatabase
from tests.support.kept_runs import MOST_INLINE, KeptRuns, kept_runs

BIG = 3 * MOST_INLINE
GRACE = timedelta(hours=24)


@pytest.fixture
async def runs(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[KeptRuns]:
    async with kept_runs(await make_migrated("orchestrator"), tmp_path) as opened:
        yield opened


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(uuid4())


@pytest.fixture
def armed() -> Iterator[None]:
    yield
    arm("")


def sweeper(runs: KeptRuns) -> SweepBlobs:
    return SweepBlobs(runs.maintenance, runs.objects, clock=runs.clock, grace=GRACE, pause=GRACE)


async def test_small_facts_stay_in_their_rows(runs: KeptRuns, tenant: TenantId) -> None:
    await runs.add(tenant)
    assert runs.files("blobs") == []


async def test_a_big_fact_comes_back_from_the_object_store_as_it_was(runs: KeptRuns, tenant: TenantId) -> None:
    writes = runs.writes(tenant, says=BIG)
    await runs.store.starts.create(writes[0], None, runs.leases[writes[0].run.shard])
    for write in writes[1:]:
        await runs.commit(write)
    recorded = [entry for write in writes for entry in write.entries]
    big = [entry for entry in recorded if entry.ByteSize() > MOST_INLINE]
    assert 0 < len(big) < len(recorded)
    assert len(runs.files("blobs")) == len(big)
    assert await runs.facts(writes[0].run) == recorded
    run_id = writes[0].run.run_id
    turns = await runs.store.journal.turns(tenant, run_id, after=0, most=10)
    assert [turn.ByteSize() > BIG for _, turn in turns] == [True, True]
    in_rows = await runs.value("SELECT sum(octet_length(payload)) FROM journal")
    assert in_rows < sum(entry.ByteSize() for entry in recorded) - len(big) * MOST_INLINE


async def test_commitments_hold_for_facts_in_the_object_store(runs: KeptRuns, tenant: TenantId) -> None:
    run = await runs.add(tenant, says=BIG)
    archive = SqlRunArchive(maintenance=runs.maintenance, keys=runs.keys, objects=runs.objects)
    records = SqlRecordStore(app=runs.app, codec=runs.codec, archive=archive)
    rows = await records.rows(tenant, run.run_id, after=0)
    facts = [fact for row in rows for fact in row.facts]
    assert max(len(entry) for entry, _, _ in facts) > BIG
    assert all(commit(salt, entry) == commitment for entry, salt, commitment in facts)


async def test_objects_are_sealed_for_their_place(runs: KeptRuns, tenant: TenantId) -> None:
    run = await runs.add(tenant, says=BIG)
    one, other, *_ = runs.files("blobs")
    assert b"rounds/1/" not in one.read_bytes()
    one.write_bytes(other.read_bytes())
    with pytest.raises(SealBroken):
        await runs.facts(run)
    one.unlink()
    with pytest.raises(BlobMissing):
        await runs.facts(run)


async def test_what_a_crash_left_between_put_and_commit_is_swept_and_nothing_else(
    runs: KeptRuns, tenant: TenantId, armed: None
) -> None:
    kept = await runs.add(tenant, says=BIG)
    named = runs.files("blobs")
    writes = runs.writes(tenant, says=BIG)
    await runs.store.starts.create(writes[0], None, runs.leases[writes[0].run.shard])
    started = runs.files("blobs")
    arm("orchestrator.after_blobs=error")
    with pytest.raises(FailpointHit):
        for write in writes[1:]:
            await runs.commit(write)
    left = set(runs.files("blobs")) - set(started)
    assert left
    (runs.folder / "objects" / "blobs" / "notes.txt").write_text("not ours")
    draft = named[0].with_name(f"{named[0].name}.00ff00ff.draft")
    draft.write_bytes(b"cut short")

    assert await sweeper(runs).sweep() == 0, "a commit may still name it"
    runs.clock.shift = GRACE + timedelta(hours=1)
    assert await sweeper(runs).sweep() == len(left) + 1
    assert set(runs.files("blobs")) == {*started, runs.folder / "objects" / "blobs" / "notes.txt"}
    assert await sweeper(runs).sweep() == 0
    assert len(await runs.facts(kept)) > 5

    # Whoever takes the run up again decides it anew, and puts it anew.
    arm("")
    for write in writes[1:]:
        await runs.commit(write)
    assert await sweeper(runs).sweep() == 0
    assert await runs.facts(writes[0].run) == [entry for write in writes for entry in write.entries]


async def test_a_commit_that_is_tried_again_puts_no_second_object(
    runs: KeptRuns, tenant: TenantId, armed: None
) -> None:
    writes = runs.writes(tenant, says=BIG)
    await runs.store.starts.create(writes[0], None, runs.leases[writes[0].run.shard])
    [write] = [write for write in writes[1:] if max(entry.ByteSize() for entry in write.entries) > BIG][:1]
    arm("orchestrator.after_blobs=error@1")
    with pytest.raises(FailpointHit):
        await runs.commit(write)
    before = runs.files("blobs")
    await runs.commit(write)
    assert runs.files("blobs") == before


async def test_a_write_with_big_facts_is_made_ready_before_its_commit(runs: KeptRuns, tenant: TenantId) -> None:
    first, *writes = runs.writes(tenant, says=BIG)
    await runs.store.starts.create(first, None, runs.leases[first.run.shard])
    for write in writes:
        preparation = runs.store.journal.preparation(write)
        assert (preparation is not None) == any(entry.ByteSize() > MOST_INLINE for entry in write.entries)
        if preparation is not None:
            before = len(runs.files("blobs"))
            await preparation()
            put = len(runs.files("blobs"))
            assert put > before
            (runs.folder / "objects").rename(runs.folder / "away")
            await runs.commit(write)  # without the object store
            (runs.folder / "away").rename(runs.folder / "objects")
        else:
            await runs.commit(write)
    assert await runs.facts(first.run) == [entry for write in (first, *writes) for entry in write.entries]
    assert runs.store.journal.preparation(runs.writes(TenantId(uuid4()))[0]) is not None, "its key is not in memory"


async def test_without_the_object_store_only_commits_of_big_facts_fail(runs: KeptRuns, tenant: TenantId) -> None:
    small, big = runs.writes(tenant), runs.writes(tenant, says=BIG)
    for first in (small[0], big[0]):
        await runs.store.starts.create(first, None, runs.leases[first.run.shard])
    (runs.folder / "objects").write_text("no folder")
    for write in small[1:]:
        await runs.commit(write)
    with pytest.raises(WritesNotReady) as refused:
        for write in big[1:]:
            await runs.commit(write)
    assert refused.value.run_ids == {big[0].run.run_id}
    (runs.folder / "objects").unlink()
    assert await runs.facts(small[0].run) == [entry for write in small for entry in write.entries]
    assert len(await runs.facts(big[0].run)) < sum(len(write.entries) for write in big)


async def test_without_a_key_only_the_runs_of_its_tenant_wait(
    runs: KeptRuns, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = runs.writes(tenant), runs.writes(TenantId(uuid4()))
    for first in (mine[0], theirs[0]):
        await runs.store.starts.create(first, None, runs.leases[first.run.shard])
    load = JournalCodec.load

    async def load_but_mine(codec: JournalCodec, tenants: Iterable[TenantId]) -> None:
        asked = list(tenants)
        if tenant in asked:
            raise KeyServiceAway("the key service")
        await load(codec, asked)

    monkeypatch.setattr(JournalCodec, "load", load_but_mine)
    with pytest.raises(WritesNotReady) as refused:
        await runs.store.journal.commit(list(runs.leases.values()), [mine[1], theirs[1]])
    assert refused.value.run_ids == {mine[0].run.run_id}
    await runs.commit(theirs[1])


async def test_erasing_a_tenant_deletes_its_objects_and_no_others(runs: KeptRuns, tenant: TenantId) -> None:
    other = TenantId(uuid4())
    await runs.add(tenant, says=BIG)
    theirs = await runs.add(other, says=BIG)
    erasure = TenantObjects(runs.objects)
    mine = runs.files(f"blobs/{from_uuid('tenant', tenant)}")
    assert (await erasure.plan(tenant)).count == len(mine) > 0
    assert (await erasure.erase(tenant)).count == len(mine)
    assert (await erasure.erase(tenant)).count == 0
    assert runs.files(f"blobs/{from_uuid('tenant', tenant)}") == []
    assert len(await runs.facts(theirs)) > 5


async def test_requests_see_what_their_own_tenants_journals_name(runs: KeptRuns, tenant: TenantId) -> None:
    await runs.add(tenant, says=BIG)
    async with driver_scope(runs.app, TenantId(uuid4())) as scope:
        assert await scope.driver.fetchval("SELECT count(*) FROM journal_blob") == 0
    async with driver_scope(runs.app, tenant) as scope:
        assert await scope.driver.fetchval("SELECT count(*) FROM journal_blob") > 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await scope.driver.execute("DELETE FROM journal_blob")
