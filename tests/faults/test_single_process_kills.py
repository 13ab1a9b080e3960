"""All services in one process: they die together, with their launcher, and are started again on the same data."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from random import Random

import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher.layout import DataDir, holder
from tests.faults.audit import audit
from tests.faults.conftest import Stage
from tests.faults.crasher import armed, failpoint_folder
from tests.faults.failpoint_names import ON_THE_WAY
from tests.faults.workload import Workload
from tests.support.fault_rows import note
from tests.support.mesh import RunningMesh, running_mesh

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("mesh-faults")]

_GONE_SECONDS = 30.0
_PAUSE_SECONDS = 0.1


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Gives a single process with its failpoints armed."""
    with (
        failpoint_folder() as folder,
        running_mesh(single_process=True, environment=armed(ON_THE_WAY, folder)) as mesh,
    ):
        yield Stage(mesh, folder)


@pytest.mark.parametrize("name", ON_THE_WAY)
async def test_a_death_at_one_failpoint(name: str, stage: Stage, client: AsyncClient, workload: Workload) -> None:
    asked = stage.folder / name

    async def trouble() -> None:
        asked.touch()
        note("killed at a failpoint", "all in one process")
        await _gone(stage.mesh)
        await stage.mesh.start_again()

    sessions = await workload.during(trouble())
    assert not asked.exists()
    findings = await audit(stage.mesh, client, sessions)
    assert findings.sessions >= 3
    assert findings.settled >= findings.turns


async def test_deaths_anywhere(stage: Stage, client: AsyncClient, workload: Workload) -> None:
    dice = Random(7)

    async def trouble() -> None:
        for _ in range(3):
            await asyncio.sleep(dice.uniform(0.2, 2.0))
            launcher = holder(DataDir(stage.mesh.data_dir))
            assert launcher is not None
            os.kill(launcher, signal.SIGKILL)
            note("killed", "all in one process")
            await _gone(stage.mesh)
            await stage.mesh.start_again()

    sessions = await workload.during(trouble())
    assert (await audit(stage.mesh, client, sessions)).sessions >= 3


async def _gone(mesh: RunningMesh) -> None:
    """Waits until the launcher has died."""
    end = time.monotonic() + _GONE_SECONDS
    while holder(DataDir(mesh.data_dir)) is not None:
        assert time.monotonic() < end, "nothing passed the failpoint"
        await asyncio.sleep(_PAUSE_SECONDS)
