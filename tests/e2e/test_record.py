"""The record of runs through a whole mesh: replayed, exported, replayed elsewhere, forked, compared."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from comitia.orchestrator.v1 import run_pb2, session_pb2
from comitia_sdk.errors import InvalidRequest, NotFound
from comitia_sdk.record.run_file import RunFileReader
from comitia_sdk.sync import Client
from tests.e2e.shell import AGENT, Shell
from tests.support.mesh import CHECKOUT, RunningMesh

#: Runs the command line in a process that has no network at all.
ALONE = """
import socket, sys

def refuse(*_args, **_kwargs):
    raise AssertionError("a replay opens no socket")

socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
from comitia_sdk.cli.main import run
run()
"""
RULES = "rules: [{{name: no_stubs, type: keyword, keywords: [stub model], action: {action}, stages: [after]}}]"
WORKFLOW = """
name: recorded
version: 1.0.0
nodes:
  - id: draft
    agent: {agent: Ada, prompt: Draft it.}
    input: {about: {cel: input.about}}
  - id: review
    depends_on: [draft]
    agent: {agent: Bob, prompt: Review it.}
    input: {draft: {cel: nodes.draft.output}}
output:
  review: {cel: nodes.review.output}
"""


@pytest.fixture(scope="module")
def shell(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Gives the command line of a tenant of its own, with two agents."""
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        shell = Shell(mesh, operator.tenants.create("recorder").admin_api_key)
    folder = tmp_path_factory.mktemp("agents")
    for name in ("Ada", "Bob"):
        file = folder / f"{name}.yaml"
        file.write_text(AGENT.format(name=name))
        shell.json("agent", "create", str(file))
    return shell


@pytest.fixture(scope="module")
def session(shell: Shell) -> str:
    """Gives the id of a session that has ended."""
    arguments = ("session", "start", "Rivers", "-a", "Ada", "-a", "Bob", "--rounds", "2", "--all-rounds", "-f")
    events = [json.loads(line) for line in shell.run(*arguments, "-o", "json").splitlines()]
    return events[0]["session_started"]["session_id"]


