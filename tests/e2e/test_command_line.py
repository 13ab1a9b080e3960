"""The command line against a whole mesh: what people read, and what programs parse."""

import json
import re
from pathlib import Path

import pytest

from comitia_sdk.sync import Client
from tests.e2e.shell import AGENT, Shell
from tests.support.mesh import RunningMesh

RULES = "rules: [{name: no_swords, type: keyword, keywords: [sword], action: warn}]"


@pytest.fixture(scope="module")
def shell(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Gives the command line of a tenant of its own, with two agents."""
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        shell = Shell(mesh, operator.tenants.create("commander").admin_api_key)
    folder = tmp_path_factory.mktemp("agents")
    for name in ("Ada", "Bob"):
        file = folder / f"{name}.yaml"
        file.write_text(AGENT.format(name=name))
        assert shell.json("agent", "create", str(file))["name"] == name
    return shell


def test_status_shows_every_part_with_its_memory(mesh: RunningMesh) -> None:
    told = json.loads(mesh.comitia("status", "-o", "json").stdout)
    names = {child["name"] for child in told["children"]}
    assert names >= {"postgres", "nats", "edge", "gateway", "orchestrator", "inference", "policy", "memory", "tools"}
    assert (told["running"], told["ready"]) == (True, True)
    assert all(child["state"] == "healthy" for child in told["children"])
    parts = {child["name"]: child["pss_bytes"] for child in told["children"]}
    assert told["pss_bytes"] >= sum(parts.values()) > 100e6
    # All other tests of a session have worked this mesh: it may hold more than one that rests, by what is cached.
    assert sum(parts.values()) - parts["postgres"] < 900e6
    assert parts["postgres"] < 300e6
    shown = mesh.comitia("status").stdout
    assert all(name in shown for name in names)


def test_agents_are_made_listed_and_shown(shell: Shell) -> None:
    assert [agent["name"] for agent in shell.json("agent", "list")] == ["Ada", "Bob"]
    assert "Ada@1.0.0" in shell.run("agent", "list")
    assert shell.json("agent", "show", "Ada")["memory"]["recent_turns"] == 3
    assert "AGENT_NOT_FOUND" in shell.run("agent", "show", "Nobody", code=1)


def test_a_session_is_followed_to_its_end(shell: Shell) -> None:
    arguments = ("session", "start", "Rivers", "-a", "Ada", "-a", "Bob", "--rounds", "1", "-f")
    shown = shell.run(*arguments)
    assert shown.index("Ada") < shown.index("Bob")
    assert "Rivers meet. They argue about the sea!" in shown
    assert re.search(r"state +succeeded", shown)
    run = re.search(r"run_\w+", shown)
    assert run is not None
    assert shell.json("session", "show", run[0])["state"] == "SESSION_STATE_SUCCEEDED"
    turns = shell.json("session", "turns", run[0])
    assert [turn["agent_name"] for turn in turns] == ["Ada", "Bob"]
    assert run[0] in [session["session_id"] for session in shell.json("session", "list")]
    costs = shell.json("costs", "--by", "agent", "--session", run[0])
    assert sum(int(line["event_count"]) for line in costs["lines"] if line["key"] in ("Ada", "Bob")) >= 2
    assert int(costs["total_nano_usd"]) > 0
    assert "total $0.0" in shell.run("costs")


def test_a_followed_session_as_json_is_one_event_a_line(shell: Shell) -> None:
    arguments = ("session", "start", "Rivers", "-a", "Ada", "--rounds", "1", "-f", "-o", "json")
    text = shell.run(*arguments)
    decoder, events, place = json.JSONDecoder(), [], 0
    while place < len(text.rstrip()):
        event, place = decoder.raw_decode(text, place)
        place += len(text[place:]) - len(text[place:].lstrip())
        events.append(event)
    assert "session_started" in events[0]
    assert events[-1]["session_ended"]["state"] == "SESSION_STATE_SUCCEEDED"


def test_law_is_applied_and_what_broke_it_is_shown(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    applied = shell.json("policy", "apply", str(file), "--name", "arms", "--version", "1.0.0")
    assert (applied["name"], applied["active"]) == ("arms", True)
    assert {one["name"] for one in shell.json("policy", "list")} == {"ground", "arms"}
    shell.run("session", "start", "A sword", "-a", "Ada", "--rounds", "1", "-f")
    assert {one["rule"] for one in shell.json("violations", "--rule", "no_swords")} == {"no_swords"}
    assert "no_swords" in shell.run("violations")
    file.write_text("rules: [{name: r, type: regex, pattern: '(a)\\1'}]")
    refused = shell.run("policy", "apply", str(file), "--name", "bad", "--version", "1.0.0", code=2)
    assert "REGEX_REFUSED" in refused
    assert "source.rules[0].pattern" in refused


def test_keys_are_made_used_and_revoked(shell: Shell) -> None:
    made = shell.json("key", "create", "ci", "--role", "tenant_user")
    user = Shell(shell.mesh, made["secret"])
    assert "PERMISSION" in user.run("key", "create", "more", code=1)
    assert {key["display_name"] for key in shell.json("key", "list")} >= {"ci"}
    assert shell.json("key", "revoke", made["api_key"]["api_key_id"])["revoke_time"]
    assert shell.run("token").count(".") == 2


def test_tenants_are_made_by_operators_only(mesh: RunningMesh, shell: Shell) -> None:
    made = json.loads(mesh.comitia("tenant", "create", "by-command", "-o", "json").stdout)
    assert made["admin_api_key"].startswith("ck_")
    assert "by-command" in mesh.comitia("tenant", "list").stdout
    assert "PERMISSION" in shell.run("tenant", "list", code=1)


def test_a_tool_is_called(shell: Shell) -> None:
    assert shell.run("tool", "invoke", "calculator", '{"expression": "6 * 7"}').strip() == "42"
    invocation = shell.json("tool", "invoke", "calculator", '{"expression": "6 * 7"}')
    assert invocation["parts"][0]["text"]["text"] == "42"
    assert {tool["name"] for tool in shell.json("tool", "list")} == {"calculator", "http_get"}
    assert "JSON" in shell.run("tool", "invoke", "calculator", "{6 * 7", code=2)


def test_models_and_budgets_are_shown(shell: Shell) -> None:
    assert shell.json("models")[0]["name"] == "openai/gpt-4o-mini"
    assert int(shell.json("budget", "set", "25.00")["limit_nano_usd"]) == 25 * 10**9
    assert "$25.00" in shell.run("budget", "show")


def test_doctor_finds_a_healthy_mesh(mesh: RunningMesh) -> None:
    checks = {check["name"]: check for check in json.loads(mesh.comitia("doctor", "-o", "json").stdout)}
    assert checks["mesh"]["state"] == "ok"
    assert "openai/gpt-4o-mini" in checks["models"]["found"]
    assert "missing" not in {check["state"] for check in checks.values()}


def test_a_mesh_that_is_not_there_is_one_sentence(mesh: RunningMesh) -> None:
    done = mesh.comitia("agent", "list", check=3, COMITIA_URL="http://127.0.0.1:9", COMITIA_API_KEY="ck_x")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "comitia up" in done.stderr


WORKFLOW = """
name: desk
version: 1.0.0
description: Asks a person, then answers.
input_schema: {type: object, properties: {about: {type: string}}, required: [about]}
nodes:
  - {id: decided, wait: {signal: person.decided}}
  - id: answer
    agent: {agent: Ada, prompt: {cel: '"Say what was decided about " + input.about'}}
    input: {decision: {cel: nodes.decided.output.choice}}
    depends_on: [decided]
  - id: each
    map: {items: {cel: nodes.decided.output.list}, body: {tool: calculator, input: {expression: "1 + 1"}}}
    depends_on: [decided]
"""


@pytest.fixture(scope="module")
def desk(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Gives the name of a workflow whose runs wait for a signal."""
    file = tmp_path_factory.mktemp("workflows") / "desk.yaml"
    file.write_text(WORKFLOW)
    assert "desk@1.0.0 is sound: 3 nodes" in shell.run("workflow", "validate", str(file))
    assert "comitia run start desk" in shell.run("workflow", "create", str(file))
    return "desk"


def test_workflows_are_listed_and_shown_with_their_nodes(shell: Shell, desk: str) -> None:
    assert [one["name"] for one in shell.json("workflow", "list", desk)] == [desk]
    assert "Asks a person" in shell.run("workflow", "list")
    shown = shell.run("workflow", "show", f"{desk}@1.0.0")
    for said in ("agent Ada@1.0.0", "wait for person.decided", "map of tool calculator", "about"):
        assert said in shown
    assert "WORKFLOW_NOT_FOUND" in shell.run("workflow", "show", "nothing", code=1)


def test_each_fault_of_a_workflow_is_named_where_editors_find_it(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("name: broken\nversion: 1.0.0\nnodes:\n  - {id: a, wait: {signal: go}, depends_on: [b]}\n")
    done = shell.mesh.comitia(
        *("workflow", "validate", str(file)), check=1, COMITIA_URL=shell.mesh.url, COMITIA_API_KEY=shell.key
    )
    assert re.search(rf"{re.escape(str(file))}:4:\d+: nodes\[0\]\.depends_on\[0\]", done.stdout)
    assert "UNKNOWN_NODE" in shell.run("workflow", "create", str(file), code=2)
    assert "cannot be read" in shell.run("workflow", "create", str(tmp_path / "none.yaml"), code=2)


def test_a_run_is_started_paused_resumed_signalled_watched_and_shown(shell: Shell, desk: str) -> None:
    run_id = shell.json("run", "start", desk, "--set", "about=rivers", "--label", "for=tests", "--model", "stub")[
        "run_id"
    ]
    assert run_id in {run["run_id"] for run in shell.json("run", "list", "--open")}
    assert "comitia run resume" in shell.run("run", "pause", run_id)
    assert shell.json("run", "resume", run_id)["state"] != "RUN_STATE_PAUSED"
    assert "RUN_NOT_PAUSED" in shell.run("run", "resume", run_id, code=1)
    shell.run("run", "signal", run_id, "person.decided", "--payload", '{"choice": "bridges", "list": [1, 2, 3]}')
    watched = shell.run("run", "watch", run_id)
    assert "nodes/answer  succeeded" in watched
    assert "run succeeded" in watched
    events = [json.loads(line) for line in shell.run("run", "watch", run_id, "-o", "json").splitlines()]
    assert events[-1]["run"]["state"] == "RUN_STATE_SUCCEEDED"
    shown = shell.run("run", "show", run_id)
    assert re.search(r"steps +6 succeeded", shown)
    assert "nodes/each/2" in shown
    assert shell.json("run", "show", run_id, "--at", "1")["steps"]["succeeded"] == 0
    assert len(shell.json("run", "show", run_id)["run_steps"]) == 6
    assert "RUN_ALREADY_TERMINAL" in shell.run("run", "signal", run_id, "person.decided", code=1)


def test_a_run_that_does_not_succeed_says_so_by_its_exit_code(shell: Shell, desk: str) -> None:
    run_id = shell.json("run", "start", desk, "--set", "about=rivers")["run_id"]
    assert shell.json("run", "cancel", run_id)["state"] == "RUN_STATE_CANCELLED"
    assert "cancelled" in shell.run("run", "watch", run_id, code=1)
    late = shell.run("run", "start", desk, "--set", "about=rivers", "--deadline", "1s", "--follow", code=1)
    assert "deadline" in late


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("start", "nothing"), 1, "WORKFLOW_NOT_FOUND"),
        (("start", "desk"), 2, "RUN_INPUT_INVALID"),
        (("start", "desk", "--set", "about"), 2, "NAME=VALUE"),
        (("start", "desk", "--set", "about=1", "--set", "about=2"), 2, "twice"),
        (("start", "desk", "--deadline", "soon"), 2, "90s"),
        (("start", "desk", "--max-cost", "much"), 2, "much"),
        (("show", "run_01jd0000000000000000000000"), 1, "RUN_NOT_FOUND"),
        (("show", "nonsense"), 2, "run_id"),
        (("cancel", "run_01jd0000000000000000000000"), 1, "RUN_NOT_FOUND"),
    ],
)
def test_what_cannot_be_done_with_runs_is_said_in_one_sentence(
    shell: Shell, desk: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    told = shell.run("run", *arguments, code=code)
    assert said in told
    assert "Traceback" not in told
