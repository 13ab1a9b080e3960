"""Finds the runs of a shard that have something to do."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.sql.scope import driver_scope
from services.orchestrator.domain.sub_run_id import ids_of_tree
from services.orchestrator.engine.run import (
    OwnedRun,
)
from services.orchestrator.usecases.check_runs import FoundRun

#: Runs of a shard that are looked up at once.
_RUNS_AT_ONCE: Final = 64
#: What waits for somebody (2), or is paused (8), rests in the database until a command or its moment comes.
_OPEN_RUNS: Final = """
    SELECT tenant_id, run_id, grant_id, shard FROM run
    WHERE shard = $1 AND state NOT IN (2, 5, 6, 7, 8) AND ($2::uuid IS NULL OR run_id > $2) ORDER BY run_id LIMIT $3"""
_WAKING_RUNS: Final = """
    SELECT tenant_id, run_id, grant_id, shard FROM run
    WHERE wake_time <= $2 AND state NOT IN (5, 6, 7) AND shard = ANY($1::smallint[]) AND run_id <> ALL($4::uuid[])
    ORDER BY wake_time LIMIT $3"""
_OWNED_RUN: Final = """
    SELECT tenant_id, run_id, grant_id, shard FROM run WHERE run_id = $1 AND state NOT IN (5, 6, 7)"""

_OPEN_IN_TREE: Final = """
    SELECT tenant_id, run_id, grant_id, shard FROM run
    WHERE tenant_id = $1 AND run_id BETWEEN $2 AND $3 AND state NOT IN (5, 6, 7)
    AND ($4::uuid IS NULL OR run_id > $4) ORDER BY run_id LIMIT $5"""
#: One statement sees rows and journals at one moment.
_NEWEST: Final = """
    SELECT tenant_id, run_id, state NOT IN (5, 6, 7) AS open, last_sequence,
           coalesce((SELECT first_sequence + entry_count - 1 FROM journal WHERE journal.run_id = run.run_id
                     ORDER BY first_sequence DESC LIMIT 1), 0) AS journal_end
    FROM run WHERE (archive_parts IS NOT NULL) = $1 ORDER BY run_id DESC LIMIT $2"""
_IS_KEPT: Final = "SELECT EXISTS (SELECT FROM run WHERE run_id = $1 AND archive_parts IS NULL)"
_COUNT_OPEN: Final = "SELECT count(*) FROM run WHERE state NOT IN (5, 6, 7)"


class SqlRunFinder:
    """Implements `engine.ports.RunFinder`, and `usecases.check_runs.NewestRuns`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._maintenance = maintenance

    async def open_runs(self, shard: int, *, after: str | None) -> Sequence[OwnedRun]:
        """See `RunFinder.open_runs`."""
        last = None if after is None else to_uuid(after, "run")
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_OPEN_RUNS, shard, last, _RUNS_AT_ONCE)
        return [_owned(row) for row in rows]

    async def waking_runs(
        self, shards: Collection[int], *, before: datetime, but: Collection[str] = ()
    ) -> Sequence[OwnedRun]:
        """See `RunFinder.waking_runs`."""
        left_out = [to_uuid(run_id, "run") for run_id in but]
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_WAKING_RUNS, list(shards), before, _RUNS_AT_ONCE, left_out)
        return [_owned(row) for row in rows]

    async def owned_run(self, run_id: str) -> OwnedRun | None:
        """See `RunFinder.owned_run`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            row = await scope.driver.fetchrow(_OWNED_RUN, to_uuid(run_id, "run"))
        return None if row is None else _owned(row)

    async def open_in_tree(self, run: OwnedRun, *, after: str | None) -> Sequence[OwnedRun]:
        """See `RunFinder.open_in_tree`."""
        first, highest = ids_of_tree(run.run_id)
        last = None if after is None else to_uuid(after, "run")
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_OPEN_IN_TREE, run.tenant, first, highest, last, _RUNS_AT_ONCE)
        return [_owned(row) for row in rows]

    async def newest(self, *, most: int, archived: bool) -> Sequence[FoundRun]:
        """See `NewestRuns.newest`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_NEWEST, archived, most)
        return [
            FoundRun(
                tenant=TenantId(row["tenant_id"]),
                run_id=from_uuid("run", row["run_id"]),
                open=row["open"],
                last_sequence=row["last_sequence"],
                journal_end=row["journal_end"],
            )
            for row in rows
        ]

    async def is_kept(self, run: FoundRun) -> bool:
        """See `NewestRuns.is_kept`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            return bool(await scope.driver.fetchval(_IS_KEPT, to_uuid(run.run_id, "run")))

    async def count_open(self) -> int:
        """See `NewestRuns.count_open`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            return await scope.driver.fetchval(_COUNT_OPEN) or 0


def _owned(row: Record) -> OwnedRun:
    return OwnedRun(
        tenant=TenantId(row["tenant_id"]),
        run_id=from_uuid("run", row["run_id"]),
        grant_id=row["grant_id"],
        shard=row["shard"],
    )
