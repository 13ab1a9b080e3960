"""A real Prometheus watches a mesh: alerts fire by what they are about, and the panels of the boards show something.

This mesh has no listener between its services; the board of one is looked at where a real Envoy is one.
"""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from services.launcher.layout import DataDir, read_state
from services.launcher.ports import metrics_port_name
from services.launcher.services import SERVICES
from tests.e2e.conftest import Tenant, until
from tests.support.envoy_series import BOARD
from tests.support.mesh import CHECKOUT, RunningMesh

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package `prometheus`"),
]
FILES: Final = CHECKOUT / "helm" / "comitia" / "files"
#: Panels that stay empty where nothing fails, nobody is refused, and nobody uses what they show.
QUIET: Final = frozenset(
    {
        *(
            "Failed by us",
            "Refused calls",
            "Faults of ours",
            "Parked runs",
            "Sessions that converged",
            "What workers said",
            "Estimates that held",
        ),
        *("Breakers that changed", "Wait for a seat", "Answers from memory", "Wait for money", "Refused spending"),
        *("Budgets by the level they came to", "Unusual spend", "Violations", "API keys refused at the edge"),
        *("Revocations arrive", "Part that failed", "Blocked by law, or refused", "Answered from cache"),
        *("Refused: too many in progress", "Refused by full queues", "Keeping of the journal that failed"),
        *("Caches: bytes", "Spans", "Verdicts: time"),
    }
)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that watches the mesh."""

    address: str

    def ask(self, query: str) -> list[Any]:
        """Gives the series of a query as it stands now."""
        with urlopen(f"{self.address}/api/v1/query?{urlencode({'query': query})}", timeout=10) as answer:
            return json.load(answer)["data"]["result"]

    async def watches(self) -> bool:
        """True once it has read every page twice."""
        try:
            return len(self.ask("count_over_time(up[1h]) > 1 and up == 1")) == len(SERVICES)
        except URLError:
            return False


@pytest.fixture
def prometheus(mesh: RunningMesh, tmp_path: Path) -> Iterator[Prometheus]:
    """Runs one with our rules."""
    ports = read_state(DataDir(mesh.data_dir))["ports"]
    pages = [
        {"job_name": service, "static_configs": [{"targets": [f"127.0.0.1:{ports[metrics_port_name(service)]}"]}]}
        for service in SERVICES
    ]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    rules = [str(FILES / "rules" / "*.yaml")]
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"global": every, "rule_files": rules, "scrape_configs": pages}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(20)


def test_each_alert_fires_by_what_it_is_about_and_none_where_all_is_well() -> None:
    tests = sorted(str(path) for path in (CHECKOUT / "tests" / "rules").glob("*.yaml"))
    done = subprocess.run(["promtool", "test", "rules", *tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_panels_of_the_boards_show_a_mesh_at_work(tenant: Tenant, prometheus: Prometheus) -> None:
    await until(prometheus.watches, seconds=60)
    await tenant.cast("Ada", "Bob", tools=["calculator"])
    tenant.says("", tool_calls=[("call_1", "calculator", '{"expression":"6 * 7"}')])
    session = await tenant.start("Ada", "Bob", max_rounds=2)
    await tenant.ended(session.session_id, seconds=60)

    async def empty() -> set[str]:
        return {
            panel["title"]
            for board in (FILES / "dashboards").glob("*.json")
            if board != BOARD
            for panel in json.loads(board.read_text())["panels"]
            if not any(prometheus.ask(target["expr"].replace("$__rate_interval", "2m")) for target in panel["targets"])
        }

    async def shown() -> bool:
        return await empty() <= QUIET

    try:
        await until(shown, seconds=90)
    except TimeoutError:
        assert await empty() - QUIET == set()
