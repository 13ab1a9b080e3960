"""A budget that degrades takes runs from the first model of a chain to a cheaper one, and lets them go on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from comitia_sdk.sync import Client
from tests.e2e.test_budgets import THINK, status, think
from tests.e2e.test_command_line import AGENT, Shell
from tests.support.fake_provider import KEY
from tests.support.mesh import RunningMesh, running_mesh, running_provider
from tests.support.mesh_databases import service_url

PRICES: Final = (
    "provider,model,start_time,input_usd_per_million,output_usd_per_million\n"
    "openai_compatible,small,2026-01-01,0.01,0.02\n"
)


@pytest.fixture(scope="module")
def dear_and_cheap() -> Iterator[RunningMesh]:
    """Gives a mesh that asks a dear model first, and where that does not answer a cheap one elsewhere."""
    with running_provider() as cheap:
        settings = {
            "COMITIA_INFERENCE_OPENAI_MODEL": "gpt-4o",
            "COMITIA_INFERENCE_COMPATIBLE_BASE_URL": f"{cheap.address}/v1",
            "COMITIA_INFERENCE_COMPATIBLE_API_KEY": KEY,
            "COMITIA_INFERENCE_COMPATIBLE_MODEL": "small",
        }
        with running_mesh(environment=settings) as running:
            cheap.ask_ledger(service_url(running.data_dir, "cost", "maintenance"))
            yield running
            assert cheap.meter()["unheld"] == 0


def models(shell: Shell, project: str) -> dict[str, int]:
    """Counts the calls of each model that answers."""
    lines = shell.json("costs", "--by", "model", "--project", project)["lines"]
    return {line["key"]: int(line["event_count"]) for line in lines if not line["key"].startswith("text-embedding")}


def test_runs_go_on_with_the_cheaper_model_from_the_warning_on(dear_and_cheap: RunningMesh, tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text(PRICES)
    dear_and_cheap.comitia("prices", "import", str(file), "--apply")
    with Client(dear_and_cheap.url, api_key=dear_and_cheap.admin_key) as operator:
        shell = Shell(dear_and_cheap, operator.tenants.create("thrifty").admin_api_key)
    for noun, text in (("agent", AGENT.format(name="Ada")), ("workflow", THINK)):
        file = tmp_path / f"{noun}.yaml"
        file.write_text(text)
        shell.run(noun, "create", str(file))
    shell.run("budget", "set", "5.00", "--budget", "project:thrift", "--degrade", "--calls", "100", "--warn-at", "2")
    think(shell, "thrift")
    assert models(shell, "thrift") == {"gpt-4o": 1}
    think(shell, "thrift")
    assert status(shell, "project:thrift")["level"] == "BUDGET_LEVEL_DEGRADED"
    before = models(shell, "thrift")
    think(shell, "thrift")
    assert models(shell, "thrift") == {**before, "small": before.get("small", 0) + 1}
    think(shell, "elsewhere")
    assert models(shell, "elsewhere") == {"gpt-4o": 1}
