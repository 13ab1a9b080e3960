"""What was spent as people and programs ask for it, and what budgets of agents and steps refuse, on a whole mesh."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.sync import Client
from tests.e2e.conftest import MakeTenant, Tenant
from tests.e2e.shell import AGENT, THINK, Shell
from tests.e2e.test_budgets import think
from tests.support.mesh import RunningMesh

Found = TypeVar("Found")

FAILED, WAITING = session_pb2.SESSION_STATE_FAILED, session_pb2.SESSION_STATE_WAITING
#: A project whose name a spreadsheet would take for a formula.
FORMULA: Final = '=HYPERLINK("http://x","y")'


@pytest.fixture(scope="module")
def shell(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Gives the command line of a tenant of its own, in which agents spoke and projects were worked on."""
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        shell = Shell(mesh, operator.tenants.create("accountant").admin_api_key)
    folder = tmp_path_factory.mktemp("costs")
    documents = {"agent-ada": AGENT.format(name="Ada"), "agent-bob": AGENT.format(name="Bob"), "workflow": THINK}
    for name, text in documents.items():
        file = folder / f"{name}.yaml"
        file.write_text(text)
        shell.run(name.partition("-")[0], "create", str(file))
    shell.run("session", "start", "Rivers", "-a", "Ada", "-a", "Bob", "--rounds", "1", "-f")
    think(shell, "atlas")
    think(shell, FORMULA)
    return shell


def at_rest(shell: Shell, read: Callable[[], Found]) -> tuple[int, Found]:
    """Reads while nothing is charged, with the total: what was remembered is embedded, and paid for, a little later."""
    for _ in range(10):
        before = shell.json("costs", "--period", "month")["total_nano_usd"]
        found = read()
        if shell.json("costs", "--period", "month")["total_nano_usd"] == before:
            return int(before), found
    raise AssertionError("it is charged again and again")


def money(rows: list[dict[str, Any]]) -> int:
    return sum(int(row["cost_nano_usd"]) for row in rows)


def test_what_each_agent_spent_this_month_adds_up(shell: Shell) -> None:
    total, (listed, shown, daily) = at_rest(
        shell,
        lambda: (
            shell.json("costs", "--by", "agent", "--period", "month"),
            shell.run("costs", "--by", "agent", "--period", "month"),
            shell.json("costs", "--by", "agent", "--period", "month", "--series", "day"),
        ),
    )
    assert money(listed["lines"]) == int(listed["total_nano_usd"]) == int(daily["total_nano_usd"]) == total > 0
    assert {line["key"] for line in listed["lines"]} == {"Ada", "Bob"}
    assert {line["key"]: line["total_nano_usd"] for line in daily["lines"]} == {
        line["key"]: line["cost_nano_usd"] for line in listed["lines"]
    }
    head, ada, *_ = shown.splitlines()
    assert (head.split()[:2], ada.split()[0]) == (["agent", "calls"], "Ada")
    assert "total $0.000" in shown, "a small amount is not rounded away"


def test_what_names_no_project_has_a_row_that_says_so(shell: Shell) -> None:
    for more in ((), ("--series", "day")):
        shown = shell.run("costs", "--by", "project", *more)
        assert "(none)" in shown
        assert "atlas" in shown


