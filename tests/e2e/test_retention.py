"""How long answers of models are kept for repeats, as the engine tells inference of what it has recorded."""

import asyncio

from comitia.orchestrator.v1 import session_pb2
from tests.e2e.conftest import Tenant
from tests.support.mesh import RunningMesh
from tests.support.mesh_databases import connected


async def test_the_answers_of_a_run_are_acknowledged_once_the_run_has_recorded_them(
    tenant: Tenant, mesh: RunningMesh
) -> None:
    await tenant.cast("Ada", "Bob")
    session = await tenant.start("Ada", "Bob", max_rounds=2)
    ended = await tenant.ended(session.session_id)
    assert ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    async with asyncio.timeout(20), connected(mesh.data_dir, "inference") as connection:
        while True:
            rows = await connection.fetch(
                "SELECT recorded_time, acknowledged_time FROM call WHERE run_id = $1", session.session_id
            )
            if all(row["acknowledged_time"] is not None for row in rows):
                break
            await asyncio.sleep(0.2)
    assert len(rows) >= ended.turn_count == 4
    assert all(row["acknowledged_time"] > row["recorded_time"] for row in rows)
