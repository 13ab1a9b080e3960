"""Unusual spend on a whole mesh: who caused it is told, by rule a budget degrades, and advice rests on the past."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comitia.cost.v1 import forecast_pb2
from comitia_sdk.sync import Client
from services.cost.domain.hourly_spend import HOUR, hour_of
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from tests.e2e.shell import AGENT, THINK, Shell
from tests.e2e.test_budgets import status, think
from tests.e2e.test_degrading import PRICES, models
from tests.support.mesh import RunningMesh, running_mesh, running_provider
from tests.support.mesh_bus import last_told
from tests.support.mesh_databases import service_url
from tests.support.planted_charges import a_charge, plant
from tests.support.providers.fake import KEY


@pytest.fixture(scope="module")
def watched() -> Iterator[RunningMesh]:
    """Gives a mesh that asks a dear model first and has a cheap one elsewhere, and looks at spend each second."""
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
            yield running
            assert cheap.meter()["unheld"] == 0


def a_tenant(mesh: RunningMesh, name: str, folder: Path) -> tuple[Shell, TenantId]:
    """Makes a tenant that has an agent, a workflow of one answer, and three weeks of spend."""
    prices = folder / "prices.csv"
    prices.write_text(PRICES)
    mesh.comitia("prices", "import", str(prices), "--apply")
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        made = operator.tenants.create(name)
    shell, tenant = Shell(mesh, made.admin_api_key), TenantId(to_uuid(made.tenant.tenant_id, "tenant"))
    for noun, text in (("agent", AGENT.format(name="Ada")), ("workflow", THINK)):
        file = folder / f"{noun}.yaml"
        file.write_text(text)
        shell.run(noun, "create", str(file))
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
    watched: RunningMesh, tmp_path: Path
) -> None:
    shell, tenant = a_tenant(watched, "spiky", tmp_path)
    assert "nine in ten" in shell.run("costs", "forecast")
    made = shell.json("budget", "set", "50.00", "--budget", "agent:Ada")
    shell.run("budget", "on-spike", "agent:Ada", "--minutes", "30")
    assert "agent:Ada" in shell.run("budget", "on-spike")
    think(shell, "before")
    assert models(shell, "before") == {"gpt-4o": 1}
    assert shell.json("costs", "alerts") == []

    # A million tokens of answer, 10 dollars: more than was held, and all of it is owed.
    watched.provider.behave(match=["Why rivers?"], completion_tokens=10**6)
    think(shell, "wild", "--max-cost", "20")
    alert = first_alert(shell)
    (run,) = [line["key"] for line in shell.json("costs", "--by", "run", "--project", "wild")["lines"]]
    causes = [alert[cause]["name"] for cause in ("run", "agent", "project", "model")]
    assert causes == [run, "Ada", "wild", "gpt-4o"]
    assert int(alert["spent_nano_usd"]) > 10 * 10**9 > 100 * int(alert["expected_nano_usd"])
    assert alert["degraded_budget_ids"] == [made["budget_id"]]
    assert run in shell.run("costs", "alerts")
    assert "unusual since" in shell.run("costs", "watch", "--once")

    told = until_told(watched, f"comitia.cost.spend.anomaly.v1.{tenant}", alert["alert_id"])
    assert forecast_pb2.SpendAlertEvent.FromString(told).alert.run.name == run
    assert status(shell, "agent:Ada")["level"] == "BUDGET_LEVEL_DEGRADED"
    think(shell, "after")
    assert models(shell, "after") == {"small": 1}


def test_ways_to_spend_less_are_shown_with_what_they_save(watched: RunningMesh, tmp_path: Path) -> None:
    shell, _ = a_tenant(watched, "saver", tmp_path)
    cheaper = shell.json("costs", "recommend")[0]
    assert cheaper["kind"] == "RECOMMENDATION_KIND_CHEAPER_MODEL"
    assert (cheaper["agent_name"], cheaper["model"], cheaper["other_model"]) == ("Athena", "gpt-4o", "gpt-4o-mini")
    saved, full_day = int(cheaper["saving_nano_usd_per_month"]), 24 * (60_000_000 - 3_600_000)
    # A mean of 21 days, of which the first has but the hours from now on.
    assert 28 * full_day <= saved <= 30 * full_day, "24 calls a day at 0.36 cents instead of 6"
    assert "take a cheaper model" in shell.run("costs", "recommend")


def test_the_limit_below_what_is_spent_is_told_on_the_bus(watched: RunningMesh, tmp_path: Path) -> None:
    shell, tenant = a_tenant(watched, "lowered", tmp_path)
    think(shell, "lowered")
    shell.run("budget", "set", "0.000001", "--budget", "tenant")
    found = status(shell, "tenant")
    assert int(found["budget"]["overrun_nano_usd"]) > 0
    until_told(watched, f"comitia.cost.budget.overrun.v1.{tenant}", found["budget"]["budget_id"])
    assert "more is spent than its limit; raise its limit to go on" in think(shell, "refused", code=1)
