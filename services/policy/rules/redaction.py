"""Replaces what rules found, until none of them finds anything outside of the marks that were left."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.policy.rules.engine import Span

#: After this many looks the whole text goes: rules that keep finding something in what others left.
_MOST_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Redactor:
    """A rule that redacts: its name and how it finds."""

    rule: str
    spans: Callable[[bytes], Iterable[Span]]

    @property
    def mark(self) -> bytes:
        """What stands in the place of what it found."""
        return f"[redacted:{self.rule}]".encode()


class Redaction:
    """Redacts texts by some rules, in the order of their bundle."""

    def __init__(self, redactors: Sequence[Redactor]) -> None:
        self._redactors = redactors

    def __call__(self, text: bytes) -> bytes:
        """Gives the text with each match replaced by the mark of its rule; the same object when there is none.

        Where matches of several rules overlap, the mark of the first of these rules replaces them all. Marks are never
        searched; a match that reaches into one takes it along.
        """
        marks: list[Span] = []
        for _ in range(_MOST_ROUNDS):
            found = _found(text, self._redactors, marks)
            if not found:
                return text
            text, marks = _replaced(text, found, marks, self._redactors)
        left = _found(text, self._redactors, marks)
        return self._redactors[left[0][2]].mark if left else text

    def first_mark(self, text: bytes) -> bytes | None:
        """Gives the mark of the first rule that finds something in the text, None when none does."""
        for redactor in self._redactors:
            if next(iter(redactor.spans(text)), None) is not None:
                return redactor.mark
        return None


def _found(text: bytes, redactors: Sequence[Redactor], marks: Sequence[Span]) -> list[tuple[int, int, int]]:
    """Gives start, end and rule of the stretches to replace, in order, none overlapping another."""
    raw: list[tuple[int, int, int]] = []
    for number, redactor in enumerate(redactors):
        for start, end in redactor.spans(text):
            grown = _grown(text, start, end, marks)
            if grown is not None:
                raw.append((*grown, number))
    raw.sort()
    return list(_merged(raw))


def _grown(text: bytes, start: int, end: int, marks: Sequence[Span]) -> Span | None:
    """Takes in marks that a match touches and whole characters; None for a match within a mark."""
    for mark_start, mark_end in marks:
        if mark_start <= start and end <= mark_end:
            return None
        if start < mark_end and mark_start < end:
            start, end = min(start, mark_start), max(end, mark_end)
    while start > 0 and text[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return start, end


def _merged(raw: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    current: tuple[int, int, int] | None = None
    for start, end, number in raw:
        if current is None:
            current = (start, end, number)
        elif start < current[1] or (start == current[1] and number == current[2]):
            current = (current[0], max(current[1], end), min(current[2], number))
        else:
            yield current
            current = (start, end, number)
    if current is not None:
        yield current


def _replaced(
    text: bytes, found: Sequence[tuple[int, int, int]], marks: Sequence[Span], redactors: Sequence[Redactor]
) -> tuple[bytes, list[Span]]:
    """Puts the marks in; gives the text and where all marks are now."""
    pieces: list[bytes] = []
    new_marks: list[Span] = []
    kept = iter([mark for mark in marks if not any(start <= mark[0] and mark[1] <= end for start, end, _ in found)])
    waiting = next(kept, None)
    position = length = 0
    for start, end, number in found:
        while waiting is not None and waiting[1] <= start:
            shift = length - position
            new_marks.append((waiting[0] + shift, waiting[1] + shift))
            waiting = next(kept, None)
        pieces.append(text[position:start])
        length += start - position
        mark = redactors[number].mark
        new_marks.append((length, length + len(mark)))
        pieces.append(mark)
        length += len(mark)
        position = end
    while waiting is not None:
        shift = length - position
        new_marks.append((waiting[0] + shift, waiting[1] + shift))
        waiting = next(kept, None)
    pieces.append(text[position:])
    return b"".join(pieces), new_marks
