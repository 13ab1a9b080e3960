"""What is charged to whom as a file that people open: CSV for spreadsheets, JSON for programs."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

#: What a spreadsheet takes for the beginning of a formula, in Western and in full width.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - full width on purpose


class FileFormat(IntEnum):
    """How a file is written."""

    CSV = 1
    JSON = 2


@dataclass(frozen=True, slots=True)
class Told:
    """A text that someone else chose; everything else in a file is ours."""

    text: str


Cell = str | int | bool | Told


class CostFile:
    """Writes a file piece by piece: `head`, any number of `rows`, `tail`."""

    def __init__(self, form: FileFormat, columns: Sequence[str]) -> None:
        self._form = form
        self._columns = tuple(columns)
        self._begun = False

    def head(self) -> bytes:
        """Begins the file."""
        return _csv([self._columns]) if self._form is FileFormat.CSV else b"[\n"

    def rows(self, rows: Iterable[Sequence[Cell]]) -> bytes:
        """Writes rows, with a cell for each column."""
        if self._form is FileFormat.CSV:
            return _csv([[_plain(cell) for cell in row] for row in rows])
        written: list[str] = []
        for row in rows:
            values = dict(zip(self._columns, map(_value, row), strict=True))
            written.append(f"{',' if self._begun else ''}{json.dumps(values)}\n")
            self._begun = True
        return "".join(written).encode()

    def tail(self) -> bytes:
        """Ends the file."""
        return b"" if self._form is FileFormat.CSV else b"]\n"


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    page = io.StringIO()
    # All is quoted: where `;` separates cells, a name that holds one would begin a new one.
    csv.writer(page, quoting=csv.QUOTE_ALL).writerows(rows)
    # Halves of characters, which UTF-8 has no form for, come from no database; they would end the export all the same.
    return page.getvalue().encode("utf-8", "replace")


def _plain(cell: Cell) -> str:
    """Writes a cell of CSV so that no spreadsheet computes what others wrote."""
    if isinstance(cell, Told):
        return f"'{cell.text}" if cell.text.startswith(_FORMULA) else cell.text
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _value(cell: Cell) -> str | bool:
    if isinstance(cell, Told):
        return cell.text
    return cell if isinstance(cell, bool) else str(cell)
