"""`comitia demo` against a fake mesh."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comitia.orchestrator.v1 import agent_pb2, session_pb2
from tests.contract.sdk.conftest import Comitia
from tests.support.fake_mesh import ADMIN_KEY, FakeMesh

COMITIA = str(Path(sys.executable).with_name("comitia"))


def test_the_demo_shows_turns_similarity_tokens_money_law_and_where_to_look(comitia: Comitia) -> None:
    shown = comitia("demo", "--topic", "Tabs or spaces?").out

    for part in (
        "models, the first that answers: openai/gpt-4o-mini",
        "Debate of Athena and Apollo: Tabs or spaces?",
        "Athena speaks in round 1.",
        "Apollo speaks in round 2.",
        "round 2: how alike the turns are, 0 to 1: words 0.25, meaning 0.50",
        "2 of at most 2, 4 turns",
        "8 verdicts: 4 rules passed, 0 matched",
        "4 calls, 1000 tokens in, 50 out, $0.000123",
        "comitia session turns run_1 -o json",
    ):
        assert part in shown, f"{part}\n{shown}"


def test_a_turn_of_the_stub_is_no_demo(comitia: Comitia, mesh: FakeMesh) -> None:
    failed = comitia("demo", "--model", "stub", code=4)

    assert failed.err == "comitia: the stub answered; this was no debate of a real model"
    assert "stub, not a model" in failed.out
    assert mesh.sessions.played["run_1"].model == "stub"


def test_a_session_that_fails_fails_the_demo(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.sessions.fail_with = "BUDGET_EXHAUSTED"
    failed = comitia("demo", code=1)

    assert failed.err == "comitia: the session has failed: the budget is used up"
    assert "[BUDGET_EXHAUSTED]" in failed.out


def test_a_mesh_without_a_model_says_how_to_get_one(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.models.deployments.clear()

    assert "OPENAI_API_KEY" in comitia("demo", code=1).err
    assert not mesh.sessions.played


def test_a_model_that_is_none_is_refused_before_a_session_starts(comitia: Comitia, mesh: FakeMesh) -> None:
    refused = comitia("demo", "--model", "gpt-9", code=2)

    assert refused.err == "comitia: there is no model 'gpt-9'; there are: openai/gpt-4o-mini, stub, acme/mini"
    assert not mesh.sessions.played


def test_a_file_says_what_is_played_and_options_win(comitia: Comitia, mesh: FakeMesh, tmp_path: Path) -> None:
    mesh.agents.versions.clear()
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "topic: Tea or coffee?\nmode: consensus\nstrategy: parallel\nrounds: 3\n"
        "agents:\n  - name: Tea\n    instructions: For tea.\n  - name: Coffee\n    version: 2.0.0\n",
        encoding="utf-8",
    )
    comitia("demo", "--file", str(plan), "--rounds", "1")
    plan.write_text("agents: [Tea, Coffee@2.0.0]\n", encoding="utf-8")
    comitia("demo", "--file", str(plan))

    first, second = (played.session for played in mesh.sessions.played.values())
    assert first.agents == second.agents == ["Tea@1.0.0", "Coffee@2.0.0"]
    assert (first.topic_start, first.mode, first.max_rounds) == (
        "Tea or coffee?",
        session_pb2.SESSION_MODE_CONSENSUS,
        1,
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("topc: x\n", ": there is no field 'topc'; did you mean topic?"),
        ("topic: [x]\n", ": topic must be a text; put it in quotes"),
        ("topic: 7\n", ": topic must be a text; put it in quotes"),
        ("rounds: many\n", ": rounds must be a whole number from 1 to 100"),
        ("rounds: 0\n", ": rounds must be a whole number from 1 to 100"),
        ("agents: Athena\n", ": agents must be a list of names or definitions"),
        ("agents: [7]\n", ": agents must be a list of names or definitions"),
        ("agents: [{nmae: A}]\n", "agent 1 of the file: there is no field 'nmae'; did you mean name?"),
        ("topic: 'x\n", ":2:1: found unexpected end of stream"),
        ("topic: ''\n", "comitia: topic: must be 1 to 16,000 characters"),
        ("mode: duel\n", "mode: 'duel' is none of debate"),
        ("topic: " + "x" * 5_000_000, " is larger than 1 MB; nothing was sent"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_in_one_sentence(
    comitia: Comitia, mesh: FakeMesh, tmp_path: Path, content: str, said: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(content, encoding="utf-8")

    assert said in comitia("demo", "--file", str(plan), code=2).err
    assert not mesh.sessions.played


def on_a_terminal(mesh: FakeMesh, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """Starts the command line on a terminal of its own. Returns it and the terminal's other end."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COMITIA_URL": mesh.url, "COMITIA_API_KEY": ADMIN_KEY, "TERM": "xterm"}
    process = subprocess.Popen(
        [COMITIA, *arguments], stdout=theirs, stderr=theirs, stdin=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    return process, ours


def read_until_closed(terminal: int) -> str:
    """Reads what the command wrote, without colours."""
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody has the other end open any more
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


def test_on_a_terminal_text_streams_in_and_no_turn_is_shown_twice(mesh: FakeMesh) -> None:
    process, terminal = on_a_terminal(mesh, "session", "start", "Tabs or spaces?", "--rounds", "1", "-f")
    shown = read_until_closed(terminal)

    assert process.wait(20) == 0, shown
    assert shown.startswith("\nAthena\nAthena speaks in round 1.\n  openai/gpt-4o-mini · 10 tokens in, 5 out"), shown
    assert shown.count("Apollo speaks in round 1.") == 1
    assert "(recorded as)" not in shown


def test_on_a_terminal_rows_are_cut_to_its_width(mesh: FakeMesh) -> None:
    for name in ("Athena", "Apollo", "Zeus"):
        mesh.agents.versions[name] = agent_pb2.Agent(name=name, version="1.0.0", description="long " * 100)
    process, terminal = on_a_terminal(mesh, "agent", "list")
    shown = read_until_closed(terminal)

    assert process.wait(20) == 0
    assert all(len(line) <= 80 for line in shown.splitlines()), shown
    assert shown.count("…") == 3


def test_an_interrupted_demo_cancels_its_session(mesh: FakeMesh) -> None:
    mesh.sessions.hold = True
    process, terminal = on_a_terminal(mesh, "demo")
    end = time.monotonic() + 20
    while not mesh.calls["WatchSession"] and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    shown = read_until_closed(terminal)

    assert process.wait(20) == 130, shown
    assert "the session was cancelled" in shown
    assert "Traceback" not in shown
    assert mesh.sessions.played["run_1"].session.state == session_pb2.SESSION_STATE_CANCELLED
