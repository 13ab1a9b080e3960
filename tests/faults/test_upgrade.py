"""A mesh of the release before becomes one of this commit, process by process, while sessions run.

The release before is the newest tag; as long as there is none, the commit before the newest migration. Its launcher
goes on, and starts each process again by what then lies in its checkout. It runs one process of each service but the
orchestrator, so callers have to come back now and then; what they began ends well, once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher import keys, status
from services.launcher.embedded.postgres import PostgresRoom
from services.launcher.layout import DataDir, read_state
from services.launcher.options import UpOptions
from services.launcher.record import read_record
from services.launcher.services import SERVICES, processes
from tests.faults.audit import audit
from tests.faults.conftest import Stage
from tests.faults.crasher import Crasher
from tests.faults.workload import Workload
from tests.support.fault_rows import note
from tests.support.mesh import CHECKOUT, RunningMesh, running_provider
from tests.support.mesh_databases import service_url
from tests.support.providers.fake import KEY

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.xdist_group("mesh-faults")]

ORCHESTRATORS: Final = 2
MIGRATIONS: Final = ":(glob)services/*/storage/migrations/versions/0*.py"
#: Run by the code before, which knows its own options.
START: Final = """
import asyncio, json, pathlib, sys
from services.launcher import background
from services.launcher.options import UpOptions
wishes = json.loads(sys.argv[1])
options = UpOptions(data_dir=pathlib.Path(wishes.pop("data_dir")), **wishes)
asyncio.run(background.start(options, lambda step: None))
"""


class Release:
    """A checkout whose code runs, whichever commit that is."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def become(self, commit: str) -> None:
        """Puts another commit's code in place; what runs goes on with its own until it is started again."""
        git("-C", str(self._place), "checkout", "--quiet", "--detach", commit)

    def migrations(self) -> set[str]:
        """Lists the migrations of all services."""
        return {str(file) for file in self._place.glob("services/*/storage/migrations/versions/0*.py")}

    def run(self, *arguments: str, **environment: str) -> None:
        """Runs Python on its code."""
        code = os.pathsep.join(str(self._place / part) for part in (".", "gen/python", "sdk"))
        subprocess.run(
            [sys.executable, *arguments],
            cwd=self._place,
            env={**os.environ, "PYTHONPATH": code, **environment},
            check=True,
            timeout=200,
        )


def git(*arguments: str) -> str:
    """Runs git on this checkout."""
    return subprocess.run(
        ["git", *arguments], cwd=CHECKOUT, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def before() -> str:
    """Finds the commit of the release before."""
    tags = git("tag", "--merged", "HEAD~", "--sort=-creatordate").splitlines()
    added = ("--diff-filter=A", "--diff-merges=first-parent", "--", MIGRATIONS)
    return tags[0] if tags else git("log", "-1", "--first-parent", "--no-patch", "--format=%H~", *added)


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    """Gives a checkout of the release before."""
    with TemporaryDirectory(prefix="comitia-release-") as folder:
        place = Path(folder, "checkout")
        git("worktree", "add", "--quiet", "--detach", str(place), before())
        try:
            yield Release(place)
        finally:
            git("worktree", "remove", "--force", str(place))


@pytest.fixture(scope="module")
def stage(release: Release) -> Iterator[Stage]:
    """Gives a mesh of the release before."""
    with TemporaryDirectory(prefix="comitia-mesh-") as folder, _running(release, Path(folder)) as mesh:
        yield Stage(mesh, Path(folder))


@contextmanager
def _running(release: Release, folder: Path) -> Iterator[RunningMesh]:
    folder.chmod(0o755)
    with running_provider() as provider:
        wishes = {
            "data_dir": str(folder),
            "detach": True,
            "random_ports": True,
            "edge_port": 0,
            "local_model": False,
            "orchestrators": ORCHESTRATORS,
            "most_restart_wait_seconds": 1.0,
            "environment": {
                "COMITIA_INFERENCE_OPENAI_API_KEY": KEY,
                "COMITIA_INFERENCE_OPENAI_BASE_URL": f"{provider.address}/v1",
                "COMITIA_INFERENCE_OPENAI_EMBEDDING_MODEL": "text-embedding-3-small",
            },
        }
        try:
            release.run("-c", START, json.dumps(wishes))
            record = read_record(DataDir(folder))
            assert record is not None
            provider.ask_ledger(service_url(folder, "cost", "maintenance"))
            yield RunningMesh(
                addresses=record.addresses, provider=provider, data_dir=folder, options=UpOptions(data_dir=folder)
            )
        finally:
            status.down(folder)


async def test_a_mesh_of_the_release_before_becomes_one_of_this_while_sessions_run(
    release: Release, stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    known = release.migrations()

    async def trouble() -> None:
        release.become(git("rev-parse", "HEAD"))
        assert release.migrations() > known, "a migration lies between"
        _migrate(release, stage.mesh, "expand")
        for service in SERVICES:
            for process in processes(service, ORCHESTRATORS if service == "orchestrator" else 1):
                await crasher.restart(process)
                note("upgraded", service)
        _migrate(release, stage.mesh, "contract")

    sessions = await workload.during(trouble(), least=6)
    after = await workload.one()
    findings = await audit(stage.mesh, client, [*sessions, after])
    assert findings.sessions >= 7
    assert findings.settled >= findings.turns


def _migrate(release: Release, mesh: RunningMesh, phase: str) -> None:
    data = DataDir(mesh.data_dir)
    room = PostgresRoom(
        directory=data.of("postgres"),
        port=read_state(data)["ports"]["postgres"],
        log=data.log("postgres"),
        password=keys.read_secrets(data, ("postgres",))["postgres"],
    )
    arguments = ("-m", "services.launcher.migrate", "--data-dir", str(data.root), "--phase", phase)
    release.run(*arguments, COMITIA_POSTGRES_URL=room.admin_url)
