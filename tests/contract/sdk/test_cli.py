"""The command line against a fake mesh: every command, its JSON, its exit codes, its sentences."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp
from typer.main import get_command

from comitia.cost.v1 import cost_pb2
from comitia.orchestrator.v1 import agent_pb2, session_pb2, session_service_pb2
from comitia.policy.v1 import policy_pb2
from comitia_sdk.cli.main import app
from services.meshkit.core.errors import ErrorKind
from tests.contract.sdk.conftest import Comitia
from tests.support.fake_mesh import ADMIN_KEY, Broken, FakeMesh, Refused

COMITIA = str(Path(sys.executable).with_name("comitia"))


@pytest.fixture
def athena(tmp_path: Path) -> Path:
    path = tmp_path / "athena.yaml"
    path.write_text("name: Athena\ninstructions: Argue.\ntools: [calculator]\n", encoding="utf-8")
    return path


@pytest.fixture
def session(comitia: Comitia) -> str:
    started = comitia("session", "start", "Tabs or spaces?", "--rounds", "2", "-o", "json")
    return str(json.loads(started.out)["session_id"])


@pytest.fixture
def violation(mesh: FakeMesh) -> None:
    mesh.law.found = [
        policy_pb2.Violation(
            violation_id="violation_1",
            rule="no_secrets",
            severity=policy_pb2.SEVERITY_SEVERE,
            action=policy_pb2.ACTION_BLOCK,
            stage=policy_pb2.STAGE_AFTER,
            rationale="names a secret",
            run_id="run_1",
        )
    ]


def test_a_talk_goes_on_until_the_input_ends(comitia: Comitia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("why\n\nand then\n"))
    assert comitia("model", "chat", "writer").out == "heard: why\nheard: and then\n"


@pytest.mark.usefixtures("session", "violation")
@pytest.mark.parametrize(
    ("command", "shows"),
    [
        ("agent list", "Athena@1.0.0"),
        ("agent show Athena", "Athena@1.0.0"),
        ("agent ask Athena why", "Athena answers 'why'"),
        ("agent ask Athena why -o json", '"content": "Athena answers \'why\'"'),
        ("session list", "run_1"),
        ("session show run_1", "Tabs or spaces?"),
        ("session turns run_1", "Apollo speaks in round 2."),
        ("session start again", "comitia session watch run_2"),
        ("tool list", "calculator@1.0.0"),
        ("tool show calculator", "Computes an expression."),
        ('tool invoke calculator {"expression":"6*7"}', "42"),
        ("policy list", "ground@1.0.0"),
        ("policy show ground", "ground@1.0.0"),
        ("policy activate ground", "law"),
        ("policy check hello", "may go on under ground@1.0.0"),
        ("violations", "no_secrets"),
        ("violations --session run_1 --rule no_secrets", "names a secret"),
        ("violations --session run_2", "no violations"),
        ("models", "openai/gpt-4o-mini"),
        ("model list", "openai/gpt-4o-mini"),
        ("model add acme/writer --model gpt-4o-mini", "acme/writer@1"),
        ("model add acme/writer --model claude-haiku-4-5 --adapter anthropic --form sdk", "acme/writer@1"),
        ("model add acme/llama --model l --adapter ollama --tier silver --can tools --region eu", "acme/llama@1"),
        ("model add acme/vectors --model text-embedding-3-small --embeds", "acme/vectors@1"),
        ("model show acme/mini", "PROVIDER_REFUSED: the key is wrong"),
        ("model show stub", "of the settings"),
        ("model show writer", "asks   openai/gpt-4o-mini"),
        ("model check acme/mini", "acme/mini@2"),
        ("model check acme/mini@1", "acme/mini@1"),
        ("model health", "0.25 s"),
        ("model routes", "acme/mini=900"),
        ("model rollouts writer", "rolled_back"),
        ("model retire acme/mini", "acme/mini"),
        ("model route writer stub openai/gpt-4o-mini", "stub, openai/gpt-4o-mini"),
        ("model route faq stub --cache-seconds 600 --semantic-threshold 0.95", "stub"),
        ("model route writer stub=300 openai/gpt-4o-mini=700", "stub=300, openai/gpt-4o-mini=700"),
        ("model canary writer stub", "10 %"),
        ("model canary writer acme/writer@3 --from stub --steps 20,300", "acme/writer@3"),
        ("model canary writer stub --quality-margin 0.05", "at most 0.05 lower"),
        ("model rollout rollout_1", "3 of the canary, 1 of the stable; evidence 120"),
        ("model promote rollout_1", "promoted"),
        ("model rollback rollout_1", "rolled_back"),
        ("model chat writer why", "heard: why"),
        ("costs", "$0.000123"),
        ("costs --top 1", "gpt-4o-mini  4      1000       50"),
        ("costs --by agent --session run_1", "total $0.000123"),
        ("costs --period month --top 3", "total $0.000123"),
        ("costs reprice --from 2026-01-01", "-$0.000023 in all; --apply writes it"),
        ("costs reprice --from 2026-01-01 --apply", "-$0.000023 were booked"),
        ("costs watch --once", "this hour $41.00 (usual $1.00, up to $2.50); this month "),
        ("costs watch --once -o json", '"this_hour_nano_usd": "41000000000"'),
        ("costs alerts", "run_wild"),
        ("costs forecast", "$744.00 (nine in ten: $700.00 to $800.00)"),
        ("costs forecast --budget project:atlas", "$900.00"),
        ("costs forecast --zone UTC", "not known yet; a forecast takes two days of spend"),
        ("costs recommend", "$12.34"),
        ("budget on-spike", "unusual spend degrades no budget"),
        ("budget on-spike agent:Loki --minutes 30", "30 minutes"),
        ("budget on-spike agent:Loki --minutes 0", "no rule"),
        ("prices list", "gpt-4o-mini"),
        ("prices list", "in dollars per million tokens"),
        ("prices show openai/gpt-4o-mini", "cache read"),
        ("prices show OpenAI/GPT-4o-Mini", "openai/gpt-4o-mini"),
        ("prices show openai/4o-mini", "openai/gpt-4o-mini"),
        ("prices show openai/gpt-4o-mini", "gpt-4o-mini-2024-07-18, 4o-mini"),
        ("costs --series day --by model", "2026-01-01"),
        ("budget show", "$10.00"),
        ("budget list", "budget_1"),
        ("budget set 25.00", "$25.00"),
        ("budget set 5 --budget project:atlas --period day --zone Europe/Berlin --degrade", "each day (Europe/Berlin)"),
        ("budget set 5 --budget agent:Athena --tokens 1000", "0 spent and 0 held of 1000"),
        ("budget set 5 --budget agent:Athena", "$5.00"),
        ("budget show tenant", "calls open"),
        ("budget tree", "and older runs"),
        ("budget alerts", "no budget warned, was used up, overran or was degraded"),
        ("budget alerts tenant --limit 5", "no budget warned"),
        ("whoami", "admin, operator"),
        ("whoami", "acme (tenant_1)"),
        ("key create ci --role auditor", "ck_2_made"),
        ("key create ci --scope sessions.read --expires 90d", "sessions.read"),
        ("key list", "no keys"),
        ("service-account create nightly --role auditor", "svc_1"),
        ("service-account list", "no service accounts"),
        ("signing-key rotate", "access-2"),
        ("signing-key list", "access-1"),
        ("access model show", "schema 1.1"),
        ("access grant anna@example.com editor project:claims", "user:anna@example.com"),
        ("access grant group:a#member editor project:claims", "group:a#member"),
        ("access revoke key_1 editor project:claims", "was not granted"),
        ("access list --user anna --object project:claims", "no relations"),
        ("tenant list", "no tenants"),
        ("status", "orchestrator"),
    ],
)
def test_each_command_shows_its_answer_to_people_and_to_programs(comitia: Comitia, command: str, shows: str) -> None:
    arguments = command.split(" ")

    assert shows in comitia(*arguments).out
    assert isinstance(json.loads(comitia(*arguments, "-o", "json").out), dict | list)


def test_a_tier_and_a_capability_are_ones_that_there_are(comitia: Comitia) -> None:
    for option, wrong in (("--tier", "platinum"), ("--can", "fly")):
        refused = comitia("model", "add", "acme/mini", "--model", "m", option, wrong, code=2)
        assert f"{wrong!r} is none of" in refused.err


def test_a_route_is_deleted_by_its_name(comitia: Comitia) -> None:
    assert comitia("model", "delete-route", "writer").out == "writer is deleted\n"


def test_a_model_of_the_settings_is_changed_by_no_command(comitia: Comitia) -> None:
    assert "one of the settings" in comitia("model", "retire", "stub", code=1).err
    assert "no model is called 'nobody'" in comitia("model", "check", "nobody", code=1).err


def test_setting_one_option_of_a_budget_leaves_the_rest_as_it_is(comitia: Comitia) -> None:
    comitia("budget", "set", "30", *"--budget project:atlas --soft --period month --zone Europe/Berlin".split())
    warned = comitia("budget", "set", *"--budget project:atlas --warn-at 90 --tokens 5".split()).out
    assert "each month (Europe/Berlin)" in warned
    assert all(said in warned for said in ("soft", "90 %", "$30.00", "of 5"))
    bare = comitia("budget", "set", *"--budget project:atlas --reset period --reset tokens --reset zone".split()).out
    assert "each month" not in bare
    assert "of 5" not in bare
    assert "soft" in bare


def test_budgets_are_drawn_as_a_tree_with_bars(comitia: Comitia) -> None:
    comitia("budget", "set", "5", "--budget", "project:atlas", "--soft")
    comitia("budget", "set", "5", "--budget", "agent:Athena")
    lines = comitia("budget", "tree").out.splitlines()
    assert lines[1] == "├─ project:atlas  ····················  $0.00 of $5.00 (soft)"
    assert lines[2] == "└─ agent:Athena   ····················  $0.00 of $5.00"
    assert "removed project:atlas" in comitia("budget", "remove", "project:atlas").out


def test_the_token_is_alone_on_its_line(comitia: Comitia) -> None:
    assert comitia("token").out == "token-1\n"


def test_json_is_what_the_rest_face_writes(comitia: Comitia, session: str) -> None:
    shown = json.loads(comitia("session", "show", session, "-o", "json").out)

    assert shown["cost_nano_usd"] == "4000"  # 64 bits are a string in JSON
    assert shown["converged"] is False  # what is not set is there, too
    assert ParseDict(shown, session_pb2.Session()).turn_count == 4


def test_an_agent_is_made_from_a_file_from_standard_input_and_from_the_example(
    comitia: Comitia, athena: Path, mesh: FakeMesh
) -> None:
    assert "Athena@1.0.0" in comitia("agent", "create", str(athena)).out
    example = yaml.safe_load(comitia("agent", "example", "apollo").out)
    path = athena.with_name("apollo.json")
    path.write_text(json.dumps(example), encoding="utf-8")
    comitia("agent", "create", str(path))

    assert set(mesh.agents.versions) == {"Athena@1.0.0", "Apollo@1.0.0"}
    comitia("agent", "example", "Zeus", code=2)


def test_a_session_without_agents_is_held_by_those_that_ship(comitia: Comitia, mesh: FakeMesh, session: str) -> None:
    assert mesh.sessions.played[session].session.agents == ["Athena@1.0.0", "Apollo@1.0.0"]
    assert mesh.sessions.played[session].session.convergence.enabled


def test_options_of_a_session_reach_the_mesh(comitia: Comitia, mesh: FakeMesh, athena: Path) -> None:
    comitia("agent", "create", str(athena))
    options = "--mode consensus --strategy parallel --rounds 5 --all-rounds --manual --max-cost 0.25 --model stub"
    named = ("-a", "Athena@1.0.0", "--meaning", "0.9", "--project", "atlas")
    comitia("session", "start", "Tabs?", *named, *options.split())

    [played] = mesh.sessions.played.values()
    assert played.session.mode == session_pb2.SESSION_MODE_CONSENSUS
    assert played.session.strategy == session_pb2.SESSION_STRATEGY_PARALLEL
    assert (played.session.max_rounds, played.session.max_cost_nano_usd) == (5, 250_000_000)
    assert played.session.metadata == {"project": "atlas"}
    assert (played.session.convergence.enabled, played.session.manual_advance) == (False, True)
    assert (played.model, played.session.convergence.semantic_threshold) == ("stub", 0.9)


def test_following_shows_each_turn_once_and_the_end(comitia: Comitia) -> None:
    shown = comitia("session", "start", "Tabs or spaces?", "--rounds", "1", "-f").out

    assert shown.count("Athena speaks in round 1.") == 1
    assert shown.count("Apollo speaks in round 1.") == 1
    assert "round 1: how alike the turns are, 0 to 1: words 0.25, meaning 0.50" in shown
    assert "1 rules passed" in shown
    assert "succeeded" in shown


def test_following_as_json_gives_one_event_a_line(comitia: Comitia, session: str) -> None:
    for lines in (
        comitia("session", "watch", session, "-o", "json").out.splitlines(),
        comitia("session", "start", "Again?", "-f", "-o", "json").out.splitlines(),
    ):
        events = [ParseDict(json.loads(line), session_service_pb2.WatchSessionResponse()) for line in lines]
        assert events[-1].WhichOneof("event") == "session_ended"


def test_watching_after_a_sequence_leaves_out_what_came_before(comitia: Comitia, session: str) -> None:
    lines = comitia("session", "watch", session, "--after", "6", "-o", "json").out.splitlines()

    assert json.loads(lines[0])["sequence"] == "7"


def test_a_session_that_waits_says_how_to_go_on(comitia: Comitia) -> None:
    shown = comitia("session", "start", "Tabs?", "--manual", "--rounds", "2", "-o", "json").out
    session = json.loads(shown)["session_id"]

    assert "running" not in comitia("session", "show", session).out
    assert "succeeded" in comitia("session", "advance", session).out
    refused = comitia("session", "advance", session, code=1)
    assert refused.err == "comitia: the session does not wait for anybody [SESSION_NOT_WAITING]"


def test_a_session_that_failed_fails_the_command_that_followed_it(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.sessions.fail_with = "BUDGET_EXHAUSTED"
    failed = comitia("session", "start", "Tabs?", "-f", code=1)

    assert failed.err == "comitia: the session has failed: the budget is used up"
    comitia("session", "watch", "run_1", "-o", "json", code=1)


def test_what_is_charged_to_whom_is_written_to_a_file(comitia: Comitia, tmp_path: Path) -> None:
    file = tmp_path / "november.csv"
    assert f"in {file}" in comitia("costs", "--export", str(file), "--period", "last-month").out
    assert file.read_bytes() == b"start_time,project,cost_nano_usd\r\n"
    file.write_text("precious")
    refused = comitia("costs", "--export", str(file), code=2)
    assert refused.err == f"comitia: {file} is there already; --force writes over it"
    assert file.read_text() == "precious"
    comitia("costs", "--export", str(file), "--force")
    assert file.read_bytes().startswith(b"start_time")


def test_a_price_list_is_imported_and_its_faults_are_told(comitia: Comitia, tmp_path: Path) -> None:
    good, bad = tmp_path / "prices.csv", tmp_path / "bad.csv"
    good.write_text("provider,model\nopenai,gpt-4o-mini\n", encoding="utf-8")
    bad.write_text("provider,model\nopenai,\n", encoding="utf-8")
    assert comitia("prices", "import", str(good), "--apply").out.endswith(
        "1 price changes, 2 of the list held already\n"
    )
    assert "nothing was written, --apply imports" in comitia("prices", "import", str(good)).out
    assert "line 2, model: is required" in comitia("prices", "import", str(bad), code=2).err
    assert "must end in .csv or .json" in comitia("prices", "import", str(tmp_path / "prices.txt"), code=2).err


def test_a_price_that_looks_like_another_unit_is_imported_once_it_is_confirmed(
    comitia: Comitia, tmp_path: Path
) -> None:
    dear = tmp_path / "prices.csv"
    dear.write_text("provider,model,input\nopenai,gpt-4o-mini,1000\n", encoding="utf-8")
    assert "--confirm-unit" in comitia("prices", "import", str(dear), "--apply", code=2).err
    assert "1 price changes" in comitia("prices", "import", str(dear), "--apply", "--confirm-unit").out


@pytest.mark.parametrize(
    ("alert", "shows"),
    [
        ({"cause": 3, "measure": 1}, "project:atlas  warned at 80 %  $9.00 of $10.00  run_1"),
        ({"cause": 1, "measure": 3}, "used up  5 calls of 5 calls"),
        ({"cause": 2, "measure": 2}, "overran by 20 tokens  120 tokens of 100 tokens"),
        ({"cause": 1, "measure": 1, "quota_nano_usd": 10**10}, "used up (the limit is the operator's)"),
        ({"cause": 4, "measure": 1}, "degraded by unusual spend until 2026-01-01"),
    ],
)
def test_alerts_of_budgets_say_what_happened_to_which_limit(
    comitia: Comitia, mesh: FakeMesh, alert: dict[str, Any], shows: str
) -> None:
    then = cost_pb2.Budget(
        budget_id="budget_1",
        scope=cost_pb2.BUDGET_SCOPE_PROJECT,
        name="atlas",
        limit_nano_usd=10**10,
        spent_nano_usd=9 * 10**9,
        warn_at_percent=80,
        tokens=cost_pb2.BudgetGauge(limit=100, spent=120, overrun=20),
        calls=cost_pb2.BudgetGauge(limit=5, spent=5),
        degraded_until_time=Timestamp(seconds=1_767_225_600),
    )
    mesh.money.alerts = [cost_pb2.BudgetAlert(alert_id="alert_1", budget=then, run_id="run_1", **alert)]
    assert shows in comitia("budget", "alerts").out
    (told,) = json.loads(comitia("budget", "alerts", "tenant", "-o", "json").out)
    assert (told["alert_id"], told["budget"]["name"]) == ("alert_1", "atlas")
    assert "NOT_FOUND" in comitia("budget", "alerts", "project:nobody", code=1).err


@pytest.mark.parametrize(
    ("mode", "spent", "shows"), [(3, 8, "warned at 80 %; only the cheapest"), (2, 10, "its limit")]
)
def test_a_warning_says_what_goes_on(comitia: Comitia, mesh: FakeMesh, mode: Any, spent: int, shows: str) -> None:
    then = cost_pb2.Budget(mode=mode, limit_nano_usd=10, spent_nano_usd=spent, warn_at_percent=80)
    mesh.money.alerts = [cost_pb2.BudgetAlert(budget=then, cause=cost_pb2.BUDGET_ALERT_CAUSE_WARNED)]
    assert shows in comitia("budget", "alerts").out


def test_a_budget_under_a_name_that_nobody_spent_under_is_set_and_said(comitia: Comitia, mesh: FakeMesh) -> None:
    assert "nothing has been spent" not in comitia("budget", "set", "5", "--budget", "project:web").out
    wrong = ("budget", "set", "5", "--budget", "project:wbe")
    told = "nothing has been spent under project 'wbe' yet"
    assert comitia(*wrong).out.splitlines()[-1] == f"{told}; projects seen: atlas, web"
    assert json.loads(comitia(*wrong, "-o", "json").out)["name"] == "wbe"
    mesh.money.projects = [f"p{number}" for number in range(9)]
    assert comitia(*wrong).out.splitlines()[-1] == f"{told}; projects seen: p0, p1, p2, p3, p4, …"
    mesh.money.projects = []
    assert comitia(*wrong).out.splitlines()[-1] == told


def test_who_may_not_read_what_was_spent_sets_a_budget_all_the_same(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.fail_next("GetCostSummary", Refused(ErrorKind.DENIED, "PERMISSION_MISSING", "needs costs.read"))
    made = comitia("budget", "set", "5", "--budget", "project:wbe").out
    assert "$5.00" in made
    assert "nothing has been spent" not in made


def test_charges_without_a_price_are_told_loudly(comitia: Comitia, mesh: FakeMesh) -> None:
    assert "without a price" not in comitia("costs").err
    mesh.money.unpriced = 3
    shown = comitia("costs")
    assert "$0.000003" in shown.out
    assert "3 charges ($0.000003 of it) are of models without a price" in shown.err


def test_calls_without_a_price_are_flagged_at_a_ceiling_and_refused_again(comitia: Comitia) -> None:
    assert "are refused" in comitia("prices", "unknown").out
    assert "$600.00 a million tokens" in comitia("prices", "unknown", "flag").out
    assert "$750.00 a million tokens" in comitia("prices", "unknown", "flag", "--ceiling", "750").out
    assert "pass at the ceiling, marked" in comitia("prices", "unknown").out
    assert "are refused" in comitia("prices", "unknown", "refuse").out
    wrong = comitia("prices", "unknown", "refuse", "--ceiling", "750", code=2)
    assert wrong.err == "comitia: --ceiling goes with flag"


def test_cancelling_stops_a_session(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.sessions.hold = True
    comitia("session", "start", "Tabs?")

    assert "cancelled" in comitia("session", "cancel", "run_1").out
    comitia("session", "cancel", "run_1", code=1)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("agent ask Nobody why", 1, "comitia: agent 'Nobody' does not exist [NOT_FOUND]"),
        ("agent show Nobody", 1, "comitia: agent 'Nobody' does not exist [NOT_FOUND]"),
        ("session show run_9", 1, "comitia: session 'run_9' does not exist [NOT_FOUND]"),
        ("session watch run_9", 1, "comitia: session 'run_9' does not exist [NOT_FOUND]"),
        (
            "session start x --mode debat",
            2,
            "comitia: mode: 'debat' is none of debate, brainstorm, consensus, dialogue, answer; did you mean debate?",
        ),
        ("session start x --strategy all", 2, "comitia: strategy: 'all' is none of round_robin, parallel, moderated"),
        ("session start x -a Nobody", 1, "comitia: agent 'Nobody' does not exist [NOT_FOUND]"),
        ("session start x --rounds 0", 2, "comitia: invalid value for '--rounds': "),
        ("session start x --rounds 10000", 2, "comitia: invalid value for '--rounds': "),
        ("session start x --max-cost lots", 2, "comitia: 'lots' is no amount in dollars, such as 25.00"),
        ("session start", 2, "comitia: missing argument 'TOPIC'; see `comitia session start --help`"),
        ("session start x --rouns 2", 2, "comitia: no such option: --rouns"),
        ("sesion", 2, "comitia: no such command 'sesion'. Did you mean 'session'?"),
        ("budget set 5 --soft --hard", 2, "comitia: give one of --hard, --soft and --degrade"),
        (
            "budget set 5 --budget run:run_1 --soft",
            2,
            "comitia: of a run's budget only DOLLARS can be set; name others tenant, project:…, agent:… or step:…",
        ),
        ("budget set", 2, "comitia: say what to set: DOLLARS or an option"),
        ("budget set 5 --tokens 3 --reset tokens", 2, "comitia: 'tokens' is given and reset at once"),
        ("budget set -- -5", 2, "comitia: '-5': an amount must be positive, such as 25.00"),
        ("budget set -5", 2, "comitia: '-5' is taken for an option: a number must be positive; see "),
        ("budget set 1.0000000001", 2, "comitia: '1.0000000001' is too fine an amount: give at most 9 digits"),
        ("budget set 99999999999", 2, "comitia: '99999999999' is too large an amount: the most is 4611686018.42738"),
        ("budget show budget_9", 1, "comitia: budget 'budget_9' does not exist [NOT_FOUND]"),
        ("costs --top 10000000000", 2, "comitia: invalid value for '--top': "),
        ("costs --by moon", 2, "comitia: by: 'moon' is none of model, "),
        ("costs --period moon", 2, "comitia: --period: 'moon' is none of today, "),
        ("costs --period day --from 2026-01-01", 2, "comitia: give --period, or --from and --to"),
        ("costs --from noon", 2, "comitia: --from: 'noon' is no date or time, such as 2026-11-01"),
        ("costs --from 2026-02-01 --to 2026-01-01", 2, "comitia: --to must be after --from"),
        ("prices show gpt-4o-mini", 2, "comitia: 'gpt-4o-mini' names no provider; it may be openai/gpt-4o-mini"),
        ("prices show gpt-9", 2, "comitia: 'gpt-9' names no provider, such as openai/gpt-4o-mini"),
        ("prices show openai/gpt-9", 1, "comitia: there is no price of 'openai/gpt-9'; "),
        ("costs --export costs.txt", 2, "comitia: costs.txt must end in .csv or .json"),
        ("key create ci --role king", 2, "comitia: roles: 'king' is none of admin, operator, auditor, tenant_user"),
        ("key revoke key_9", 1, "comitia: API key 'key_9' does not exist [NOT_FOUND]"),
        ("tool invoke calculator {", 2, "comitia: the arguments are no JSON: "),
        ("tool invoke calculator []", 2, "comitia: the arguments must be a JSON object, such as "),
        ("policy apply none.yaml", 2, "comitia: none.yaml cannot be read: No such file or directory"),
        ("agent create none.yaml", 2, "comitia: none.yaml cannot be read: No such file or directory"),
        ("demo --file none.yaml", 2, "comitia: none.yaml cannot be read: No such file or directory"),
        ("agent list -o xml", 2, "comitia: invalid value for '--output' / '-o': "),
        ("up --port 99999", 2, "comitia: invalid value for '--port': "),
        ("logs nothing", 2, "comitia: there is no log of 'nothing'; there are: none yet; "),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_an_exit_code(
    comitia: Comitia, command: str, code: int, said: str
) -> None:
    refused = comitia(*command.split(), code=code)

    assert refused.err.startswith(said), refused.err
    assert refused.out == ""


def test_what_the_law_stops_and_a_tool_that_fails_exit_with_one(comitia: Comitia) -> None:
    assert "is stopped under ground@1.0.0: 1 of 1 rules matched" in comitia("policy", "check", "a secret", code=1).out
    assert "no expression" in comitia("tool", "invoke", "calculator", code=1).out


def test_a_bundle_is_sent_as_it_was_written(comitia: Comitia, mesh: FakeMesh, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:  # mine\n  - name: café\n", encoding="utf-8")
    comitia("policy", "apply", str(rules), "--name", "mine", "--keep-inactive")

    assert mesh.law.bundles[-1].source == "rules:  # mine\n  - name: café\n"
    assert not mesh.law.bundles[-1].active


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: Athena\n  tools: [a\n", ":2:8: mapping values are not allowed here"),
        (b"name: caf\xe9\n", ":1: this is no UTF-8 text"),
        (b"x" * 5_000_000, " is larger than 1 MB; nothing was sent"),
        (b"nmae: Athena\n", ": there is no field 'nmae'; did you mean name?"),
        (b"instructions: Argue.\n", "agent.name: must be"),
    ],
)
def test_a_file_that_is_no_agent_is_refused_before_anything_is_stored(
    comitia: Comitia, mesh: FakeMesh, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(content)

    assert said in comitia("agent", "create", str(path), code=2).err
    assert not mesh.agents.versions


def test_a_wrong_key_says_so(comitia: Comitia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMITIA_API_KEY", "ck_wrong_key")

    assert comitia("agent", "list", code=1).err == (
        "comitia: the API key is unknown, expired or revoked [API_KEY_INVALID]"
    )


def test_a_missing_key_says_where_to_get_one(comitia: Comitia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMITIA_API_KEY")

    assert "set COMITIA_API_KEY" in comitia("agent", "list", code=1).err


@pytest.mark.usefixtures("session")
def test_a_turn_that_failed_is_a_failure_of_the_command(comitia: Comitia) -> None:
    said = comitia("agent", "ask", "Athena", "something forbidden", code=1)
    assert (said.out, said.err) == ("", "comitia: the session has failed: rule no_swords blocks it")


@pytest.mark.parametrize("command", ["agent list", "session start x", "token", "status", "demo", "whoami"])
def test_a_mesh_that_does_not_answer_is_exit_code_three(
    comitia: Comitia, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COMITIA_URL", "http://127.0.0.1:1")

    assert comitia(*command.split(), code=3).err == (
        "comitia: the mesh at http://127.0.0.1:1 does not answer; "
        "start one with `comitia up --detach`, or set COMITIA_URL"
    )


def test_a_part_that_does_not_answer_is_exit_code_three_too(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.fail_next("ListModels", Refused(ErrorKind.UNAVAILABLE, "SERVICE_UNAVAILABLE", "inference does not answer"))

    assert comitia("models", code=3).err == "comitia: inference does not answer [SERVICE_UNAVAILABLE]"


def test_a_mesh_with_a_part_down_is_not_well(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.status.down.add("memory")

    assert "unreachable" in comitia("status", code=1).out


def test_without_a_mesh_there_is_nothing_to_see(comitia: Comitia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMITIA_URL")

    assert comitia("status", code=3).out == "no mesh is running; start one with `comitia up --detach`\n"
    assert comitia("down").out == "no mesh is running\n"
    assert "no logs yet" in comitia("logs").out


def test_the_log_of_a_part_is_shown_from_its_end(comitia: Comitia, tmp_path: Path) -> None:
    logs = tmp_path / "no-mesh" / "logs"
    logs.mkdir(parents=True)
    (logs / "cost.log").write_text("".join(f"line {n}\n" for n in range(100)), encoding="utf-8")

    assert "cost" in comitia("logs").out
    assert comitia("logs", "cost", "-n", "2").out == "line 98\nline 99\n"
    assert comitia("logs", "cost", "-n", "0").out == ""


def test_an_unexpected_failure_is_one_sentence_unless_asked_for_more(
    comitia: Comitia, mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.fail_next("ListAgents", Broken(message="<html>"))
    comitia("agent", "list", code=3)
    monkeypatch.setattr("comitia_sdk.cli.agents.show_rows", lambda *_, **__: 1 / 0)
    said = comitia("agent", "list", code=1).err
    assert said == (
        "comitia: unexpected ZeroDivisionError: division by zero; run it again as `comitia --debug …` for the details"
    )


def test_what_others_wrote_cannot_move_the_cursor(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.sessions.says = "\x1b[2J\x1b]0;owned\x07{agent} speaks\r\x9b31m."
    shown = comitia("session", "start", "a\x1b[31m\ntopic", "--rounds", "1", "-f").out
    shown += comitia("session", "list").out + comitia("session", "turns", "run_1").out

    assert "Athena speaks" in shown
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(shown)


@pytest.mark.usefixtures("session")
def test_rows_are_whole_lines_where_no_terminal_is(comitia: Comitia) -> None:
    comitia("session", "start", "x" * 500)
    listed = comitia("session", "list").out.splitlines()

    assert len(listed) == 3
    assert "x" * 500 in listed[1]
    assert len({line.index("run_") if "run_" in line else 0 for line in listed}) == 1


def test_the_version_is_told(comitia: Comitia) -> None:
    assert comitia("--version").out == "comitia 0.1.0\n"


def command_names(command: Any, path: str = "") -> Iterator[str]:
    """Gives every command and group, as people type them."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from command_names(inner, f"{path} {name}".strip())


