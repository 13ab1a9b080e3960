"""`comitia replay`: a run from its file, in a process without a mesh, and what it says of files that are none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from comitia.orchestrator.v1 import journal_pb2
from comitia_sdk.cli.failure import EXIT_REFUSED, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.main import app
from comitia_sdk.cli.output import show_lines
from services.orchestrator.programs import dialogue
from services.orchestrator.programs import run as program
from tests.support.record_histories import FOLDER, written
from tests.support.sessions import a_start, an_agent

DEBATE = FOLDER / "debate.comitia"


def replay(*arguments: str) -> tuple[int, str]:
    """Gives exit code and what was printed. Raises: CommandFailed."""
    done = CliRunner().invoke(app, ["replay", *arguments])
    if isinstance(done.exception, CommandFailed):
        raise done.exception
    return done.exit_code, done.output


def test_a_file_is_replayed_and_shows_what_it_pinned() -> None:
    code, shown = replay(str(DEBATE))
    assert code == 0
    for words in (
        "Apollo@1.0.0",
        "scripted/scripted-1",
        "SUCCEEDED",
        "dialogue 1",
        "the same",
        "36, 23 of them decided",
    ):
        assert words in shown
    told: dict[str, Any] = json.loads(replay(str(DEBATE), "-o", "json")[1])
    assert told["replay"]["same"]
    assert told["manifest"]["facts"] == "36"


def test_a_drift_is_shown_with_its_step_and_both_values_and_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialogue, "_DEFAULT_RECENT_TURNS", 7)
    code, shown = replay(str(DEBATE))
    assert code == EXIT_REFUSED
    assert "fact 3, rounds/1/Athena, call_intended: the program decides this with other values" in shown
    assert "request.recent_turns" in shown
    assert "differs at" in shown


def test_a_fork_says_where_it_comes_from() -> None:
    assert "forked from  run_other after fact" in replay(str(FOLDER / "forked.comitia"))[1]


def test_a_workflow_is_named_with_its_version() -> None:
    assert "review@1.0.0" in replay(str(FOLDER / "reviewed.comitia"))[1]


def test_what_is_no_file_of_a_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="cannot be read: No such file") as missing:
        replay(str(tmp_path / "nothing"))
    assert missing.value.code == EXIT_USAGE
    other = tmp_path / "other"
    other.write_text("{}\n")
    with pytest.raises(CommandFailed, match="line 1: this is no file of a run"):
        replay(str(other))
    cut = tmp_path / "cut"
    cut.write_bytes(DEBATE.read_bytes()[:-100])
    with pytest.raises(CommandFailed, match="was changed or cut"):
        replay(str(cut))
    with pytest.raises(CommandFailed, match="Is a directory"):
        replay(str(tmp_path))


def test_an_installation_without_programs_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "services.orchestrator.record.replaying", None)
    with pytest.raises(CommandFailed, match="has the client only"):
        replay(str(DEBATE))


#: A replay whose program never comes back; the alarm comes at once, for nobody waits for a second here.
BUSY = """
import signal, sys
from typer.testing import CliRunner
from comitia_sdk.cli.main import app
from services.orchestrator.programs import run as program

def for_ever(*_):
    while True:
        pass

alarms, program.decide = signal.setitimer, for_ever
signal.setitimer = lambda which, seconds, *again: alarms(which, seconds / 100, *again)
print(CliRunner().invoke(app, ["replay", sys.argv[1], "--max-seconds", "1"]).exception)
"""


def test_a_file_that_keeps_its_programs_busy_is_given_up() -> None:
    # In a process of its own, as on the command line: what is bounded is the time of the processor of all of it.
    done = subprocess.run([sys.executable, "-c", BUSY, str(DEBATE)], capture_output=True, text=True, check=True)
    assert "takes longer than 1 s" in done.stdout


def test_a_file_that_needs_too_much_memory_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(program, "decide", too_much)
    with pytest.raises(CommandFailed, match="bytes of memory"):
        replay(str(DEBATE))


def forged(folder: Path, name: str) -> Path:
    """Writes the file of a run whose agent has a name that no mesh would have taken."""
    started = a_start(an_agent(name), an_agent("Apollo"))
    path = folder / "forged"
    path.write_bytes(written("forged", [journal_pb2.JournalEntry(run_started=started)]))
    return path


@pytest.mark.parametrize("lie", ["x\nreplay  the same", "x\r\x1b[2Kreplay", "x\u202e\u2066\u009b2J\u2028replay"])
def test_no_name_in_a_file_says_what_we_say(tmp_path: Path, lie: str) -> None:
    path = forged(tmp_path, lie)
    code, shown = replay(str(path))
    assert code == EXIT_REFUSED
    said = [line.split("  ", 1)[1].strip() for line in shown.splitlines() if line.startswith("replay ")]
    assert said[0] == "differs at 1 place"
    assert len(said) == len(("replay", "replay hash"))
    assert not set(shown) & {*"\r\x1b\x9b\u202e\u2066\u2028"}


def test_json_shows_what_is_not_seen_as_escapes(tmp_path: Path) -> None:
    name = "Zoë\u202e\u009b\u2028"
    _, shown = replay(str(forged(tmp_path, name)), "-o", "json")
    assert not set(shown) & {*"\x9b\u202e\u2028"}
    assert "Zoë" in shown
    assert name in {agent["name"] for agent in json.loads(shown)["manifest"]["agents"]}


def test_what_others_wrote_begins_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_lines([("state", "x\nreplay  the same"), ("replay", "differs")])
    assert capsys.readouterr().out.splitlines() == ["state   x", "        replay  the same", "replay  differs"]
