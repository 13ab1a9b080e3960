"""Whoever changes a journal, or what it names, is found out by a look through all runs."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from services.meshkit.core.checked import Checked
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.storage.run_finder import SqlRunFinder
from services.orchestrator.usecases.check_runs import CheckRuns
from tests.integration.conftest import MakeDatabase
from tests.support.kept_runs import MOST_INLINE, KeptRuns, kept_runs


@pytest.fixture
async def kept(make_database: MakeDatabase, tmp_path: Path) -> AsyncIterator[KeptRuns]:
    async with kept_runs(await make_database("orchestrator"), tmp_path) as opened:
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
