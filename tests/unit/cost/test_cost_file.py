"""Exports: what a spreadsheet opens computes nothing, and what a program reads is whole."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cost.domain.cost_file import CostFile, FileFormat, Told

COLUMNS = ("agent_name", "cost_nano_usd", "assumed")


def written(form: FileFormat, *rows: tuple[Told, int, bool]) -> str:
    file = CostFile(form, COLUMNS)
    return b"".join((file.head(), *(file.rows([row]) for row in rows), file.tail())).decode()


#: In Western and in full width.
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x")', "＝1")  # noqa: RUF001


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_name_that_is_a_formula_is_text(formula: str) -> None:
    content = written(FileFormat.CSV, (Told(formula), -5, False))
    _, row = csv.reader(io.StringIO(content, newline=""))
    assert row == [f"'{formula}", "-5", "false"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_name_stays_one_cell_whatever_separates_them(separator: str) -> None:
    content = written(FileFormat.CSV, (Told("a;=1+1\t=2,=3"), 5, True))
    lines = list(csv.reader(io.StringIO(content, newline=""), delimiter=separator))
    assert [cell for cell in lines[1] if cell.startswith("=")] == []


@given(st.lists(st.tuples(st.text(max_size=30), st.integers(-(2**63), 2**63 - 1), st.booleans()), max_size=5))
def test_a_file_says_what_it_was_given(rows: list[tuple[str, int, bool]]) -> None:
    rows = [(name.encode("utf-8", "replace").decode(), cost, assumed) for name, cost, assumed in rows]
    told = [(Told(name), cost, assumed) for name, cost, assumed in rows]
    read = json.loads(written(FileFormat.JSON, *told))
    assert read == [dict(zip(COLUMNS, (name, str(cost), assumed), strict=True)) for name, cost, assumed in rows]
    head, *lines = csv.reader(io.StringIO(written(FileFormat.CSV, *told), newline=""))
    assert tuple(head) == COLUMNS
    for (name, cost, assumed), line in zip(rows, lines, strict=True):
        assert line[0].removeprefix("'") == name.removeprefix("'")
        assert not line[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        assert line[1:] == [str(cost), str(assumed).lower()]
