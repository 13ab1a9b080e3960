"""Every part of the mesh is stopped, slowed down, and away for a while: sessions go on, and nothing is lost or doubled.

`test_kill_matrix` kills each of them; the table at the end of `make test-faults` has all.
"""

import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher.services import SERVICES
from tests.faults.audit import audit
from tests.faults.conftest import Stage
from tests.faults.crasher import Crasher
from tests.faults.workload import Workload

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("mesh-faults")]

PARTS = (*SERVICES, "edge", "nats", "postgres")
#: Longer than most calls wait for their answer, and shorter than a lease.
PAUSE_SECONDS = 5.0
SLOW_SECONDS = 3.0
DOWN_SECONDS = 3.0


@pytest.mark.parametrize("part", PARTS)
async def test_sessions_go_on_after_a_part_was_paused(
    part: str, stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    before = crasher.child(part).restarts
    sessions = await workload.during(crasher.pause(part, PAUSE_SECONDS))
    assert crasher.child(part).restarts == before, "who comes back by itself is not started again"
    assert (await audit(stage.mesh, client, sessions)).sessions >= 3


@pytest.mark.parametrize("part", PARTS)
async def test_sessions_go_on_while_a_part_is_slow(
    part: str, stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    sessions = await workload.during(crasher.slow_down(part, SLOW_SECONDS))
    assert (await audit(stage.mesh, client, sessions)).sessions >= 3


@pytest.mark.parametrize("part", PARTS)
async def test_sessions_go_on_after_a_part_took_no_connections(
    part: str, stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    sessions = await workload.during(crasher.keep_down(part, DOWN_SECONDS))
    assert (await audit(stage.mesh, client, sessions)).sessions >= 3
