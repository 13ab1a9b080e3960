"""Budgets of projects and agents as people set them on the command line, and what they do to runs."""

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest

from comitia_sdk.sync import Client
from tests.e2e.shell import Shell, thinking
from tests.support.mesh import RunningMesh

# They are learnt from a minute later, when `test_estimates.py` looks at them.
pytestmark = pytest.mark.usefixtures("begun")


@pytest.fixture(scope="module")
def shell(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return thinking(mesh, "budgeter", tmp_path_factory.mktemp("budgets"))


def think(shell: Shell, project: str, *more: str, code: int = 0) -> str:
    """Runs the workflow for a project to its end; gives what was shown."""
    return shell.run("run", "start", "think", "--label", f"project={project}", "-f", *more, code=code)


def status(shell: Shell, budget: str) -> dict[str, Any]:
    found: dict[str, Any] = shell.json("budget", "show", budget)
    return found


def settled(shell: Shell, project: str) -> dict[str, Any]:
    """Waits until the budget, the ledger and its hours say the same; gives the budget's status.

    What is remembered is embedded, and paid for, a little later.
    """
    said: set[str] = set()
    for _ in range(20):
        lines = {line["key"]: line for line in shell.json("costs", "--by", "project")["lines"]}
        hours = shell.json("costs", "--by", "project", "--project", project, "--series", "hour")
        found = status(shell, f"project:{project}")
        said = {lines[project]["cost_nano_usd"], hours["total_nano_usd"], found["budget"]["spent_nano_usd"]}
        if len(said) == 1:
            return found
    raise AssertionError(f"the ledger and the budget of {project} do not agree: {said}")


def test_a_project_at_its_cap_stops_and_others_go_on_until_it_is_raised(shell: Shell, tmp_path: Path) -> None:
    daily = ("--budget", "project:atlas", "--period", "day", "--zone", "Europe/Berlin")
    made = shell.json("budget", "set", "0.000001", *daily)
    assert (made["period"], made["zone"], made["limit_nano_usd"]) == ("BUDGET_PERIOD_DAY", "Europe/Berlin", "1000")
    assert f"({made['budget_id']}) has $0.000001 left" in think(shell, "atlas", code=1)
    assert int(status(shell, "project:atlas")["budget"]["spent_nano_usd"]) <= 1000
    think(shell, "borealis")

    wrong = shell.run("budget", "set", "5.00", "--budget", "project:atlas", "--zone", "Mars", code=2)
    assert "--zone: must be the IANA name" in wrong
    raised = shell.json("budget", "set", "5.00", "--budget", "project:atlas")
    assert (raised["budget_id"], raised["period"]) == (made["budget_id"], "BUDGET_PERIOD_DAY")
    think(shell, "atlas")
    after = settled(shell, "atlas")
    assert (after["level"], after["budget"]["overrun_nano_usd"]) == ("BUDGET_LEVEL_OK", "0")
    assert int(after["budget"]["spent_nano_usd"]) > 0
    drawn = shell.run("budget", "tree")
    assert "project:atlas" in drawn
    assert drawn.startswith("tenant")

    file = tmp_path / "costs.csv"
    shell.run("costs", "--export", str(file))
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {row["project"] for row in rows} >= {"atlas", "borealis"}
    assert shell.run("budget", "remove", "project:atlas").startswith("removed project:atlas")
    assert "NOT_FOUND" in shell.run("budget", "show", "project:atlas", code=1)


def until_embedded(shell: Shell) -> None:
    """Waits until all that was remembered is embedded, which is a call as well."""
    with Client(shell.mesh.url, api_key=shell.key) as client:
        while not all(memory.embedded for memory in client.memories.list()):
            time.sleep(0.05)


def test_a_budget_that_degrades_lets_the_cheapest_model_through_up_to_its_limit(shell: Shell) -> None:
    made = shell.json(
        "budget", "set", "5.00", "--budget", "project:calls", "--degrade", "--calls", "6", "--warn-at", "50"
    )
    levels = ["OK"]
    while levels[-1] != "EXHAUSTED":
        assert len(levels) <= 6
        think(shell, "calls")
        # Or the last call that is left may be taken between a look and the next run.
        until_embedded(shell)
        levels.append(status(shell, "project:calls")["level"].removeprefix("BUDGET_LEVEL_"))
    assert [*dict.fromkeys(levels)] == ["OK", "DEGRADED", "EXHAUSTED"]
    assert f"({made['budget_id']}) has 0 calls left" in think(shell, "calls", code=1)
    assert status(shell, "project:calls")["budget"]["calls"] == {
        "limit": "6",
        "spent": "6",
        "held": "0",
        "overrun": "0",
    }


def test_a_soft_budget_warns_and_refuses_nothing(shell: Shell) -> None:
    soft = ("budget", "set", "0.000001", "--budget", "project:soft", "--soft")
    assert "nothing has been spent under project 'soft' yet" in shell.run(*soft)
    think(shell, "soft")
    found = status(shell, "project:soft")
    assert int(found["budget"]["spent_nano_usd"]) > 1000
    assert found["level"] == "BUDGET_LEVEL_EXHAUSTED"
    (alert,) = shell.json("budget", "alerts", "project:soft")
    assert (alert["cause"], alert["budget"]["name"]) == ("BUDGET_ALERT_CAUSE_WARNED", "soft")
    assert alert["run_id"] in {run["run_id"] for run in shell.json("run", "list")}
    table = shell.run("budget", "alerts")
    assert "warned at its limit" in table
    assert alert["run_id"] in table
    assert "nothing has been spent" not in shell.run(*soft)


def test_an_estimate_says_what_does_not_fit_and_a_start_may_heed_it(shell: Shell) -> None:
    shell.run("budget", "set", "0.000001", "--budget", "project:tiny")
    fits = shell.json("estimate", "think")
    assert (
        int(fits["cost_nano_usd"]["low"]) <= int(fits["cost_nano_usd"]["median"]) <= int(fits["cost_nano_usd"]["high"])
    )
    assert fits["verdict"] == "ESTIMATE_VERDICT_FITS"
    tight = shell.json("estimate", "think", "--project", "tiny")
    assert tight["verdict"] == "ESTIMATE_VERDICT_EXCEEDS"
    assert {one["budget"] for one in tight["budgets"]} >= {"run", "tenant", "project:tiny"}
    assert "budget project:tiny" in shell.run("estimate", "think", "--project", "tiny")
    before = len(shell.json("run", "list"))
    assert "ESTIMATE_EXCEEDS_BUDGET" in think(shell, "tiny", "--preflight", "reject", code=1)
    assert len(shell.json("run", "list")) == before
    session = shell.json("estimate", "--session", "Tabs or spaces?", "-a", "Ada", "--rounds", "2")
    assert int(session["output_tokens"]["median"]) > 0


def test_prices_are_imported_by_operators_and_the_past_is_priced_anew_on_demand(
    mesh: RunningMesh, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "prices.csv"
    file.write_text(
        "provider,model,start_time,input_usd_per_million,output_usd_per_million\nwalk,budgeted,2026-01-01,1,2\n"
    )
    assert "PERMISSION" in shell.run("prices", "import", str(file), code=1)
    shown = json.loads(mesh.comitia("prices", "import", str(file), "-o", "json").stdout)
    assert shown["change_count"] == 1
    file.write_text(file.read_text().replace(",1,2", ",-1,2"))
    refused = mesh.comitia("prices", "import", str(file), "--apply", check=None)
    assert refused.returncode
    assert "PRICE_LIST_WRONG" in refused.stderr
    before = shell.json("costs")["total_nano_usd"]
    shell.run("costs", "reprice", "--from", "2026-01-01", "--apply")
    assert shell.json("costs")["total_nano_usd"] == before


def test_where_spend_is_heading_is_shown_and_a_spike_may_degrade_a_budget(shell: Shell) -> None:
    shell.run("budget", "set", "5.00", "--budget", "project:heading", "--period", "week")
    think(shell, "heading")
    month = shell.json("costs", "forecast", "--zone", "Europe/Berlin")
    assert int(month["spent_nano_usd"]) > 0
    week = shell.json("costs", "forecast", "--budget", "project:heading")
    assert (week["limit_nano_usd"], int(week["spent_nano_usd"]) > 0) == (str(5 * 10**9), True)
    assert "month" in shell.run("costs", "watch", "--once")
    assert shell.json("costs", "alerts") == shell.json("costs", "recommend") == []
    assert shell.json("budget", "on-spike", "project:heading", "--minutes", "30")["degrade_seconds"] == 1800
    assert "30" in shell.run("budget", "on-spike")
    assert shell.json("budget", "on-spike", "project:heading", "--minutes", "0").get("degrade_seconds", 0) == 0
