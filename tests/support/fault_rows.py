"""The rows of the table that `make test-faults` ends with: what was done to which part, and what came of it."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

#: Name of a property of a test, whose value is a fault and a part. Properties travel with reports, from xdist's too.
_PROPERTY: Final = "fault"
#: Fewest faults that a whole run has to have come through; unset for a part of it.
_FLOOR: Final = "COMITIA_TEST_FAULT_FLOOR"

_noted: list[tuple[str, object]] = []


@contextmanager
def noting(properties: list[tuple[str, object]]) -> Iterator[None]:
    """Keeps what is noted in the block among the properties of a test."""
    global _noted
    before, _noted = _noted, properties
    try:
        yield
    finally:
        _noted = before


def note(fault: str, part: str) -> None:
    """Notes that a part had a fault in the running test."""
    _noted.append((_PROPERTY, (fault, part)))


class FaultTable:
    """Counts for each fault and part how often all was well after it, and how often it was not."""

    def __init__(self, reports: Iterable[Any]) -> None:
        counted: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for report in reports:
            if report.when == "call":
                for name, value in report.user_properties:
                    if name == _PROPERTY:
                        counted[tuple(value)][report.outcome != "passed"] += 1
        self._rows = dict(sorted(counted.items()))

    @property
    def survived(self) -> int:
        """How many faults all was well after."""
        return sum(well for well, _ in self._rows.values())

    @property
    def missing(self) -> int:
        """How many faults short of the floor the run is."""
        return max(0, int(os.environ.get(_FLOOR, "0")) - self.survived)

    def lines(self) -> list[str]:
        """Writes the table."""
        head = ("fault", "part", "times", "outcome")
        rows = [
            (fault, part, str(well + ill), f"{ill} FAILED" if ill else "nothing lost")
            for (fault, part), (well, ill) in self._rows.items()
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
