"""Lists of runs, and what is read of one, stay within bounds however much the runs hold."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.run_reader import RunReader
from services.orchestrator.storage import run_journal
from tests.integration.conftest import MakeDatabase
from tests.support.kept_runs import KeptRuns, kept_runs


@pytest.fixture
async def kept(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[KeptRuns]:
    async with kept_runs(await make_migrated("orchestrator"), tmp_path) as opened:
        yield opened


async def test_a_page_of_large_runs_ends_early_and_the_next_one_goes_on(
    kept: KeptRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = TenantId(uuid4())
    began = datetime.now(UTC)
    runs = [(await kept.add(tenant, began=began + timedelta(seconds=number))).run_id for number in range(3)]
    reader = RunReader(kept.store.journal)
    whole, more = await reader.runs(tenant, before=None, most=3, open_only=False)
    assert ([run.run_id for run in whole], more) == (runs[::-1], False)
    monkeypatch.setattr(run_journal, "_BYTES_AT_ONCE", 1)
    seen: list[str] = []
    more = True
    while more:
        page, more = await reader.runs(tenant, before=seen[-1] if seen else None, most=3, open_only=False)
        seen += [run.run_id for run in page]
        assert len(page) == 1
    assert seen == runs[::-1]
    assert await reader.sessions(tenant, before=seen[-1], most=3) == ([], False)


async def test_facts_are_given_from_any_place_on(kept: KeptRuns) -> None:
    tenant = TenantId(uuid4())
    run = await kept.add(tenant)
    facts = await kept.store.journal.entries(tenant, run.run_id)
    for after in range(len(facts) + 1):
        assert list(await kept.store.journal.entries(tenant, run.run_id, after=after)) == list(facts[after:])


async def test_steps_are_read_no_further_than_a_page_needs(kept: KeptRuns) -> None:
    tenant = TenantId(uuid4())
    run = await kept.add(tenant)
    reader = RunReader(kept.store.journal)
    steps = await reader.steps(tenant, run.run_id)
    pages = [await reader.steps(tenant, run.run_id, after=place, most=1) for place in range(len(steps) + 1)]
    assert [step for page in pages for step in page] == list(steps)
    session = await reader.seen(tenant, run.run_id)
    assert session.state == session_pb2.SESSION_STATE_SUCCEEDED
