"""Whoever changes a journal, or what it names, is found out by a look through all runs."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from services.meshkit.core.checked import Checked
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.orchestrator.record.rows import RecordedRow
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.storage.run_finder import SqlRunFinder
from services.orchestrator.usecases.check_runs import CheckRuns, FoundRun
from tests.integration.conftest import MakeDatabase
from tests.support.kept_runs import MOST_INLINE, KeptRuns, kept_runs


@pytest.fixture
async def kept(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[KeptRuns]:
    async with kept_runs(await make_migrated("orchestrator"), tmp_path) as opened:
        yield opened


async def look(kept: KeptRuns, *, most: int = 100) -> Checked:
    archive = SqlRunArchive(maintenance=kept.maintenance, keys=kept.keys, objects=kept.objects)
    records = SqlRecordStore(app=kept.app, codec=kept.codec, archive=archive)
    journals, archived = await CheckRuns(records=records, runs=SqlRunFinder(kept.maintenance))(most=most)
    assert archived == Checked(what="0 archived runs read", faults=[])
    return journals


async def change(kept: KeptRuns, statement: str, *values: object) -> None:
    connection: asyncpg.Connection = await asyncpg.connect(kept.urls.migrator)
    try:
        assert not (await connection.execute(statement, *values)).endswith(" 0")
    finally:
        await connection.close()


async def test_runs_of_all_tenants_are_replayed_and_what_was_changed_is_named(kept: KeptRuns) -> None:
    runs = [await kept.add(TenantId(uuid4())) for _ in range(3)]
    # Its end follows from what is recorded, and may be recorded in the next commit.
    await kept.add(TenantId(uuid4()), ended=False)
    assert await look(kept) == Checked(what="4 newest runs replayed, 1 are open", faults=[])
    assert (await look(kept, most=2)).what == "2 newest runs replayed, 1 are open"

    cut, broken, big = runs[0], runs[1], await kept.add(TenantId(uuid4()), says=3 * MOST_INLINE)
    await change(kept, "DELETE FROM journal WHERE run_id = $1 AND first_sequence = 2", to_uuid(cut.run_id, "run"))
    await change(
        kept,
        "UPDATE journal SET payload = set_byte(payload, 40, get_byte(payload, 40) # 1) WHERE run_id = $1",
        to_uuid(broken.run_id, "run"),
    )
    kept.files("blobs")[0].unlink()
    faults = {fault.split()[0].rstrip(":"): fault for fault in (await look(kept)).faults}

    assert faults.keys() == {cut.run_id, broken.run_id, big.run_id}
    assert "fact 2 comes next, and the journal goes on with fact" in faults[cut.run_id]
    assert "missing from the object store" in faults[big.run_id]


async def test_a_journal_that_is_lost_is_a_fault_wholly_or_at_its_end(kept: KeptRuns) -> None:
    gone, cut = await kept.add(TenantId(uuid4())), await kept.add(TenantId(uuid4()), ended=False)
    another_tenants = await kept.add(TenantId(uuid4()))
    last = await kept.value("SELECT max(first_sequence) FROM journal WHERE run_id = $1", to_uuid(cut.run_id, "run"))
    await change(kept, "DELETE FROM journal WHERE run_id = $1", to_uuid(gone.run_id, "run"))
    await change(
        kept, "DELETE FROM journal WHERE run_id = $1 AND first_sequence = $2", to_uuid(cut.run_id, "run"), last
    )
    tenant = uuid4()
    await change(
        kept, "UPDATE journal SET tenant_id = $2 WHERE run_id = $1", to_uuid(another_tenants.run_id, "run"), tenant
    )
    faults = {fault.partition(": ")[0]: fault.partition(": ")[2] for fault in (await look(kept)).faults}

    assert faults.keys() == {gone.run_id, cut.run_id, another_tenants.run_id}
    assert faults[gone.run_id].startswith("its journal ends at fact 0, and")
    assert faults[cut.run_id].startswith(f"its journal ends at fact {last - 1}, and")
    assert faults[another_tenants.run_id] == "its facts cannot be found"


async def test_a_run_that_goes_on_deleted_or_archived_meanwhile_is_no_fault(
    kept: KeptRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, going_on = [await kept.add(TenantId(uuid4())) for _ in range(2)], await kept.add(TenantId(uuid4()))
    first_look = SqlRunFinder.newest
    # The row of a run is written when something of it has changed that callers see, so it may be behind.
    await change(kept, "UPDATE run SET last_sequence = 1 WHERE run_id = $1", to_uuid(going_on.run_id, "run"))

    async def then_they_go(finder: SqlRunFinder, *, most: int, archived: bool) -> Sequence[FoundRun]:
        found = await first_look(finder, most=most, archived=archived)
        if not archived:
            uuids = [to_uuid(run.run_id, "run") for run in runs]
            await change(kept, "DELETE FROM run WHERE run_id = $1", uuids[0])
            await change(kept, "UPDATE run SET archive_parts = 0 WHERE run_id = $1", uuids[1])
            await change(kept, "DELETE FROM journal WHERE run_id = ANY($1::uuid[])", uuids)
        return found

    monkeypatch.setattr(SqlRunFinder, "newest", then_they_go)
    archive = SqlRunArchive(maintenance=kept.maintenance, keys=kept.keys, objects=kept.objects)
    records = SqlRecordStore(app=kept.app, codec=kept.codec, archive=archive)
    for checked in await CheckRuns(records=records, runs=SqlRunFinder(kept.maintenance))(most=100):
        assert list(checked.faults) == []


async def test_what_ends_one_replay_is_told_and_the_others_are_looked_at(
    kept: KeptRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, _, other = [await kept.add(TenantId(uuid4())) for _ in range(3)]
    await change(kept, "DELETE FROM journal WHERE run_id = $1", to_uuid(other.run_id, "run"))
    read = SqlRecordStore.rows

    async def rows(records: SqlRecordStore, tenant: TenantId, run_id: str, *, after: int) -> Sequence[RecordedRow]:
        if run_id == broken.run_id:
            raise ValueError("not a fact")
        return await read(records, tenant, run_id, after=after)

    monkeypatch.setattr(SqlRecordStore, "rows", rows)
    faults = (await look(kept)).faults
    assert len(faults) == 2
    assert f"{broken.run_id}: ValueError: not a fact" in faults