def alone(folder: Path, *arguments: str, code: int = 0) -> str:
    """Runs the command line without a mesh, a home, a key or a network."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments],
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "COMITIA_URL": "http://127.0.0.1:1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=CHECKOUT,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if not done.stderr else done.stderr


def ended(shell: Shell, run_id: str) -> session_pb2.Session:
    with Client(shell.mesh.url, api_key=shell.key) as client:
        for _ in client.sessions.watch(run_id):
            pass
        return client.sessions.get(run_id)


def test_a_session_replays_here_and_from_its_file_anywhere(shell: Shell, session: str, tmp_path: Path) -> None:
    here = shell.json("run", "replay", session)
    assert (here["same"], here["program"]) == (True, "dialogue")
    assert int(here["decided_count"]) > 20
    assert "the same" in shell.run("run", "replay", session)
    file = tmp_path / "session.comitia"
    assert "replay them anywhere" in shell.run("run", "export", session, str(file))
    told = json.loads(alone(tmp_path, "replay", str(file), "-o", "json"))
    assert told["replay"]["same"]
    assert told["replay"]["replay_sha256"] == here["replay_sha256"]
    assert [agent["name"] for agent in told["manifest"]["agents"]] == ["Ada", "Bob"]
    assert told["manifest"]["bundles"], "the law that judged it"
    shown = alone(tmp_path, "replay", str(file))
    assert "Ada@1.0.0" in shown
    assert "the same" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"session.comitia"}, "a replay leaves nothing behind"
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    assert "line " in alone(tmp_path, "replay", str(file), code=1)


def test_a_fork_at_a_turn_with_another_prompt_and_model_differs_where_it_was_made_anew(
    shell: Shell, session: str, tmp_path: Path
) -> None:
    before = shell.json("session", "show", session)
    terse = tmp_path / "terse.txt"
    terse.write_text("Answer in three words.")
    fork = shell.json(
        *("run", "fork", session, "--at", "rounds/2/Ada", "--topic", "Lakes"),
        *("--prompt", f"Ada={terse}", "--agent-model", "Bob=stub", "--max-cost", "0.25"),
    )
    assert (fork["forked_from_run_id"], fork["max_cost_nano_usd"]) == (session, "250000000")
    assert fork["budget_id"] != before["budget_id"]
    after = ended(shell, fork["run_id"])
    assert (after.state, after.turn_count, after.topic_start) == (session_pb2.SESSION_STATE_SUCCEEDED, 4, "Lakes")
    assert after.cost_nano_usd < int(before["cost_nano_usd"]), "what was taken over the other run has paid for"
    assert shell.json("session", "show", session) == before, "the other run stays as it is"
    assert shell.json("run", "replay", fork["run_id"])["same"]

    told: dict[str, Any] = json.loads(shell_diff(shell, session, fork["run_id"], "-o", "json"))
    steps = {step["path"]: step for step in told["steps"]}
    assert set(steps) <= {"rounds/2/Ada", "rounds/2/Bob"}
    assert "stub" in steps["rounds/2/Bob"]["second"]["model"]
    assert told["same_step_count"] >= 2
    assert {pin["field"] for pin in told["pins"]} >= {"session.topic_start", "agents[0].instructions"}
    by_meaning = json.loads(shell_diff(shell, session, fork["run_id"], "--meaning", "-o", "json"))
    assert not by_meaning["meaning_left_out"]
    assert all("meaning" in step for step in by_meaning["steps"] if "words" in step)
    shown = shell_diff(shell, session, fork["run_id"])
    assert "rounds/2/Bob" in shown
    assert "Answer in three words." in shown

    file = tmp_path / "fork.comitia"
    shell.run("run", "export", fork["run_id"], str(file))
    assert f"{session} after fact" in alone(tmp_path, "replay", str(file))


def shell_diff(shell: Shell, *arguments: str) -> str:
    """Gives what `run diff` printed, which exits with 1 for runs that differ."""
    done = shell.mesh.comitia(
        *("run", "diff", *arguments), check=1, COMITIA_URL=shell.mesh.url, COMITIA_API_KEY=shell.key, COLUMNS="160"
    )
    assert not done.stderr
    return done.stdout


def test_a_fork_that_cannot_be_made_is_refused_in_one_sentence(shell: Shell, session: str) -> None:
    assert "names no step" in shell.run("run", "fork", session, "--at", "rounds/9/Ada", code=2)
    assert "must be at most" in shell.run("run", "fork", session, "--at", "99999", code=2)
    assert "NAME=VALUE" in shell.run("run", "fork", session, "--agent", "Ada", code=2)
    assert "RUN_NOT_FOUND" in shell.run("run", "fork", "run_01jd0000000000000000000000", code=1)
    unknown = shell.run("run", "fork", session, "--policy", "strict@1.0.0", code=1)
    assert "policy: bundle 'strict@1.0.0' does not exist; store it first" in unknown
    assert "BUNDLE_NOT_FOUND" in unknown
    assert "as strict@1.0.0" in shell.run("run", "fork", session, "--policy", "strict", code=2)
    with Client(shell.mesh.url, api_key=shell.key) as client:
        with pytest.raises(NotFound) as absent:
            client.records.fork(session, policy="strict@1.0.0")
        assert (absent.value.reason, absent.value.field) == ("BUNDLE_NOT_FOUND", "policy")
        assert absent.value.metadata["resource_name"] == "strict@1.0.0"
        with pytest.raises(InvalidRequest) as acting:
            client.records.fork(session, policy="ground@1.0.0", real_effects=True)
        assert acting.value.field == "effects"


@pytest.fixture(scope="module")
def digests(shell: Shell) -> dict[str, str]:
    """Gives the digests of two bundles that are not law, by the name of what they do about the stub model."""
    with Client(shell.mesh.url, api_key=shell.key) as client:
        return {
            action: client.policies.apply(
                RULES.format(action=action), name=action, version="1.0.0", keep_inactive=True
            ).digest
            for action in ("warn", "block")
        }


@pytest.fixture(scope="module")
def stubbed(shell: Shell) -> str:
    """Gives the id of a session of the stub model that has ended, in two rounds under the law."""
    with Client(shell.mesh.url, api_key=shell.key) as client:
        started = client.sessions.start("Rivers", agents=["Ada", "Bob"], model="stub", max_rounds=2)
        assert ended(shell, started.session_id).state == session_pb2.SESSION_STATE_SUCCEEDED
        assert all("stub model" in turn.output.content for turn in client.sessions.turns(started.session_id))
        return started.session_id


def test_a_fork_under_another_policy_is_judged_by_it_and_shows_it(
    shell: Shell, stubbed: str, digests: dict[str, str]
) -> None:
    digest = digests["warn"]
    fork = shell.json("run", "fork", stubbed, "--at", "rounds/2/Ada", "--policy", "warn@1.0.0")
    assert (fork["policy"], fork["policy_digest"]) == ("warn@1.0.0", digest)
    after = ended(shell, fork["run_id"])
    assert (after.state, after.policy, after.policy_digest) == (
        session_pb2.SESSION_STATE_SUCCEEDED,
        "warn@1.0.0",
        digest,
    )
    with Client(shell.mesh.url, api_key=shell.key) as client:
        law = next(iter(client.sessions.turns(stubbed))).bundle_digest
        assert law != digest
        turns = list(client.sessions.turns(after.session_id))
        assert [turn.bundle_digest for turn in turns] == [law, law, digest, digest]
        flagged = [{(one.name, one.status) for one in turn.monitors if one.stage == "after"} for turn in turns]
        assert [("no_stubs", "warn") in found for found in flagged] == [False, False, True, True]
        found = list(client.policies.violations(run_id=after.session_id, rule="no_stubs"))
        assert {one.bundle for one in found} == {"warn@1.0.0"}
        assert all({one.verdict_id for one in found} & set(turn.verdict_ids) for turn in turns[2:])
        assert not list(client.policies.violations(run_id=stubbed, rule="no_stubs"))
        run = client.runs.get(after.session_id)
        assert (run.policy, run.policy_digest) == ("warn@1.0.0", digest)
        told = client.records.diff(stubbed, run.run_id)
        assert [one.name for one in client.policies.list() if one.active] == ["ground"], "the law is what it was"
    assert {(pin.field, pin.before, pin.after) for pin in told.pins} >= {
        ("session.policy", "", "warn@1.0.0"),
        ("session.policy_digest", "", digest),
    }
    sides = {step.path: (step.first.bundle_digest, step.second.bundle_digest) for step in told.steps}
    assert sides == {f"rounds/2/{name}": (law, digest) for name in ("Ada", "Bob")}
    for noun in ("run", "session"):
        assert f"warn@1.0.0, {digest}" in shell.run(noun, "show", run.run_id)


def test_a_fork_fails_that_says_what_its_policy_forbids_and_it_is_dry(
    shell: Shell, stubbed: str, digests: dict[str, str], tmp_path: Path
) -> None:
    run_id = shell.json("run", "fork", stubbed, "--at", "rounds/2/Ada", "--policy", "block@1.0.0")["run_id"]
    after = ended(shell, run_id)
    assert (after.state, after.state_reason) == (session_pb2.SESSION_STATE_FAILED, "LAW_BLOCKED")
    assert "no_stubs" in after.state_message
    file = tmp_path / "fork.comitia"
    with Client(shell.mesh.url, api_key=shell.key) as client, file.open("wb") as opened:
        assert client.sessions.get(stubbed).turn_count == 4
        assert digests["block"] not in [turn.bundle_digest for turn in client.sessions.turns(run_id)]
        assert {one.bundle for one in client.policies.violations(run_id=run_id, rule="no_stubs")} == {"block@1.0.0"}
        assert client.records.replay(run_id).same
        client.records.save(run_id, opened)
    with file.open("rb") as opened:
        pinned = next(RunFileReader(opened).facts()).entry.run_started.fork
    assert (pinned.dry_effects, pinned.bundle, pinned.bundle_digest) == (True, "block@1.0.0", digests["block"])


def test_whoever_may_not_write_policies_forks_under_the_law_alone(
    shell: Shell, stubbed: str, digests: dict[str, str]
) -> None:
    user = Shell(shell.mesh, shell.json("key", "create", "plain", "--role", "tenant_user")["secret"])
    at = ("run", "fork", stubbed, "--at", "rounds/2/Ada")
    assert "policies.write" in user.run(*at, "--policy", "warn@1.0.0", code=1)
    fork = user.json(*at)
    assert fork["policy"] == ""
    assert ended(shell, fork["run_id"]).state == session_pb2.SESSION_STATE_SUCCEEDED
    with Client(shell.mesh.url, api_key=shell.key) as client:
        assert not set(digests.values()) & {turn.bundle_digest for turn in client.sessions.turns(fork["run_id"])}


def test_a_run_of_a_workflow_is_replayed_forked_and_compared(shell: Shell, tmp_path: Path) -> None:
    with Client(shell.mesh.url, api_key=shell.key) as client:
        client.workflows.create(WORKFLOW)
        run = client.runs.start("recorded", {"about": "Rivers"})
        for _ in client.runs.watch(run.run_id):
            pass
        forked = client.records.fork(run.run_id, path="nodes/review", model="stub")
        assert forked.forked_from_run_id == run.run_id
        for _ in client.runs.watch(forked.run_id):
            pass
        again = client.runs.get(forked.run_id)
        assert again.state == run_pb2.RUN_STATE_SUCCEEDED
        found = client.records.diff(run.run_id, forked.run_id)
        assert [step.path for step in found.steps] == ["nodes/review"]
        assert found.same_step_count == 1
        anew = client.records.fork(run.run_id, input={"about": "Lakes"})
        for _ in client.runs.watch(anew.run_id):
            pass
        assert client.runs.get(anew.run_id).input["about"] == "Lakes"
        for run_id in (run.run_id, forked.run_id, anew.run_id):
            assert client.records.replay(run_id).same
            file = tmp_path / f"{run_id}.comitia"
            with file.open("wb") as opened:
                client.records.save(run_id, opened)
            assert json.loads(alone(tmp_path, "replay", str(file), "-o", "json"))["replay"]["same"]