COMMANDS = list(command_names(get_command(app)))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(comitia: Comitia, command: str) -> None:
    explained = comitia(*command.split(), "--help").out

    has_commands = any(other.startswith(f"{command} ".lstrip()) for other in COMMANDS if other != command)
    assert has_commands or "Example:" in explained or "Examples:" in explained
    assert "_option" not in explained


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['comitia', '--help']\n"
        "from comitia_sdk.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'grpc', 'google.protobuf', 'yaml', 'asyncio', 'services'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_works_in_pipes(mesh: FakeMesh) -> None:
    for number in range(2000):
        mesh.agents.versions[f"Agent{number}@1.0.0"] = agent_pb2.Agent(name=f"Agent{number}", version="1.0.0")
    environment = {**os.environ, "COMITIA_URL": mesh.url, "COMITIA_API_KEY": ADMIN_KEY}
    line = f"{COMITIA} agent list -o json | head -1; {COMITIA} agent example | {COMITIA} agent create -"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, env=environment, check=False
    )

    assert done.stdout.startswith("[\n")
    assert "Athena@1.0.0" in done.stdout
    assert done.stderr == ""


def test_a_check_says_why_and_exits_with_1_when_not(comitia: Comitia) -> None:
    question = ("access", "check", "anna@example.com", "editor", "project:claims")
    refused = comitia("access", "check", "ben", *question[3:], code=1)
    assert refused.out.splitlines() == ["no", "  no tuple names user:ben"]
    assert not json.loads(comitia(*question, "-o", "json", code=1).out)["allowed"]
    comitia("access", "grant", *question[2:])
    assert comitia(*question).out.splitlines() == ["yes", "  the tuple is written"]
    assert "anna@example.com" in comitia("access", "list", "--object", "project:claims").out


