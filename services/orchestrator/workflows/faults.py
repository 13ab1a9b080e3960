"""Collects everything that is wrong with a definition, each fault with its place."""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from services.meshkit.documents.source import Path, Source, written
from services.orchestrator.domain.workflow import Fault

#: Faults that are looked for before giving up.
MAX_FAULTS: Final = 1_000


class Reason(Enum):
    """What kind of fault; docs/workflows.md says what to do about each."""

    UNREADABLE = "UNREADABLE"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    REQUIRED = "REQUIRED"
    WRONG_TYPE = "WRONG_TYPE"
    MALFORMED = "MALFORMED"
    UNKNOWN_VALUE = "UNKNOWN_VALUE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    TOO_LARGE = "TOO_LARGE"
    TOO_MANY_NODES = "TOO_MANY_NODES"
    TOO_MANY_EDGES = "TOO_MANY_EDGES"
    NOT_ALLOWED_HERE = "NOT_ALLOWED_HERE"
    DUPLICATE_ID = "DUPLICATE_ID"
    DUPLICATE_EDGE = "DUPLICATE_EDGE"
    UNKNOWN_NODE = "UNKNOWN_NODE"
    NOT_BEFORE = "NOT_BEFORE"
    CYCLE = "CYCLE"
    UNREACHABLE = "UNREACHABLE"
    SCHEMA_INVALID = "SCHEMA_INVALID"
    EXPRESSION_INVALID = "EXPRESSION_INVALID"
    EXPRESSION_TYPE = "EXPRESSION_TYPE"
    AGENT_NOT_FOUND = "AGENT_NOT_FOUND"
    WORKFLOW_NOT_FOUND = "WORKFLOW_NOT_FOUND"
    TOO_DEEP = "TOO_DEEP"
    INPUT_MISMATCH = "INPUT_MISMATCH"
    NOT_IMPORTED = "NOT_IMPORTED"


class Faults:
    """The faults of one definition.

    Args:
        source: where it came from; None for a message, which has no lines.
    """

    def __init__(self, source: Source | None) -> None:
        self._source = source
        #: Paths in the text by paths in our own form, once a text of another form was turned into ours.
        self.origins: Mapping[Path, Path] | None = None
        self._found: dict[Fault, None] = {}
        self.more = False

    def add(self, path: Path, reason: Reason, sentence: str, *, key: bool = False) -> None:
        """Adds a fault at a value, or with `key` at the name of the field that holds it."""
        if len(self._found) >= MAX_FAULTS:
            self.more = True
            return
        origin = self._origin(path)
        line = column = 0
        if self._source is not None:
            place = self._source.key_place_of(origin) if key else self._source.place_of(origin)
            line, column = place
        self._found[Fault(line=line, column=column, field=written(origin), reason=reason.value, sentence=sentence)] = (
            None
        )

    def line_of(self, path: Path) -> str:
        """Says where the value at a path stands, for sentences about another one."""
        origin = self._origin(path)
        return written(origin) if self._source is None else f"line {self._source.place_of(origin).line}"

    def take(self, others: "Faults") -> None:
        """Takes what others found, as it is."""
        self._found.update(others._found)

    @property
    def found(self) -> tuple[Fault, ...]:
        """Everything found, by place."""
        return tuple(sorted(self._found, key=lambda fault: (fault.line, fault.column)))

    def __bool__(self) -> bool:
        return bool(self._found)

    def _origin(self, path: Path) -> Path:
        if self.origins is None:
            return path
        known = path
        while known and known not in self.origins:
            known = known[:-1]
        # A field of the whole is called alike in all forms.
        return self.origins[known] if known else path[:1]
