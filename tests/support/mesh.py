"""A whole mesh for tests: started by the launcher on free ports in a folder of its own, with a provider that we own."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from urllib.request import Request, urlopen

from services.launcher import background, status
from services.launcher.options import UpOptions
from services.launcher.record import Addresses
from tests.support.mesh_databases import service_url
from tests.support.providers.fake import KEY

CHECKOUT: Final = Path(__file__).parents[2]
_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ProviderProcess:
    """The fake provider as a process of its own."""

    address: str

    def meter(self, containing: str = "") -> dict[str, Any]:
        """Gives what was asked and answered so far; only calls whose body holds a text, with their bodies."""
        asked = f"?bodies=1&containing={quote(containing)}" if containing else ""
        with urlopen(f"{self.address}/meter{asked}", timeout=_TIMEOUT_SECONDS) as answer:
            return json.load(answer)

    def behave(self, **behaviour: object) -> None:
        """Queues what happens to the next request; with `default=True`, to all that have nothing queued.

        With `match=[…]`, to the next one whose prompt holds these texts.
        """
        self._post("behave", behaviour)

    def ask_ledger(self, url: str) -> None:
        """Has it serve only calls for which the cost database at `url` holds money."""
        self._post("ledger", {"url": url})

    def release(self, name: str) -> None:
        """Has it give the answers that it was told to hold back under a name."""
        self._post("release", {"name": name})

    def _post(self, path: str, said: Mapping[str, object]) -> None:
        headers = {"content-type": "application/json"}
        request = Request(f"{self.address}/{path}", data=json.dumps(said).encode(), headers=headers)
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            answer.read()


@dataclass(slots=True, kw_only=True)
class RunningMesh:
    """A healthy mesh."""

    addresses: Addresses
    provider: ProviderProcess
    data_dir: Path
    options: UpOptions
    #: Steps of the last start with their seconds.
    steps: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def url(self) -> str:
        """Address of the edge."""
        assert self.addresses.edge_url is not None
        return self.addresses.edge_url

    @property
    def target(self) -> str:
        """`host:port` of the edge, for gRPC."""
        assert self.addresses.edge_target is not None
        return self.addresses.edge_target

    @property
    def admin_key(self) -> str:
        """The first administrator's API key."""
        return Path(self.addresses.admin_key_path).read_text(encoding="utf-8").strip()

    @property
    def environment(self) -> dict[str, str]:
        """Environment of commands that use this mesh."""
        settings = {"COMITIA_DATA_DIR": str(self.data_dir), "COMITIA_CONFIG_DIR": str(self.data_dir / "settings")}
        return {**os.environ, **settings, "NO_COLOR": "1", "COLUMNS": "160"}

    async def start_again(self) -> None:
        """Starts it once more on the same data and the same ports, after its launcher has ended."""
        remembered = replace(self.options, edge_port=None)
        await background.start(remembered, lambda step: self.steps.update({step.step: step.seconds}))

    def pids(self) -> Mapping[str, int]:
        """Gives the process of each part."""
        return {child.name: child.pid for child in status.status(self.data_dir).children}

    def comitia(self, *arguments: str, check: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line against this mesh, with an environment on top."""
        command = [str(Path(sys.executable).with_name("comitia")), *arguments]
        variables = {**self.environment, **environment}
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=100, check=False, cwd=CHECKOUT
        )
        if check is not None:
            assert done.returncode == check, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done


@contextmanager
def running_provider() -> Iterator[ProviderProcess]:
    """Runs the fake provider while the block runs."""
    command = [sys.executable, "-m", "tests.support.providers.fake"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout is not None
    try:
        yield ProviderProcess(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextmanager
def running_mesh(
    *,
    single_process: bool = False,
    local_model: bool = False,
    openai: bool = True,
    mtls: bool = False,
    east_west: bool = False,
    orchestrators: int = 1,
    replicas: int = 1,
    most_restart_wait_seconds: float = 30.0,
    archive_wal: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningMesh]:
    """Runs a mesh on free ports while the block runs. Its provider serves no call for which no money is held.

    Args:
        openai: its default chain asks the fake provider as OpenAI, before the local model.
        environment: settings on top.
    """
    # Not pytest's tmp_path: as root, Postgres runs as another user, who must be able to enter the folder.
    folder = Path(tempfile.mkdtemp(prefix="comitia-mesh-"))
    folder.chmod(0o755)
    with running_provider() as provider:
        chain = {
            "COMITIA_INFERENCE_OPENAI_API_KEY": KEY,
            "COMITIA_INFERENCE_OPENAI_BASE_URL": f"{provider.address}/v1",
            "COMITIA_INFERENCE_ANTHROPIC_API_KEY": "",
            "COMITIA_INFERENCE_OPENAI_EMBEDDING_MODEL": "text-embedding-3-small",
        }
        settings = {
            "COMITIA_INFERENCE_STUB_ENABLED": "true",
            **(chain if openai else {}),
            **(environment or {}),
        }
        options = UpOptions(
            data_dir=folder,
            single_process=single_process,
            detach=True,
            random_ports=True,
            edge_port=0,
            local_model=local_model,
            archive_wal=archive_wal,
            mtls=mtls,
            east_west=east_west,
            orchestrators=orchestrators,
            replicas=replicas,
            most_restart_wait_seconds=most_restart_wait_seconds,
            environment=settings,
        )
        steps: dict[str, float] = {}
        try:
            addresses = asyncio.run(background.start(options, lambda step: steps.update({step.step: step.seconds})))
            provider.ask_ledger(service_url(folder, "cost", "maintenance"))
            yield RunningMesh(addresses=addresses, provider=provider, data_dir=folder, options=options, steps=steps)
            assert provider.meter()["unheld"] == 0
        finally:
            status.down(folder)
            shutil.rmtree(folder, ignore_errors=True)