def test_the_model_is_shown_as_it_is_and_set_from_a_file(comitia: Comitia, mesh: FakeMesh, tmp_path: Path) -> None:
    path = tmp_path / "model.fga"
    path.write_text(comitia("access", "model", "show").out, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == mesh.access.model
    assert "the model is now" in comitia("access", "model", "set", str(path)).out
    assert "etag" in json.loads(comitia("access", "model", "set", str(path), "-o", "json").out)
    assert "changed meanwhile" in comitia("access", "model", "set", str(path), "--etag", "old", code=1).err


def test_a_key_is_rotated_and_an_account_disabled(comitia: Comitia) -> None:
    comitia("key", "create", "ci")
    rotated = comitia("key", "rotate", "key_2", "--overlap", "24h").out
    assert "ck_key_2_rotated" in rotated
    assert "old secret until" in rotated
    comitia("service-account", "create", "nightly")
    assert "svc_1" in comitia("key", "create", "for it", "--service-account", "svc_1").out
    assert "disabled" in comitia("service-account", "disable", "svc_1").out


def test_a_time_span_that_is_none_is_refused_with_an_example(comitia: Comitia) -> None:
    refused = comitia("key", "create", "ci", "--expires", "soon", code=2)
    assert "30d" in refused.err


def test_a_model_is_asked_by_an_official_client_where_that_is_said(comitia: Comitia) -> None:
    refused = comitia("model", "add", "acme/writer", "--model", "m", "--form", "soap", code=2)
    assert "wire, sdk" in refused.err


def test_a_route_is_set_with_all_that_it_goes_by(comitia: Comitia) -> None:
    tiers = ("--mode", "tiered", "--min-tier", "silver", "--sla", "2.5", "--shadow", "acme/next=50")
    shown = json.loads(comitia("model", "route", "w", "acme/a", "acme/b", *tiers, "-o", "json").out)
    assert (shown["mode"], shown["min_tier"], shown["sla"]) == ("ROUTE_MODE_TIERED", "MODEL_TIER_SILVER", "2.500s")
    assert shown["shadow"] == {"deployment": "acme/next", "permille": 50}
    bandit = ("--mode", "bandit-linucb", "--reward", "600,300,100", "--dear", "0.05")
    table = comitia("model", "route", "w", "acme/a", "acme/b", *bandit).out
    assert "quality 600, cost 300, latency 100; dear at $0.05" in table
    policy = ("--policy", "work_class=batch", "--policy", "cache=no", "--policy", "hedge_after=1.5")
    shown = json.loads(comitia("model", "route", "w", "acme/a", *policy, "-o", "json").out)
    assert (shown["policy"]["work_class"], shown["policy"]["cache"]) == ("WORK_CLASS_BATCH", "CACHE_USE_NO")
    assert shown["policy"]["hedge_after"] == "1.500s"
    assert "work_class=batch, cache=no, hedge_after=1.5" in comitia("model", "route", "w", "acme/a", *policy).out


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--shadow", "acme/next"), "a model and its share"),
        (("--reward", "1,2"), "three numbers"),
        (("--dear", "-1"), "no amount"),
        (("--policy", "speed=high"), "none of"),
        (("--policy", "cache=always"), "one of"),
        (("--policy", "hedge_after=soon"), "seconds"),
        (("acme/a",), "'acme/a' stands there twice"),
        (("--mode", "fastest"), "mode"),
    ],
)
def test_a_route_that_cannot_be_is_refused_with_what_would_fit(
    comitia: Comitia, options: tuple[str, ...], why: str
) -> None:
    found = comitia("model", "route", "w", "acme/a", *options, code=2)
    assert why in " ".join(found.err.replace("│", " ").split())


