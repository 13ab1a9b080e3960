"""Runs that earlier releases recorded are decided the same by this one.

When this fails, a program decides otherwise than it did: give it another version and leave the old one in place
(docs/record.md). Never write a history again.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from comitia.orchestrator.v1 import journal_pb2, record_pb2
from comitia_sdk.record.run_file import RunFileReader
from services.orchestrator.engine.facts import Replay
from services.orchestrator.record.replaying import Rerun
from tests.support.record_histories import FOLDER, HISTORIES, main, written

FILES = sorted(FOLDER.glob("*.comitia"))
HISTORY = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
#: Facts that no history shows: somebody gives a run up, and what only a mesh in trouble records.
NOT_SHOWN = {"run_abandoned", "plan_refused", "call_held", "call_decided"}


def entries_of(path: Path) -> Sequence[journal_pb2.JournalEntry]:
    with path.open("rb") as file:
        return [fact.entry for fact in RunFileReader(file).facts()]


def shown(report: record_pb2.Replay) -> str:
    return "\n".join(f"{drift.sequence} {drift.path} {drift.fact}: {drift.message}" for drift in report.drifts)


@HISTORY
def test_a_history_is_decided_again_as_it_was_recorded(path: Path) -> None:
    rerun = Rerun(path.stem)
    for entry in entries_of(path):
        rerun.take_fact(entry)
    report = rerun.finish()
    assert report.same, shown(report)
    assert report.decided_count > 0


@HISTORY
def test_the_engine_could_go_on_from_any_place_of_a_history(path: Path) -> None:
    replay = Replay(path.stem)
    for entry in entries_of(path):
        replay.feed(entry)
    replay.finish()


def test_there_is_a_history_of_every_kind_of_run_and_of_every_fact() -> None:
    assert {path.stem for path in FILES} >= HISTORIES.keys()
    facts = {entry.WhichOneof("fact") for path in FILES for entry in entries_of(path)}
    known = {field.name for field in journal_pb2.JournalEntry.DESCRIPTOR.oneofs_by_name["fact"].fields}
    assert known - facts == NOT_SHOWN


def test_histories_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    (tmp_path / "debate.comitia").write_bytes(b"old")
    main(tmp_path)
    assert (tmp_path / "debate.comitia").read_bytes() == b"old"
    assert {path.stem for path in tmp_path.glob("*.comitia")} == HISTORIES.keys()


def test_a_history_written_now_is_read_and_says_what_it_pinned() -> None:
    reader = RunFileReader(io.BytesIO(written("tools", HISTORIES["tools_and_style"]())))
    assert len(list(reader.facts())) == reader.fact_count
    manifest = reader.manifest
    assert [agent["name"] for agent in manifest["agents"]] == ["Apollo", "Athena"]
    assert [tool["name"] for tool in manifest["tools"]] == ["calculator"]
    assert manifest["models_answered"] == ["scripted/scripted-1"]
    assert manifest["state"] == "SUCCEEDED"
