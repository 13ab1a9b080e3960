"""What takes runs from the first model of a chain to a cheaper one: budgets that degrade, and the watch over spend."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from comitia.cost.v1 import forecast_pb2
from comitia_sdk.sync import Client
from services.cost.domain.hourly_spend import HOUR, hour_of
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from tests.e2e.shell import THINK, Shell, thinking
from tests.e2e.test_budgets import status, think
from tests.support.mesh import RunningMesh, running_mesh, running_provider
from tests.support.mesh_bus import last_told
from tests.support.mesh_databases import service_url
from tests.support.planted_charges import a_charge, plant
from tests.support.providers.fake import KEY

PRICES: Final = (
    "provider,model,start_time,input_usd_per_million,output_usd_per_million\n"
    "openai_compatible,small,2026-01-01,0.01,0.02\n"
)


@pytest.fixture(scope="module")
def dear_and_cheap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """Gives a mesh that asks a dear model first and has a cheap one elsewhere, and looks at spend each second."""
    prices = tmp_path_factory.mktemp("prices") / "prices.csv"
    prices.write_text(PRICES)
    with running_provider() as cheap:
        settings = {
            "COMITIA_INFERENCE_OPENAI_MODEL": "gpt-4o",
            "COMITIA_INFERENCE_COMPATIBLE_BASE_URL": f"{cheap.address}/v1",
            "COMITIA_INFERENCE_COMPATIBLE_API_KEY": KEY,
            "COMITIA_INFERENCE_COMPATIBLE_MODEL": "small",
            "COMITIA_COST_WATCH_SECONDS": "1",
        }
        with running_mesh(environment=settings) as running:
            cheap.ask_ledger(service_url(running.data_dir, "cost", "maintenance"))
            running.comitia("prices", "import", str(prices), "--apply")
            yield running
            assert cheap.meter()["unheld"] == 0


def models(shell: Shell, project: str) -> dict[str, int]:
    """Counts the calls of each model that answers."""
    lines = shell.json("costs", "--by", "model", "--project", project)["lines"]
    return {line["key"]: int(line["event_count"]) for line in lines if not line["key"].startswith("text-embedding")}


@pytest.fixture(scope="module")
def shell(dear_and_cheap: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return thinking(dear_and_cheap, "thrifty", tmp_path_factory.mktemp("degrading"))


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


def a_tenant(mesh: RunningMesh, name: str, folder: Path) -> tuple[Shell, TenantId]:
    """Makes a tenant that has an agent, a workflow of one answer, and three weeks of spend."""
    shell = thinking(mesh, name, folder)
    with Client(mesh.url, api_key=shell.key) as client:
        tenant = TenantId(to_uuid(client.tenants.own().tenant_id, "tenant"))
    asyncio.run(plant(service_url(mesh.data_dir, "cost", "app"), tenant, three_weeks()))
    return shell, tenant


def three_weeks() -> list[dict[str, Any]]:
    """A call of Athena's in each hour, at 6 cents, and one of Hermes's, whose model is cheaper."""
    now = hour_of(datetime.now(UTC))
    hours = [now - number * HOUR + HOUR / 2 for number in range(1, 3 * 7 * 24 + 1)]
    # Dollars a million tokens: 2.50 in and 10 out; 0.15 and 0.60.
    dear = {"model": "gpt-4o", "input_tokens": 20_000, "output_tokens": 1_000}
    cheap = {"agent_name": "Hermes", "input_tokens": 20_000, "output_tokens": 1_000}
    return [charge for at in hours for charge in (a_charge(at, 60_000_000, **dear), a_charge(at, 3_600_000, **cheap))]


def first_alert(shell: Shell) -> dict[str, Any]:
    """Waits until the watch has told of something."""
    until = time.monotonic() + 60
    while not (listed := shell.json("costs", "alerts")):
        assert time.monotonic() < until, "no alert within a minute"
    (alert,) = listed
    found: dict[str, Any] = alert
    return found


def until_told(mesh: RunningMesh, subject: str, part: str) -> bytes:
    """Waits until the newest message on a subject holds a text, and gives it."""
    until = time.monotonic() + 20
    while part.encode() not in (told := asyncio.run(last_told(mesh.data_dir, "cost", subject))):
        assert time.monotonic() < until, f"nothing told of {part} within 20 s"
    return told


def test_a_spike_is_told_with_its_run_and_takes_its_agent_to_the_cheaper_model(
    dear_and_cheap: RunningMesh, tmp_path: Path
) -> None:
    shell, tenant = a_tenant(dear_and_cheap, "spiky", tmp_path)
    assert "nine in ten" in shell.run("costs", "forecast")
    made = shell.json("budget", "set", "50.00", "--budget", "agent:Ada")
    shell.run("budget", "on-spike", "agent:Ada", "--minutes", "30")
    assert "agent:Ada" in shell.run("budget", "on-spike")
    think(shell, "before")
    assert models(shell, "before") == {"gpt-4o": 1}
    assert shell.json("costs", "alerts") == []

    # A million tokens of answer, 10 dollars: more than was held, and all of it is owed.
    dear_and_cheap.provider.behave(match=["Why rivers?"], completion_tokens=10**6)
    think(shell, "wild", "--max-cost", "20")
    alert = first_alert(shell)
    (run,) = [line["key"] for line in shell.json("costs", "--by", "run", "--project", "wild")["lines"]]
    causes = [alert[cause]["name"] for cause in ("run", "agent", "project", "model")]
    assert causes == [run, "Ada", "wild", "gpt-4o"]
    assert int(alert["spent_nano_usd"]) > 10 * 10**9 > 100 * int(alert["expected_nano_usd"])
    assert alert["degraded_budget_ids"] == [made["budget_id"]]
    assert run in shell.run("costs", "alerts")
    assert "unusual since" in shell.run("costs", "watch", "--once")

    told = until_told(dear_and_cheap, f"comitia.cost.spend.anomaly.v1.{tenant}", alert["alert_id"])
    assert forecast_pb2.SpendAlertEvent.FromString(told).alert.run.name == run
    assert status(shell, "agent:Ada")["level"] == "BUDGET_LEVEL_DEGRADED"
    think(shell, "after")
    assert models(shell, "after") == {"small": 1}


def test_ways_to_spend_less_are_shown_with_what_they_save(dear_and_cheap: RunningMesh, tmp_path: Path) -> None:
    shell, _ = a_tenant(dear_and_cheap, "saver", tmp_path)
    cheaper = shell.json("costs", "recommend")[0]
    assert cheaper["kind"] == "RECOMMENDATION_KIND_CHEAPER_MODEL"
    assert (cheaper["agent_name"], cheaper["model"], cheaper["other_model"]) == ("Athena", "gpt-4o", "gpt-4o-mini")
    saved, full_day = int(cheaper["saving_nano_usd_per_month"]), 24 * (60_000_000 - 3_600_000)
    # A mean of 21 days, of which the first has but the hours from now on.
    assert 28 * full_day <= saved <= 30 * full_day, "24 calls a day at 0.36 cents instead of 6"
    assert "take a cheaper model" in shell.run("costs", "recommend")


def test_the_limit_below_what_is_spent_is_told_on_the_bus(dear_and_cheap: RunningMesh, tmp_path: Path) -> None:
    shell, tenant = a_tenant(dear_and_cheap, "lowered", tmp_path)
    think(shell, "lowered")
    shell.run("budget", "set", "0.000001", "--budget", "tenant")
    found = status(shell, "tenant")
    assert int(found["budget"]["overrun_nano_usd"]) > 0
    until_told(dear_and_cheap, f"comitia.cost.budget.overrun.v1.{tenant}", found["budget"]["budget_id"])
    assert "more is spent than its limit; raise its limit to go on" in think(shell, "refused", code=1)
