"""Reads YAML (and JSON, which is nearly all YAML) into plain values and remembers the place of each.

Only what JSON knows is read: mappings with text keys, lists, and scalars. Anchors, aliases, tags, several documents,
deep nesting and keys that come twice are refused, so that no small text grows large. The text is read event by event,
so that a large one does not hold up other threads.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# PyYAML says nothing about its types; what it gives is checked here.

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

_INTEGER: Final = re.compile(r"[-+]?\d{1,18}")
_NUMBER: Final = re.compile(r"[-+]?(\d{1,18}\.?\d{0,18}|\.\d{1,18})([eE][-+]?\d{1,3})?")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT: Final = "tag:yaml.org,2002:str"
#: Tags that YAML gives by itself, and that a text may therefore spell out.
_TAGS: Final = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))

Path = tuple[str | int, ...]


class Place(NamedTuple):
    """Where something stands in a text."""

    #: From 1.
    line: int
    #: In characters, from 1.
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is read."""

    size_bytes: int
    depth: int
    values: int
    #: What the text holds, for sentences: `bundle`.
    noun: str


@dataclass(frozen=True, slots=True)
class SourceFault:
    """Why a text, or a part of it, cannot be read."""

    path: Path
    place: Place
    sentence: str
    #: True for a key that comes twice.
    twice: bool = False


class Unreadable(Exception):
    """The text cannot be read. Carries why."""

    def __init__(self, *faults: SourceFault) -> None:
        super().__init__(faults[0].sentence)
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Source:
    """A text as values, with the place of each."""

    value: object
    places: dict[Path, Place] = field(default_factory=dict[Path, Place])
    #: Places of the keys of mappings, under the paths of their values.
    keys: dict[Path, Place] = field(default_factory=dict[Path, Place])

    def place_of(self, path: Path) -> Place:
        """Gives the place of the value at `path`, or of the nearest one around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))

    def key_place_of(self, path: Path) -> Place:
        """Gives the place of the key of the value at `path`, or of the value where it has none."""
        return self.keys.get(path) or self.place_of(path)


def read_source(text: str, bounds: Bounds) -> Source:
    """Reads a text.

    Raises: Unreadable.
    """
    size = len(text.encode(errors="replace"))
    if size > bounds.size_bytes:
        raise _unreadable(Place(1, 1), f"has {size} bytes; at most {bounds.size_bytes} are taken")
    reader = _Reader(bounds)
    try:
        reader.read(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)
        raise _unreadable(place, f"is neither YAML nor JSON: {error.problem or 'cannot be read'}") from error
    except yaml.YAMLError as error:
        raise _unreadable(Place(1, 1), "holds characters that YAML does not allow") from error
    if reader.faults:
        raise Unreadable(*reader.faults)
    return reader.source()


def written(path: Path, root: str = "") -> str:
    """Writes a path as callers know it: `rules[3].pattern`, below `root` if there is one."""
    text = root
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f"{'.' if text else ''}{step[:64]}"
    return text


class _Open:
    """A mapping or list that has begun and not ended."""

    __slots__ = ("key", "path", "values")

    def __init__(self, path: Path, values: dict[str, object] | list[object]) -> None:
        self.path = path
        self.values = values
        #: Of a mapping: the key whose value comes next; None when a key comes next.
        self.key: str | None = None


#: Stands for a key whose value is passed over: it was refused.
_DROPPED: Final = "\0"


class _Reader:
    """Builds values from events."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._stack: list[_Open] = []
        self._value: object = None
        self._places: dict[Path, Place] = {}
        self._keys: dict[Path, Place] = {}
        self.faults: list[SourceFault] = []

    def source(self) -> Source:
        return Source(self._value, self._places, self._keys)

    def read(self, events: Iterator[Any]) -> None:
        nodes = documents = 0
        for event in events:
            place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    noun = self._bounds.noun
                    raise _unreadable(place, f"holds several documents; send one {noun} at a time")
            elif isinstance(event, NodeEvent):
                nodes += 1
                if nodes > self._bounds.values:
                    raise _unreadable(place, f"has more than {self._bounds.values} values")
                self._node(event, place)
            elif isinstance(event, MappingEndEvent | SequenceEndEvent):
                self._stack.pop()

    def _node(self, event: Any, place: Place) -> None:
        if isinstance(event, AliasEvent):
            raise _unreadable(place, "aliases (`*name`) are not taken; write the value out")
        if event.anchor is not None:
            raise _unreadable(place, "anchors (`&name`) are not taken; remove it")
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.values, dict) and top.key is None:
            self._key(top, event, place)
            return
        path = self._path(top)
        if event.tag is not None and event.tag not in _TAGS:
            self._fault(path, place, f"has the tag {event.tag!r}; tags are not taken")
        if isinstance(event, ScalarEvent):
            self._put(top, path, place, self._scalar(event, path, place))
            return
        value: dict[str, object] | list[object] = {} if isinstance(event, MappingStartEvent) else []
        self._put(top, path, place, value)
        self._push(_Open(path, value), place)

    def _key(self, top: _Open, event: Any, place: Place) -> None:
        if not isinstance(event, ScalarEvent):
            self._fault(top.path, place, "has a key that is no text")
            top.key = _DROPPED
            # Whatever the key holds is read past, as if it were a value of its own.
            self._push(_Open((*top.path, _DROPPED), [] if isinstance(event, SequenceStartEvent) else {}), place)
            return
        key: str = self._text(event.value, top.path, place)
        path = (*top.path, key)
        if key in top.values:
            self._fault(path, place, "comes twice; keep one", twice=True)
            top.key = _DROPPED
            return
        self._keys[path] = place
        top.key = key

    def _path(self, top: _Open | None) -> Path:
        if top is None:
            return ()
        return (*top.path, len(top.values) if top.key is None else top.key)

    def _put(self, top: _Open | None, path: Path, place: Place, value: object) -> None:
        if top is None:
            self._value = value
        elif isinstance(top.values, list):
            top.values.append(value)
        elif top.key == _DROPPED:
            top.key = None
            return
        else:
            assert top.key is not None
            top.values[top.key] = value
            top.key = None
        self._places[path] = place

    def _push(self, opened: _Open, place: Place) -> None:
        self._stack.append(opened)
        if len(self._stack) > self._bounds.depth:
            raise _unreadable(place, f"is nested deeper than {self._bounds.depth} levels")

    def _scalar(self, event: Any, path: Path, place: Place) -> object:
        text = self._text(event.value, path, place)
        if event.style or event.tag == _TEXT:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        return text

    def _text(self, text: str, path: Path, place: Place) -> str:
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            self._fault(path, place, "holds half of a character pair; write the character itself")
            return ""
        return text

    def _fault(self, path: Path, place: Place, sentence: str, *, twice: bool = False) -> None:
        self.faults.append(SourceFault(path, place, sentence, twice))


def _unreadable(place: Place, sentence: str) -> Unreadable:
    return Unreadable(SourceFault((), place, sentence))