def test_a_model_with_two_weights_is_refused(comitia: Comitia) -> None:
    assert "'acme/a' stands there twice" in comitia("model", "route", "w", "acme/a=500", "acme/a=400", code=2).err


@pytest.mark.parametrize(
    "command",
    [
        "model route w acme/a=99999999999999",
        "model route w acme/a --shadow acme/b=99999999999999",
        "model route w acme/a --sla inf",
        "model route w acme/a --cache-seconds nan",
        "model route w acme/a --policy hedge_after=1e300",
        "model canary w acme/a@99999999999999",
        "model canary w acme/a --steps 1,99999999999999",
        "model add acme/a --model m --context-tokens 99999999999999999999",
    ],
)
def test_a_number_that_fits_nowhere_is_wrong_usage(comitia: Comitia, command: str) -> None:
    refused = comitia(*command.split(), code=2).err
    assert "too large" in refused
    assert len(refused) < 200


def test_a_comparison_and_a_quality_are_told(comitia: Comitia) -> None:
    table = comitia("model", "compare", "w").out
    assert "acme/next@2" in table
    assert "97.5 %" in table
    assert "0.80 s, 0.40 s" in table
    assert comitia("model", "quality", "hold_1", "0.9").out == ""


def test_a_batch_is_handed_over_waited_for_and_read(comitia: Comitia, mesh: FakeMesh, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    whole = {"messages": [{"role": "MESSAGE_ROLE_USER", "parts": [{"text": {"text": "ferries?"}}]}]}
    lines = [{"item_id": "a", "prompt": "trams?", "max_output_tokens": 8}, {"item_id": "b", "generate": whole}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    submitted = comitia("model", "batch", "submit", str(path), "--model", "openai/gpt-4o-mini", "--wait")
    assert "2 of 2" in submitted.out
    assert "ended  2 of 2" in submitted.err
    assert mesh.batches.items["batch_1"][0].generate.max_output_tokens == 8
    assert "batch_1" in comitia("model", "batch", "list").out
    assert "2 of 2" in comitia("model", "batch", "show", "batch_1").out
    assert "heard: ferries?" in comitia("model", "batch", "results", "batch_1").out
    read = comitia("model", "batch", "results", "batch_1", "-o", "json").out.splitlines()
    assert [json.loads(line)["item_id"] for line in read] == ["a", "b"]
    comitia("model", "batch", "submit", str(path))
    assert "cancelling" in comitia("model", "batch", "cancel", "batch_2").out


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[]", "1: is no JSON object"),
        ('{"prompt": "why"}', "1: needs an `item_id`"),
        ('{"item_id": "a"}', "1: needs a `prompt`, or `generate`"),
        ('{"item_id": "a", "prompt": "why", "model": "x"}', "1: does not take 'model'"),
        ('{"item_id": "a", "generate": {"nothing": 1}}', "1: generate: "),
        ('{"item_id": "a", "generate": 5}', "1: `generate` must be an object"),
        ('{"item_id": "a", "generate": ' + "[" * 100_000, "1: is nested too deeply"),
        ('{"item_id": "a", "prompt": "why", "max_output_tokens": true}', "1: `max_output_tokens` must be a number"),
        ('{"item_id": "a", "prompt": "why"}\nand', "2: is no JSON, from character 1 on"),
        ('{"item_id": "a", "prompt": "' + "x" * 5_000_000 + '"}', "hand them over in several batches"),
        ('{"item_id": "a", "prompt": "why"}\n{"item_id": "a", "prompt": "who"}', "2: the id 'a' stands twice"),
        ("", "holds no prompt"),
    ],
)
def test_a_file_of_prompts_is_refused_by_its_line(comitia: Comitia, tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line, encoding="utf-8")
    assert fault in comitia("model", "batch", "submit", str(path), code=1).err


def test_a_line_of_prompts_ends_where_a_line_of_json_does(comitia: Comitia, mesh: FakeMesh, tmp_path: Path) -> None:
    path, said = tmp_path / "prompts.jsonl", "one\u2028two\x85three"
    line = json.dumps({"item_id": "a", "prompt": said}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    comitia("model", "batch", "submit", str(path))
    assert mesh.batches.items["batch_1"][0].generate.messages[0].parts[0].text.text == said


def test_a_file_of_prompts_in_another_encoding_is_refused_by_its_line(comitia: Comitia, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes('{"item_id": "a", "prompt": "Zürich?"}'.encode("latin-1"))
    assert "prompts.jsonl:1: is no UTF-8" in comitia("model", "batch", "submit", str(path), code=1).err
