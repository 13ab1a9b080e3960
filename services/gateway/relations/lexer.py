"""Cuts a model's text into words. No regular expressions on what users supply: one pass, character by character."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from services.gateway.relations.model import Place, invalid

MAX_BYTES: Final = 64 * 1024
_SIGNS: Final = frozenset("[]():,#*")
#: Characters that begin a comment when a blank stands before them, and belong to a userset when none does.
_BLANKS: Final = frozenset(" \t\f")


class WordKind(Enum):
    """What a word is."""

    NAME = "name"
    SIGN = "sign"
    LINE_END = "end of the line"
    END = "end of the text"


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the text, with its place."""

    kind: WordKind
    text: str
    place: Place

    def __str__(self) -> str:
        return repr(self.text) if self.text else f"the {self.kind.value}"


def words_of(text: str) -> Iterator[Word]:
    """Gives the words of a text; an empty line is no line. Raises: ModelInvalid."""
    if len(text.encode()) > MAX_BYTES:
        raise invalid(Place(1, 1), f"the model has {len(text.encode())} bytes and may have {MAX_BYTES}")
    lines = text.replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        found = False
        for word in _words_of_line(line, number):
            found = True
            yield word
        if found:
            yield Word(WordKind.LINE_END, "", Place(number, len(line) + 1))
    yield Word(WordKind.END, "", Place(len(lines), len(lines[-1]) + 1))


def _words_of_line(line: str, number: int) -> Iterator[Word]:
    at = 0
    while at < len(line):
        character = line[at]
        place = Place(number, at + 1)
        if character in _BLANKS:
            at += 1
        elif character == "#" and (at == 0 or line[at - 1] in _BLANKS):
            return
        elif character in _SIGNS:
            yield Word(WordKind.SIGN, character, place)
            at += 1
        elif _in_name(character):
            end = at
            while end < len(line) and _in_name(line[end]):
                end += 1
            yield Word(WordKind.NAME, line[at:end], place)
            at = end
        else:
            raise invalid(place, f"the character {character!r} has no place in a model")


def _in_name(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character in "_-./")
