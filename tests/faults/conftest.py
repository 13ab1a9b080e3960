"""One mesh with armed failpoints for all tests that kill its parts."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from comitia_sdk.aio import AsyncClient
from tests.faults.crasher import Crasher, armed, failpoint_folder
from tests.faults.failpoint_names import ON_EXPIRY, ON_STEPS, ON_THE_WAY
from tests.faults.workload import Workload, patiently, prepare
from tests.support.mesh import RunningMesh, running_mesh


@dataclass(frozen=True, slots=True)
class Stage:
    """A mesh whose failpoints are armed, and the folder that they look into."""

    mesh: RunningMesh
    folder: Path


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Gives a mesh with one process for each service."""
    names = (*ON_THE_WAY, *ON_EXPIRY, *ON_STEPS)
    with failpoint_folder() as folder, running_mesh(environment=armed(names, folder)) as mesh:
        yield Stage(mesh, folder)


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
