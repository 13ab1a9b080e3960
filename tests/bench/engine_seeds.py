"""Rows of runs that were, for `tests.bench.engine`: made by the hundred thousand, so copied rather than run."""

import os
from collections.abc import Iterator

import asyncpg

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.run import RunKind, shard_of

#: Bytes of a view and of a row of facts; nobody opens them.
_VIEW, _ROW = 300, 600


async def seed_finished(admin_url: str, *, runs: int) -> None:
    """Adds runs that have ended."""
    await _seed(admin_url, runs, session_pb2.SESSION_STATE_SUCCEEDED)


async def seed_waiting(admin_url: str, *, runs: int) -> None:
    """Adds runs that wait for somebody."""
    await _seed(admin_url, runs, session_pb2.SESSION_STATE_WAITING)


async def _seed(admin_url: str, runs: int, state: int) -> None:
    ids = SystemIds()
    made = [ids.new("run") for _ in range(runs)]
    connection = await asyncpg.connect(admin_url)
    try:
        columns = ["tenant_id", "run_id", "shard", "state", "view", "last_sequence", "grant_id", "kind"]
        await connection.copy_records_to_table("run", records=_runs(made, state), columns=columns)
        columns = ["tenant_id", "run_id", "first_sequence", "entry_count", "payload", "commitments"]
        await connection.copy_records_to_table("journal", records=_rows(made), columns=columns)
        await connection.execute("ANALYZE run, journal")
    finally:
        await connection.close()


def _runs(made: list[str], state: int) -> Iterator[tuple[object, ...]]:
    view = os.urandom(_VIEW)
    for run_id in made:
        yield TENANT, to_uuid(run_id, "run"), shard_of(run_id), state, view, 1, "", int(RunKind.RUN)


def _rows(made: list[str]) -> Iterator[tuple[object, ...]]:
    row, commitment = os.urandom(_ROW), os.urandom(32)
    for run_id in made:
        yield TENANT, to_uuid(run_id, "run"), 1, 1, row, commitment