def test_costs_are_exported_as_csv_and_json_and_no_name_is_a_formula(shell: Shell, tmp_path: Path) -> None:
    sheet, data = tmp_path / "costs.csv", tmp_path / "costs.json"

    def export() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        shell.run("costs", "--period", "month", "--export", str(sheet), "--detail", "event", "--force")
        shell.run("costs", "--period", "month", "--export", str(data), "--force")
        with sheet.open(newline="") as opened:
            return list(csv.DictReader(opened)), json.loads(data.read_text())

    total, (rows, days) = at_rest(shell, export)
    assert money(rows) == money(days) == total
    assert {row["project"] for row in rows} == {"", "atlas", f"'{FORMULA}"}
    assert {day["project"] for day in days} == {"", "atlas", FORMULA}
    assert {day["agent_name"] for day in days} == {"Ada", "Bob"}
    assert set(tmp_path.iterdir()) == {sheet, data}, "no draft is left"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("costs --by agent --period fortnight", "--period: 'fortnight' is none of today"),
        ("costs --from 2026-11-02 --to 2026-11-01", "--to must be after --from"),
        ("costs --from 2026-13-01", "is no date or time"),
        ("costs --by moon", "is none of model"),
        ("costs --by agent --top 1000000000000", "invalid value for '--top'"),
        ("costs forecast --zone Mars/Olympus", "zone: must be the IANA name of a time zone"),
        ("costs forecast --budget tenant", "has no period"),
        ("costs forecast --budget project:nobody", "BUDGET_NODE_NOT_FOUND"),
        ("budget set 5 --budget project:x --period day --zone Mars/Olympus", "--zone: must be the IANA name"),
        ("budget set 5 --budget project:x --zone Europe/Berlin", "--zone: must be empty without a period"),
        ("budget set 5 --budget project:x --warn-at 101", "--warn-at: must be 1 to 100"),
        ("budget set --budget project:x -- -1", "an amount must be positive"),
        ("budget set NaN --budget project:x", "is no amount in dollars"),
        ("budget set 99999999999999999999 --budget project:x", "is too large an amount"),
        ("budget set 5000000000 --budget project:x", "is too large an amount"),
        ("budget set 0.0000000001 --budget project:x", "0.0000000001"),
        ("budget set 5 --budget project:", "name the project, such as project:atlas"),
        ("budget on-spike project:nobody", "BUDGET_NODE_NOT_FOUND"),
        ("budget show run:run_01m80dajpmebkrhh315c7aew63", "BUDGET_NODE_NOT_FOUND"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(shell: Shell, command: str, says: str) -> None:
    done = shell.mesh.comitia(*command.split(" "), check=None, COMITIA_URL=shell.mesh.url, COMITIA_API_KEY=shell.key)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)


def test_price_lists_that_overlap_or_leave_a_gap_are_refused_as_a_whole(mesh: RunningMesh, tmp_path: Path) -> None:
    head = "provider,model,start_time,end_time,input_usd_per_million,output_usd_per_million\n"
    lists = {
        "overlap": "acme,odd,2026-01-01,2026-06-01,1,2\nacme,odd,2026-05-01,,1,2\n",
        "gap": "acme,odd,2026-01-01,2026-03-01,1,2\nacme,odd,2026-05-01,,1,2\n",
        "negative": "acme,odd,2026-01-01,,-1,2\n",
    }
    for fault, lines in lists.items():
        file = tmp_path / f"{fault}.csv"
        file.write_text(head + lines)
        refused = mesh.comitia("prices", "import", str(file), "--apply", check=2).stderr
        assert "PRICE_LIST_WRONG" in refused
        assert (fault in refused, "line 2" in refused) == (True, True)
    assert "there is no price of 'acme/odd'" in mesh.comitia("prices", "show", "acme/odd", check=1).stderr


def test_the_budget_of_an_agent_refuses_its_turn_in_a_session_and_leaves_the_others(shell: Shell) -> None:
    made = shell.json("budget", "set", "0.000001", "--budget", "agent:Bob")
    shown = shell.run("session", "start", "Lakes", "-a", "Ada", "-a", "Bob", "--rounds", "1", "-f", code=1)
    assert f"budget 'agent:Bob' ({made['budget_id']}) has" in shown
    session = shell.json("session", "list")[0]
    assert [turn["agent_name"] for turn in shell.json("session", "turns", session["session_id"])] == ["Ada"]
    assert shell.json("budget", "show", "agent:Bob")["budget"]["spent_nano_usd"] == "0"
    shell.run("budget", "set", "1.00", "--budget", "agent:Bob")
    shell.run("session", "start", "Lakes again", "-a", "Bob", "--rounds", "1", "-f")
    assert int(shell.json("budget", "show", "agent:Bob")["budget"]["spent_nano_usd"]) > 0


