"""One mesh with armed failpoints for all tests that kill its parts."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import pytest

from comitia_sdk.aio import AsyncClient
from tests.faults.crasher import Crasher, armed, failpoint_folder
from tests.faults.failpoint_names import ON_BIG_FACTS, ON_EXPIRY, ON_STEPS, ON_THE_WAY
from tests.faults.order_effects import BIG_FACT_BYTES
from tests.faults.order_workers import OrderWorkers, unexpected
from tests.faults.orders import Orders
from tests.faults.workload import Workload, patiently, prepare
from tests.support.mesh import RunningMesh, running_mesh

#: Parts that die often are not to wait long before they are back.
MOST_RESTART_WAIT_SECONDS: Final = 1.0
SEED: Final = 20
#: A fact of the orders is big.
SETTINGS: Final = {"COMITIA_ORCHESTRATOR_MAX_INLINE_BYTES": str(BIG_FACT_BYTES)}


@dataclass(frozen=True, slots=True)
class Stage:
    """A mesh whose failpoints are armed, and the folder that they look into."""

    mesh: RunningMesh
    folder: Path


@contextmanager
def staged(*, orchestrators: int = 1, replicas: int = 1) -> Iterator[Stage]:
    """Runs a mesh for what is done to its parts while the block runs."""
    names = (*ON_THE_WAY, *ON_EXPIRY, *ON_STEPS, *ON_BIG_FACTS)
    with (
        failpoint_folder() as folder,
        running_mesh(
            orchestrators=orchestrators,
            replicas=replicas,
            environment={**SETTINGS, **armed(names, folder)},
            most_restart_wait_seconds=MOST_RESTART_WAIT_SECONDS,
        ) as mesh,
    ):
        yield Stage(mesh, folder)


@pytest.fixture(scope="package")
def stage() -> Iterator[Stage]:
    """Gives a mesh with one process for each service."""
    with staged() as one:
        yield one


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[AsyncClient]:
    """Gives the administrator, with agents that call a tool and a model that answers."""
    async with AsyncClient(stage.mesh.url, api_key=stage.mesh.admin_key) as opened:
        await patiently(lambda: prepare(opened, stage.mesh.provider))
        yield opened


@pytest.fixture
def crasher(stage: Stage) -> Crasher:
    """Gives who kills."""
    return Crasher(stage.mesh, stage.folder)


@pytest.fixture
def workload(client: AsyncClient) -> Workload:
    """Gives sessions that run meanwhile."""
    return Workload(client)


@pytest.fixture
async def workers(stage: Stage, tmp_path: Path) -> AsyncIterator[OrderWorkers]:
    """Gives processes that make the steps of orders."""
    effects = tmp_path / "effects"
    effects.mkdir()
    made = OrderWorkers(stage.mesh, effects=effects, failpoints=stage.folder)
    async with made.at_work():
        yield made
    assert not unexpected(made.ended), made.ended


@pytest.fixture
async def orders(client: AsyncClient, workers: OrderWorkers) -> Orders:
    """Gives orders that run meanwhile, of a seed."""
    made = Orders(client, Random(SEED))
    await made.prepare()
    return made
