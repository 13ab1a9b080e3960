"""How many runs lie below one that somebody started, counted in the database."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.sub_run_id import sub_run_id
from services.orchestrator.engine.run import OwnedRun, shard_of
from services.orchestrator.storage.run_trees import SqlRunTrees
from tests.integration.conftest import MakeDatabase
from tests.support.kept_runs import KeptRuns, kept_runs


@pytest.fixture
async def runs(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[KeptRuns]:
    async with kept_runs(await make_migrated("orchestrator"), tmp_path) as opened:
        yield opened


async def start(runs: KeptRuns, tenant: TenantId, run_id: str = "") -> str:
    """Records a run, under an id of its own or a given one."""
    first = runs.writes(tenant)[0]
    if run_id:
        first = replace(first, run=OwnedRun(tenant=tenant, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id)))
    await runs.store.starts.create(first, None, None)
    return first.run.run_id


async def test_runs_below_a_root_are_counted_however_deep_and_no_further_than_asked(runs: KeptRuns) -> None:
    tenant, other = TenantId(uuid4()), TenantId(uuid4())
    root = await start(runs, tenant)
    trees = SqlRunTrees(runs.app)
    inner = sub_run_id(root, "nodes/inner#1.1")
    assert await trees.below(tenant, inner, most=10) == 0
    await start(runs, tenant, inner)
    for number in range(3):
        await start(runs, tenant, sub_run_id(inner, f"nodes/deep#{number}.1"))
    assert await trees.below(tenant, sub_run_id(root, "nodes/next#1.1"), most=10) == 4
    assert await trees.below(tenant, inner, most=2) == 2
    assert await trees.below(other, inner, most=10) == 0
