"""A budget that degrades takes runs from the first model of a chain to a cheaper one, and lets them go on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.shell import THINK, Shell, thinking
from tests.e2e.test_budgets import status, think
from tests.support.mesh import RunningMesh, running_mesh, running_provider
from tests.support.mesh_databases import service_url
from tests.support.providers.fake import KEY

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


@pytest.fixture(scope="module")
def shell(dear_and_cheap: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Gives the command line of a tenant that has a workflow of one answer, with prices for both models."""
    folder = tmp_path_factory.mktemp("degrading")
    file = folder / "prices.csv"
    file.write_text(PRICES)
    dear_and_cheap.comitia("prices", "import", str(file), "--apply")
    return thinking(dear_and_cheap, "thrifty", folder)


def test_runs_go_on_with_the_cheaper_model_from_the_warning_on(shell: Shell) -> None:
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


def test_a_run_that_does_not_fit_asks_the_cheaper_model_from_the_first_call_on(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "frugal.yaml"
    file.write_text(THINK.replace("name: think", "name: frugal\npolicy: {preflight: degrade}"))
    assert "sound" in shell.run("workflow", "validate", str(file))
    shell.run("workflow", "create", str(file))
    assert "preflight  degrade" in shell.run("workflow", "show", "frugal")
    dear = int(shell.json("estimate", "frugal")["cost_nano_usd"]["median"])
    shell.run("budget", "set", f"{dear / 2e9:.9f}", "--budget", "project:frugal")

    def begun(*more: str) -> str:
        found: str = shell.json("run", "start", "frugal", "--label", "project=frugal", *more)["run_id"]
        shell.run("run", "watch", found)
        return found

    said = shell.run("run", "show", begun())
    assert "degraded to openai_compatible/small" in said
    assert "; took $" in said
    assert models(shell, "frugal") == {"small": 1}
    # What the start says goes before what the workflow says.
    refused = shell.run("run", "start", "frugal", "--label", "project=frugal", "--preflight", "reject", code=1)
    assert "ESTIMATE_EXCEEDS_BUDGET" in refused
    assert "project:frugal" in refused
    # A session finds its cheaper model just so.
    asked = ("Why rivers?", "-a", "Ada", "--rounds", "1")
    dear = int(shell.json("estimate", "--session", *asked)["cost_nano_usd"]["median"])
    session = shell.json("session", "start", *asked, "--preflight", "degrade", "--max-cost", f"{dear / 2e9:.9f}")
    assert session["estimate"]["degraded_to"] == "openai_compatible/small"
    shell.run("session", "watch", session["session_id"])
    assert 0 < int(shell.json("session", "show", session["session_id"])["cost_nano_usd"]) < dear / 10


def test_a_run_that_another_one_starts_is_not_held_up_by_itself(shell: Shell, tmp_path: Path) -> None:
    for name, text in (
        ("warned", THINK.replace("name: think", "name: warned\npolicy: {preflight: warn}")),
        ("above", "name: above\nversion: 1.0.0\nnodes:\n  - {id: below, run: warned}\n"),
    ):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        shell.run("workflow", "create", str(file))
    assert shell.json("run", "start", "warned").get("estimate") is not None
    shell.run("run", "watch", shell.json("run", "start", "above", "--preflight", "warn")["run_id"])
    by_workflow = {run["workflow"]: run for run in shell.json("run", "list") if run["parent_run_id"]}
    assert "estimate" not in by_workflow["warned@1.0.0"]
    assert by_workflow["warned@1.0.0"]["state"] == "RUN_STATE_SUCCEEDED"
