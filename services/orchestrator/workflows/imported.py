"""What the importers of other forms share. docs/workflows.md has the rules of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from services.meshkit.documents.source import Path
from services.orchestrator.workflows.faults import Faults, Reason
from services.orchestrator.workflows.fields import kind_of, said

_PLACEHOLDER: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_DOTTED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})*")
_OTHER: Final = re.compile(r"[.-]")


@dataclass(slots=True)
class Imported:
    """A document in our own form, and where each part of it came from."""

    document: dict[str, object] = field(default_factory=dict[str, object])
    origins: dict[Path, Path] = field(default_factory=dict[Path, Path])

    def put(self, name: str, value: object, origin: Path) -> None:
        """Sets a field of the workflow, if there is a value for it."""
        if value is not None:
            self.document[name] = value
            self.origins[(name,)] = origin


class Fields:
    """The fields of one mapping of a text in another form."""

    def __init__(self, value: object, path: Path, faults: Faults) -> None:
        self.path = path
        self._faults = faults
        self._asked: set[str] = set()
        self._values: Mapping[str, object] = {}
        if isinstance(value, Mapping):
            self._values = cast(Mapping[str, object], value)
        elif value is not None:
            self.refuse((), Reason.WRONG_TYPE, f"must be a mapping, is {kind_of(value)}")

    def get(self, *names: str) -> tuple[object, Path]:
        """Gives the first of some spellings of a field that is there, with its path."""
        self._asked.update(names)
        for name in names:
            if self._values.get(name) is not None:
                return self._values[name], (*self.path, name)
        return None, (*self.path, names[0])

    def items(self, *names: str) -> list[tuple[object, Path]]:
        """Gives a list with the path of each item."""
        value, path = self.get(*names)
        if value is None:
            return []
        if not isinstance(value, list):
            self._faults.add(path, Reason.WRONG_TYPE, f"must be a list, is {kind_of(value)}")
            return []
        return [(item, (*path, index)) for index, item in enumerate(cast(list[object], value))]

    def refuse(self, below: Path, reason: Reason, sentence: str) -> None:
        """Notes a fault at this mapping or below it."""
        self._faults.add((*self.path, *below), reason, sentence)

    def done(self, what: str) -> None:
        """Notes every field that nobody asked for."""
        for name in self._values:
            if name not in self._asked:
                sentence = f"has no meaning in {what} that is taken over; remove it, or write our own form"
                self._faults.add((*self.path, name), Reason.NOT_IMPORTED, sentence, key=True)


def own_id(value: object) -> object:
    """Gives an id as expressions can name it: `-` and `.` become `_`."""
    return _OTHER.sub("_", value) if isinstance(value, str) else value


class Templates:
    """Turns `{{name}}` in texts into expressions, and remembers which names of the input they read."""

    def __init__(self, nodes: frozenset[str], faults: Faults) -> None:
        self._nodes = nodes
        self._faults = faults
        #: Names of the input, in the order in which they are met.
        self.read: dict[str, None] = {}
        #: Own ids of the nodes whose output is asked for a field, so that it must be JSON.
        self.parsed: set[str] = set()

    def value(self, value: object, path: Path) -> object:
        """Gives a value in our own form: a literal, or an expression where a text has placeholders."""
        if not isinstance(value, str) or "{{" not in value:
            if isinstance(value, Mapping | list) and "{{" in str(cast(object, value)):
                sentence = "has placeholders inside; only a text of its own may have them"
                self._faults.add(path, Reason.NOT_IMPORTED, sentence)
            return {"literal": cast(object, value)}
        parts: list[str] = []
        end = 0
        for found in _PLACEHOLDER.finditer(value):
            name = self._named(found[1].strip(), path)
            if found[0] == value:
                return {"cel": name}
            parts += [_quoted(value[end : found.start()]), f"string({name})"]
            end = found.end()
        parts.append(_quoted(value[end:]))
        return {"cel": " + ".join(part for part in parts if part != '""') or '""'}

    def reference(self, text: str) -> str | None:
        """Gives the expression that `node.output.field` stands for; None for any other text."""
        first, _, rest = text.partition(".")
        if first not in self._nodes or _DOTTED.fullmatch(text) is None or rest.split(".")[0] != "output":
            return None
        own = str(own_id(first))
        if "." in rest:
            self.parsed.add(own)
        return f"nodes.{own}.{rest}"

    def _named(self, text: str, path: Path) -> str:
        if _DOTTED.fullmatch(text) is None:
            sentence = f"has the placeholder {said(text)}; a name, or node.output, is taken"
            self._faults.add(path, Reason.NOT_IMPORTED, sentence)
            return '""'
        reference = self.reference(text)
        if reference is None:
            self.read[text.partition(".")[0]] = None
            reference = f"input.{text}"
        return reference

    def input_schema(self) -> dict[str, object] | None:
        """Describes the input by the names that were read, each required; None when there are none."""
        if not self.read:
            return None
        return {"type": "object", "properties": {name: {} for name in self.read}, "required": list(self.read)}


def _quoted(text: str) -> str:
    """Writes a text as a literal of CEL."""
    escaped = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    )
    return f'"{escaped}"'
