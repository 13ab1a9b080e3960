"""Types of what a model reads out of a text: a closed set that the plan wrote, or open within bounds."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Final, cast

from services.orchestrator.programs.values import Json

MAX_MEMBERS: Final = 1_000
MAX_TEXT: Final = 16_000
_MAX_WHOLE: Final = 2**53 - 1
_SHAPE: Final = re.compile(r"(?P<name>[a-z]+)(?:\((?P<inside>.*)\))?", re.DOTALL)
_WHOLE: Final = re.compile(r"-?\d{1,16}")
_DATE_CHARACTERS: Final = 10
_ENDS: Final = 2


class KindUnknown(Exception):
    """No type of the language is written like this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One type: `bool`, `integer(0,100)`, `enum(low,high)`, `date` or `text(200)`."""

    name: str
    #: Of `integer`: the least and the largest; of `text`: 0 and its most characters.
    low: int = 0
    high: int = 0
    members: tuple[str, ...] = ()

    @property
    def alternatives(self) -> int:
        """How many values it has, 0 when it is open."""
        return 2 if self.name == "bool" else len(self.members)

    @property
    def schema(self) -> dict[str, Json]:
        """The same as JSON Schema, for the model."""
        match self.name:
            case "bool":
                return {"type": "boolean"}
            case "integer":
                return {"type": "integer", "minimum": self.low, "maximum": self.high}
            case "enum":
                return {"enum": list(self.members)}
            case "date":
                return {"type": "string", "format": "date"}
            case _:
                return {"type": "string", "maxLength": self.high}

    def fits(self, data: Json) -> bool:
        """Says whether a value that a model read is of this type."""
        match self.name:
            case "bool":
                return isinstance(data, bool)
            case "integer":
                return isinstance(data, int) and not isinstance(data, bool) and self.low <= data <= self.high
            case "enum":
                return data in self.members
            case "date":
                return isinstance(data, str) and _is_date(data)
            case _:
                return isinstance(data, str) and len(data) <= self.high


def kind_of(written: Json) -> Kind:
    """Reads a type. Raises: KindUnknown."""
    match = _SHAPE.fullmatch(written) if isinstance(written, str) else None
    if match is None:
        raise KindUnknown
    name, inside = match["name"], cast("str | None", match["inside"])
    parts = [] if inside is None else [part.strip() for part in inside.split(",")]
    match name:
        case "bool" | "date" if inside is None:
            return Kind(name=name)
        case "integer" if len(parts) == _ENDS and all(map(_WHOLE.fullmatch, parts)):
            low, high = int(parts[0]), int(parts[1])
            if -_MAX_WHOLE <= low <= high <= _MAX_WHOLE:
                return Kind(name=name, low=low, high=high)
        case "enum" if 1 <= len(set(parts)) == len(parts) <= MAX_MEMBERS and all(parts):
            return Kind(name=name, members=tuple(parts))
        case "text" if len(parts) == 1 and _WHOLE.fullmatch(parts[0]) and 1 <= int(parts[0]) <= MAX_TEXT:
            return Kind(name=name, high=int(parts[0]))
        case _:
            pass
    raise KindUnknown


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == _DATE_CHARACTERS
