"""The table of faults is made of what tests noted and how they ended."""

from dataclasses import dataclass, field

import pytest

from tests.support.fault_rows import FaultTable, note, noting


@dataclass
class Report:
    """What pytest says of one phase of a test."""

    outcome: str
    user_properties: list[tuple[str, object]] = field(default_factory=list[tuple[str, object]])
    when: str = "call"


def a_test(outcome: str, *faults: tuple[str, str], when: str = "call") -> Report:
    report = Report(outcome, [("other", 1)], when)
    with noting(report.user_properties):
        for fault, part in faults:
            note(fault, part)
    return report


def test_faults_are_counted_by_what_came_of_them_once_for_each_test() -> None:
    table = FaultTable(
        [
            a_test("passed", ("killed", "cost"), ("killed", "cost"), ("paused", "nats")),
            a_test("failed", ("paused", "nats")),
            a_test("passed", ("killed", "cost"), when="teardown"),
        ]
    )
    assert [line.rstrip() for line in table.lines()] == [
        "fault   part  times  outcome",
        "killed  cost  2      nothing lost",
        "paused  nats  2      1 FAILED",
    ]
    assert table.survived == 3


@pytest.mark.parametrize(("floor", "missing"), [("0", 0), ("1", 0), ("3", 2)])
def test_a_run_that_meets_too_few_faults_says_how_many(
    monkeypatch: pytest.MonkeyPatch, floor: str, missing: int
) -> None:
    monkeypatch.setenv("COMITIA_TEST_FAULT_FLOOR", floor)
    assert FaultTable([a_test("passed", ("killed", "cost"))]).missing == missing


def test_what_is_noted_stays_with_its_test() -> None:
    outer: list[tuple[str, object]] = []
    with noting(outer):
        a_test("passed", ("killed", "cost"))
        note("paused", "nats")
    assert outer == [("fault", ("paused", "nats"))]
