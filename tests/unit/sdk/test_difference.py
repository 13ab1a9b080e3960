"""`comitia run diff` as people read it: both runs side by side, and nothing of theirs that moves the cursor."""

import pytest

from comitia.orchestrator.v1 import record_pb2
from comitia_sdk.cli.difference import show_difference


def a_difference() -> record_pb2.RunDifference:
    """Builds a difference of two runs in one step."""
    found = record_pb2.RunDifference(same_step_count=3, omitted_step_count=2, meaning_left_out="NO_EMBEDDER: none")
    found.first.run_id, found.second.run_id = "run_a", "run_b"
    found.second.forked_from_run_id, found.second.forked_at_sequence = "run_a", 15
    found.pins.add(field="session.topic_start", before="Rails", after="Rivers")
    step = found.steps.add(path="rounds/2/Athena", words=0.5, meaning=0.75)
    step.first.text, step.second.text = "It goes by rail.", "It goes by river."
    step.first.cost_nano_usd, step.second.cost_nano_usd = 1_000, 2_000
    step.second.verdicts.append("after no_swords: redact")
    step.changes.add(before="rail.", after="river.")
    alone = found.steps.add(path="rounds/3/Athena")
    alone.second.text = "One more thing."
    return found


def test_two_runs_stand_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show_difference(a_difference())
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "run_a run_b",
        "forked from run_a after fact 15",
        "session.topic_start Rails Rivers",
        "rounds/2/Athena",
        "cost $0.000001 $0.000002",
        "rules after no_swords: redact",
        "words rail. river.",
        "alike 0.50 by words, 0.75 by meaning",
        "text One more thing.",
        "2 steps differ, 2 beyond those shown; 3 are the same",
        "not compared by meaning: NO_EMBEDDER: none",
    ):
        assert expected in lines


def test_what_others_wrote_moves_no_cursor_and_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    found = a_difference()
    found.steps[0].changes[0].after = "\x1b[2J[red]river[/red]"
    found.steps[0].path = "rounds/2/\x1b]0;x\x07"
    show_difference(found)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[red]river[/red]" in shown


def test_runs_that_are_the_same_are_told_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    show_difference(record_pb2.RunDifference(same_step_count=4))
    assert "no difference: all 4 steps are the same" in capsys.readouterr().out
