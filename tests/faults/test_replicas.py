"""Two orchestrators behind one edge: one sleeps through its lease, and both are restarted in turn, under load."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher.layout import DataDir
from services.launcher.services import processes
from tests.faults.audit import audit
from tests.faults.crasher import Crasher
from tests.faults.workload import Workload, patiently, prepare
from tests.support.mesh import RunningMesh, running_mesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("mesh-replicas")]

REPLICAS = processes("orchestrator", 2)
#: Longer than a lease of 15 s.
ASLEEP_SECONDS = 20.0
LONG_ASLEEP_SECONDS = 60.0
ROUNDS = 2


@pytest.fixture(scope="module")
def pair() -> Iterator[RunningMesh]:
    """Gives a mesh with two orchestrators."""
    with running_mesh(orchestrators=len(REPLICAS)) as mesh:
        yield mesh


@pytest.fixture
async def client(pair: RunningMesh) -> AsyncIterator[AsyncClient]:
    """Gives the administrator, with agents that call a tool and a model that answers."""
    async with AsyncClient(pair.url, api_key=pair.admin_key) as opened:
        await patiently(lambda: prepare(opened, pair.provider))
        yield opened


@pytest.fixture
def crasher(pair: RunningMesh, tmp_path: Path) -> Crasher:
    """Gives who kills."""
    return Crasher(pair, tmp_path)


async def test_what_slept_through_its_lease_commits_nothing_and_the_other_goes_on(
    pair: RunningMesh, client: AsyncClient, crasher: Crasher
) -> None:
    await _one_sleeps(pair, client, crasher, seconds=ASLEEP_SECONDS, least=3)


@pytest.mark.faults
async def test_what_slept_for_a_minute_commits_nothing_and_the_other_goes_on(
    pair: RunningMesh, client: AsyncClient, crasher: Crasher
) -> None:
    await _one_sleeps(pair, client, crasher, seconds=LONG_ASLEEP_SECONDS, least=20)


async def test_restarts_of_all_replicas_in_turn_fail_no_session(
    pair: RunningMesh, client: AsyncClient, crasher: Crasher
) -> None:
    async def trouble() -> None:
        for replica in REPLICAS * ROUNDS:
            child = crasher.child(replica)
            os.kill(child.pid, signal.SIGTERM)
            await crasher.until_back(replica, child.restarts + 1)

    workload = Workload(client)
    sessions = await workload.during(trouble(), least=6)
    assert all(crasher.child(replica).restarts >= ROUNDS for replica in REPLICAS)
    assert (await audit(pair, client, sessions)).sessions >= 6


async def _one_sleeps(mesh: RunningMesh, client: AsyncClient, crasher: Crasher, *, seconds: float, least: int) -> None:
    """Stops one of two orchestrators in the middle of its work, and wakes it when others have its runs."""
    sleeper = crasher.child(REPLICAS[0])
    log = DataDir(mesh.data_dir).log(sleeper.name)
    workload = Workload(client)
    ended_meanwhile = 0

    async def trouble() -> None:
        nonlocal ended_meanwhile
        await _until(lambda: len(workload.started) >= workload.at_once)
        os.kill(sleeper.pid, signal.SIGSTOP)
        try:
            before = len(workload.ended)
            await asyncio.sleep(seconds)
            ended_meanwhile = len(workload.ended) - before
        finally:
            os.kill(sleeper.pid, signal.SIGCONT)
        await _until(lambda: "lease lost" in log.read_text(encoding="utf-8"))

    sessions = await workload.during(trouble(), least=least)
    assert ended_meanwhile >= 1
    assert crasher.child(sleeper.name).pid == sleeper.pid
    assert (await audit(mesh, client, sessions)).sessions >= least


async def _until(met: Callable[[], bool], *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
