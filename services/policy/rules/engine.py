"""RE2, the only engine that runs expressions of users: its time is linear in the text, whatever the expression.

Everything works on UTF-8 bytes, for that is what RE2 itself does.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# google-re2 has no types; what it gives is checked here, and nothing else imports it.

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

import re2

Span = tuple[int, int]

#: Largest program of one expression of a user, and of a whole bundle, in RE2 instructions (16 bytes each).
MAX_PROGRAM: Final = 10_000
MAX_BUNDLE_PROGRAM: Final = 40_000
#: Memory of one expression and of one set, program and states, bytes.
_EXPRESSION_MEMORY: Final = 2 * 1024 * 1024
_OWN_MEMORY: Final = 8 * 1024 * 1024
_SET_MEMORY: Final = 16 * 1024 * 1024
#: Matches at the start of any text. A set that does not report it ran out of memory, which RE2 says in no other way.
_CANARY: Final = r"\A"


class Refused(Exception):
    """RE2 does not take an expression. Carries why."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Expression:
    """One compiled expression.

    Args:
        captures: True to ask for the places of groups.
        own: True for one that we made ourselves, of keywords; it may be larger.
    """

    def __init__(self, pattern: str, *, captures: bool = False, own: bool = False) -> None:
        options = _options(_OWN_MEMORY if own else _EXPRESSION_MEMORY)
        options.never_capture = not captures
        try:
            self._compiled: Any = re2.compile(pattern.encode(), options=options)
        except re2.error as error:
            raise Refused(_why(error)) from error
        if not own and self._compiled.programsize > MAX_PROGRAM:
            raise Refused(f"its program of {self._compiled.programsize} steps is above {MAX_PROGRAM}; shorten it")

    @property
    def program_size(self) -> int:
        """Instructions of the program."""
        return self._compiled.programsize

    def spans(self, text: bytes) -> Iterator[Span]:
        """Gives the places of leftmost matches that do not overlap and are not empty."""
        for match in self._compiled.finditer(text):
            start, end = match.span()
            if start < end:
                yield start, end

    def group_spans(self, text: bytes) -> Iterator[Span]:
        """Gives the places of the one group of each match that took part. A match begins where that group ended."""
        position = 0
        while position <= len(text):
            match = self._compiled.search(text, position)
            if match is None:
                return
            start, end = next(match.span(n) for n in range(1, self._compiled.groups + 1) if match.span(n)[0] >= 0)
            yield start, end
            position = max(end, position + 1)


class ExpressionSet:
    """Several expressions that are searched in one pass."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._count = len(patterns)
        made: Any = re2.Set.SearchSet(_options(_SET_MEMORY))
        for pattern in (*patterns, _CANARY):
            made.Add(pattern.encode())
        try:
            made.Compile()
        except re2.error:
            made = None  # too large together; each is then searched alone
        self._set = made

    def matches(self, text: bytes) -> list[int] | None:
        """Gives the numbers of the expressions that match, in order; None when the set cannot tell."""
        if self._set is None:
            return None
        found = cast(list[int] | None, self._set.Match(text))
        if found is None or self._count not in found:
            return None
        if len(found) == 1:
            return []
        return sorted(number for number in found if number != self._count)


def program_size(pattern: str, *, own: bool = False) -> int:
    """Compiles an expression to see whether RE2 takes it; gives the size of its program.

    Raises: Refused.
    """
    return Expression(pattern, own=own).program_size


def quote(text: str) -> str:
    """Gives an expression that matches the text itself."""
    return cast(str, re2.escape(text))


def release_cache() -> None:
    """Drops what RE2's module keeps of the expressions compiled last; those in use stay."""
    re2.purge()


def _options(memory: int) -> Any:
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    options.never_capture = True
    return options


def _why(error: Exception) -> str:
    said = error.args[0] if error.args else b""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return text[:200] or "it is no RE2 expression"
