"""Runs that begin in one transaction with others."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from services.meshkit.core.identity import TenantId
from services.orchestrator.storage.advisory_locks import SHARD_LOCK
from tests.integration.conftest import MakeDatabase
from tests.support.kept_runs import kept_runs

_TAKE_OVER = text("SELECT pg_advisory_xact_lock(:lock, :shard)")
_HELD_UP = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


async def test_whoever_leaves_is_told_once_the_run_has_begun(make_migrated: MakeDatabase, tmp_path: Path) -> None:
    async with kept_runs(await make_migrated("orchestrator"), tmp_path) as runs:
        first = runs.writes(TenantId(uuid4()))[0]
        lease = runs.leases[first.run.shard]
        async with runs.maintenance.connect() as other:
            # Held by whoever takes a shard over, while commits to it wait.
            await other.execute(_TAKE_OVER, {"lock": SHARD_LOCK, "shard": lease.shard})
            leaving = asyncio.create_task(runs.store.starts.create(first, None, lease))
            while not (await other.execute(_HELD_UP)).scalar_one():  # noqa: ASYNC110  # a lock that nobody announces
                await asyncio.sleep(0)
            leaving.cancel()
            assert (await other.execute(_HELD_UP)).scalar_one() == 1
            assert not leaving.done()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await runs.store.finder.owned_run(first.run.run_id) is not None