async def test_the_budget_of_a_step_refuses_what_lies_below_it(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    run = (await tenant.start("Ada", max_rounds=3, manual_advance=True)).session_id
    await tenant.until_state(run, WAITING)
    made = await tenant.client.costs.set_budget(1_000, step=f"{run}/rounds/2")
    await tenant.client.sessions.advance(run)
    ended = await tenant.ended(run)
    assert (ended.state, ended.state_reason, ended.turn_count) == (FAILED, "BUDGET_EXHAUSTED", 1)
    assert made.budget_id in ended.state_message
    found = (await tenant.rest.ask("GET", f"/v1/budgets/{made.budget_id}:status")).body
    assert (found["budget"]["name"], found["budget"]["spent_nano_usd"]) == (f"{run}/rounds/2", "0")


async def test_rest_answers_as_the_command_line_does(shell: Shell, mesh: RunningMesh, tenant: Tenant) -> None:
    rest = tenant.rest
    theirs = {"x-api-key": shell.key}
    asked = shell.json("costs", "--by", "agent")
    summary = await rest.ask("GET", "/v1/cost/summary?by=COST_DIMENSION_AGENT", headers=theirs)
    assert [line["key"] for line in summary.body["lines"]] == [line["key"] for line in asked["lines"]]
    listed = await rest.ask("GET", "/v1/budgets?scope=BUDGET_SCOPE_AGENT", headers=theirs)
    assert {budget["name"] for budget in listed.body["budgets"]} == {
        budget["name"] for budget in shell.json("budget", "list", "--scope", "agent")
    }
    own = await rest.ask("GET", "/v1/budgets/tenant:status", headers=theirs)
    assert (own.status, own.body["level"]) == (200, "BUDGET_LEVEL_OK")
    assert int(own.body["budget"]["spent_nano_usd"]) >= int(asked["total_nano_usd"]) > 0


REFUSED: Final = (
    ("GET", "/v1/cost/summary?max_lines=-1", None, 400, "max_lines"),
    (
        "GET",
        "/v1/cost/summary?start_time=2026-11-02T00:00:00Z&end_time=2026-11-01T00:00:00Z",
        None,
        400,
        "end_time",
    ),
    ("GET", "/v1/budgets?page_token=nonsense", None, 400, "page_token"),
    ("GET", "/v1/budgets?page_size=-1", None, 400, "page_size"),
    ("GET", "/v1/budgets/nonsense:status", None, 400, "budget_id"),
    ("GET", "/v1/budgets/moon:x:status", None, 400, "budget_id"),
    ("POST", "/v1/budgets", {"scope": "BUDGET_SCOPE_AGENT", "name": "A"}, 400, "limit_nano_usd"),
    ("POST", "/v1/budgets", {"scope": "BUDGET_SCOPE_AGENT", "name": "A", "limit_nano_usd": -1}, 400, "limit_nano_usd"),
    (
        "POST",
        "/v1/budgets",
        {"scope": "BUDGET_SCOPE_AGENT", "name": "A", "limit_nano_usd": str(2**62 + 1)},
        400,
        "limit_nano_usd",
    ),
    (
        "POST",
        "/v1/budgets",
        {"scope": "BUDGET_SCOPE_AGENT", "name": "A", "limit_nano_usd": 1, "period": "BUDGET_PERIOD_DAY", "zone": "X/Y"},
        400,
        "zone",
    ),
)
#: What the edge cannot read as a number of the contract.
UNREADABLE: Final = (1.5, "9223372036854775808", "many", True, [1])


async def test_rest_refuses_what_makes_no_sense_with_its_field(tenant: Tenant) -> None:
    for method, path, body, status, field in REFUSED:
        answer = await tenant.rest.ask(method, path, body)
        assert (answer.status, answer.reason, answer.field) == (status, "INVALID_FIELD", field), (path, body, answer)
    for path in ("/v1/cost/summary?by=99", "/v1/cost/summary?by=MOON", "/v1/budgets?scope=17"):
        assert (await tenant.rest.ask("GET", path)).status == 400, path
    for amount in UNREADABLE:
        body = {"scope": "BUDGET_SCOPE_AGENT", "name": "A", "limit_nano_usd": amount}
        assert (await tenant.rest.ask("POST", "/v1/budgets", body)).status == 400, amount
    assert (await tenant.rest.ask("GET", "/v1/budgets?scope=BUDGET_SCOPE_AGENT")).body.get("budgets", []) == []
    nothing = {"scope": "BUDGET_SCOPE_AGENT", "name": "A", "limit_nano_usd": 0}
    assert (await tenant.rest.ask("POST", "/v1/budgets", nothing)).status == 200, "nothing may be spent, then"


async def test_a_page_token_of_another_tenant_shows_nothing_of_it(make_tenant: MakeTenant) -> None:
    ours, theirs = await make_tenant(), await make_tenant()
    for tenant in (ours, theirs):
        for name in ("a", "b", "c"):
            await tenant.client.costs.set_budget(1, agent=name)
    first = (await theirs.rest.ask("GET", "/v1/budgets?page_size=1")).body
    stolen = await ours.rest.ask("GET", f"/v1/budgets?page_token={first['next_page_token']}")
    own = {budget["budget_id"] for budget in (await ours.rest.ask("GET", "/v1/budgets")).body["budgets"]}
    assert {budget["budget_id"] for budget in stolen.body["budgets"]} <= own
    budget = first["budgets"][0]["budget_id"]
    for path in (f"/v1/budgets/{budget}", f"/v1/budgets/{budget}:status"):
        answer = await ours.rest.ask("GET", path)
        assert (answer.status, answer.reason) == (404, "BUDGET_NOT_FOUND")
