"""Reads YAML (and JSON, which is nearly all YAML) into plain values and remembers the line of each.

Only what a bundle needs is read: mappings with text keys, lists, and scalars as JSON knows them. Aliases, tags, several
documents, deep nesting and keys that come twice are refused, so that no small text grows large.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# PyYAML says nothing about its types; what it gives is checked here.

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, NodeEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from services.policy.domain.errors import Fault

#: Largest source, bytes.
MAX_SOURCE_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 16
MAX_NODES: Final = 20_000
_FIELD: Final = "source"
_INTEGER: Final = re.compile(r"[-+]?\d{1,18}")
_NUMBER: Final = re.compile(r"[-+]?(\d{1,18}\.?\d{0,18}|\.\d{1,18})([eE][-+]?\d{1,3})?")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
#: Styles of scalars that are text whatever they hold.
_QUOTED: Final = ("'", '"', "|", ">")
_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Tags that YAML gives by itself. Times and merge keys are then taken for the text they are.
_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "map", "seq")
)

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """A source as values, with the line on which each begins."""

    value: object
    lines: dict[Path, int]

    def line_of(self, path: Path) -> int:
        """Gives the line of the value at `path`, or of the nearest one around it."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


class Unreadable(Exception):
    """The source cannot be read. Carries why."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(str(faults[0]))
        self.faults = faults


def read_source(source: str) -> Read:
    """Reads a source.

    Raises: Unreadable.
    """
    size = len(source.encode(errors="replace"))
    if size > MAX_SOURCE_BYTES:
        raise _unreadable(0, f"has {size} bytes; at most {MAX_SOURCE_BYTES} are taken")
    try:
        _check_shape(source)
        root: Node | None = yaml.compose(source, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark is not None else 0
        raise _unreadable(line, f"is neither YAML nor JSON: {error.problem or 'cannot be read'}") from error
    except yaml.YAMLError as error:
        raise _unreadable(0, "holds characters that YAML does not allow") from error
    reader = _Reader()
    value = None if root is None else reader.value(root, ())
    if reader.faults:
        raise Unreadable(*reader.faults)
    return Read(value, reader.lines or {(): 1})


def _check_shape(source: str) -> None:
    """Walks the events, which cost no memory, before anything is built from them."""
    depth = nodes = documents = 0
    for event in yaml.parse(source, Loader=_Loader):
        line: int = event.start_mark.line
        if isinstance(event, AliasEvent):
            raise _unreadable(line, "aliases (`*name`) are not taken; write the value out")
        if isinstance(event, NodeEvent):
            nodes += 1
            if event.anchor is not None:
                raise _unreadable(line, "anchors (`&name`) are not taken; remove it")
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        elif isinstance(event, DocumentStartEvent):
            documents += 1
        if depth > MAX_DEPTH:
            raise _unreadable(line, f"is nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise _unreadable(line, f"has more than {MAX_NODES} values")
        if documents > 1:
            raise _unreadable(line, "holds several documents; send one bundle at a time")


class _Reader:
    """Turns nodes into values."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.faults: list[Fault] = []

    def value(self, node: Node, path: Path) -> object:
        self.lines[path] = node.start_mark.line + 1
        if node.tag not in _TAGS:
            self._fault(node, path, f"has the tag {node.tag!r}; tags are not taken")
            return None
        match node:
            case MappingNode():
                return self._mapping(node, path)
            case SequenceNode():
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            case ScalarNode():
                return _scalar(node)
            case _:
                return None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                self._fault(key_node, path, "has a key that is no text")
            elif key in values:
                self._fault(key_node, (*path, key), "comes twice; keep one")
            else:
                values[key] = self.value(value_node, (*path, key))
        return values

    def _fault(self, node: Node, path: Path, sentence: str) -> None:
        self.faults.append(Fault(field=field_of(path), line=node.start_mark.line + 1, sentence=sentence))


def _scalar(node: ScalarNode) -> object:
    text: str = node.value
    if node.style in _QUOTED or node.tag == "tag:yaml.org,2002:str":
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def field_of(path: Path) -> str:
    """Writes a path as callers know it: `source.rules[3].pattern`."""
    text = _FIELD
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:64]}"
    return text


def _unreadable(line: int, sentence: str) -> Unreadable:
    return Unreadable(Fault(field=_FIELD, line=line + 1, sentence=sentence))
