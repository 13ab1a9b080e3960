"""Reads the fields of one mapping of a definition, and notes what is wrong with each."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from enum import Enum
from typing import Final, TypeVar, cast

import rfc8785

from services.meshkit.documents.source import Path
from services.orchestrator.domain.workflow import (
    MAX_LITERAL_BYTES,
    MAX_VALUE_NAME,
    MAX_VALUES,
    Cel,
    Condition,
    JsonPath,
    Literal,
    NodeValue,
    Schema,
)
from services.orchestrator.workflows.faults import Faults, Reason

E = TypeVar("E", bound=Enum)

_DURATION: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?(?:ms|s|m|h|d))+")
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_MICROSECONDS: Final = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_EXPRESSIONS: Final[Mapping[str, type[Cel | JsonPath]]] = {"cel": Cel, "jsonpath": JsonPath}


class Fields:
    """The fields of one mapping. Each is asked for once; `done` names those that nobody asked for."""

    def __init__(self, value: object, path: Path, faults: Faults, *, what: str) -> None:
        self.path = path
        self.faults = faults
        self._asked: dict[str, None] = {}
        self._values: Mapping[str, object] = {}
        self.sound = isinstance(value, Mapping)
        if self.sound:
            self._values = cast(Mapping[str, object], value)
        elif value is not None or not path:
            self.fault((), Reason.WRONG_TYPE, f"must be a mapping of {what}, is {kind_of(value)}")

    def fault(self, below: Path, reason: Reason, sentence: str) -> None:
        """Notes a fault at this mapping or below it."""
        self.faults.add((*self.path, *below), reason, sentence)

    def at(self, name: str) -> Path:
        """The path of a field."""
        return (*self.path, name)

    def raw(self, name: str) -> object:
        """Gives a field as it is; None when it is absent."""
        self._asked[name] = None
        return self._values.get(name)

    def has(self, name: str) -> bool:
        """True when the field is there and not null."""
        return self._values.get(name) is not None

    def done(self) -> None:
        """Notes every field that nobody asked for."""
        for name in self._values:
            if name not in self._asked:
                near = get_close_matches(name, self._asked, n=1)
                hint = f"; did you mean `{near[0]}`?" if near else f"; there are {', '.join(self._asked)}"
                self.faults.add(self.at(name), Reason.UNKNOWN_FIELD, f"is no field that is known here{hint}", key=True)

    def text(
        self,
        name: str,
        *,
        required: bool = False,
        most: int | None = None,
        pattern: re.Pattern[str] | None = None,
        must: str = "",
    ) -> str:
        """Gives a text, empty when it is absent or wrong.

        Args:
            must: what a text that `pattern` does not match must be, such as `must be a version`.
        """
        value = self.raw(name)
        if value is None or value == "":
            if required:
                self.missing(name)
            return ""
        if not isinstance(value, str):
            hint = "; put it in quotes" if isinstance(value, bool | int | float) else ""
            self.fault((name,), Reason.WRONG_TYPE, f"must be a text, is {kind_of(value)}{hint}")
            return ""
        if most is not None and len(value) > most:
            self.fault((name,), Reason.TOO_LARGE, f"has {len(value)} characters; at most {most} are taken")
            return ""
        if pattern is not None and pattern.fullmatch(value) is None:
            self.fault((name,), Reason.MALFORMED, must)
            return ""
        return value

    def missing(self, name: str) -> None:
        """Notes that a field is required."""
        self.fault((name,), Reason.REQUIRED, "is required")

    def whole(self, name: str, *, low: int, high: int) -> int:
        """Gives a whole number; 0, which stands for the default, when it is absent or wrong."""
        value = self.raw(name)
        if value is None or (value == 0 and not isinstance(value, bool)):
            return 0
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fault((name,), Reason.WRONG_TYPE, f"must be a whole number, is {kind_of(value)}")
            return 0
        if not low <= value <= high:
            self.fault((name,), Reason.OUT_OF_RANGE, f"must be {low} to {high}, is {value}")
            return 0
        return value

    def number(self, name: str, *, low: float, high: float, zero: bool = False) -> float | None:
        """Gives a number; None when it is absent or wrong.

        Args:
            zero: True where 0 stands for the default, whatever `low` is.
        """
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fault((name,), Reason.WRONG_TYPE, f"must be a number, is {kind_of(value)}")
            return None
        if not low <= value <= high and not (zero and value == 0):
            self.fault((name,), Reason.OUT_OF_RANGE, f"must be {low:g} to {high:g}, is {value:g}")
            return None
        return float(value)

    def duration(self, name: str, *, low: timedelta, high: timedelta) -> timedelta | None:
        """Gives a duration such as `1h30m`; None when it is absent or wrong."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, str):
            hint = f"; a number needs a unit, such as {value}s" if isinstance(value, int | float) else ""
            self.fault((name,), Reason.WRONG_TYPE, f"must be a duration such as 30s, 1h30m or 250ms{hint}")
            return None
        if _DURATION.fullmatch(value) is None:
            self.fault((name,), Reason.MALFORMED, "must be a duration such as 30s, 1h30m, 250ms or 7d")
            return None
        # In whole microseconds: floats would round.
        span = timedelta(microseconds=sum(_microseconds(count, unit) for count, unit in _DURATION_PART.findall(value)))
        if not low <= span <= high:
            self.fault((name,), Reason.OUT_OF_RANGE, f"must be {spoken(low)} to {spoken(high)}, is {value}")
            return None
        return span

    def choice(self, name: str, choices: type[E]) -> E | None:
        """Gives one of a few words; None when it is absent or wrong."""
        return self.one_of(self.raw(name), (name,), choices)

    def one_of(self, value: object, below: Path, choices: type[E]) -> E | None:
        """Reads one of a few words from a value below this mapping."""
        if value is None:
            return None
        for choice in choices:
            if value == choice.value:
                return choice
        known = ", ".join(str(choice.value) for choice in choices)
        self.fault(below, Reason.UNKNOWN_VALUE, f"must be one of {known}, is {said(value)}")
        return None

    def items(self, name: str, *, what: str) -> list[object]:
        """Gives a list, empty when it is absent or wrong."""
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fault((name,), Reason.WRONG_TYPE, f"must be a list of {what}, is {kind_of(value)}")
            return []
        return cast(list[object], value)

    def schema(self, name: str) -> Schema | None:
        """Gives a JSON Schema as it is, None when it is absent or no mapping. Whether it compiles is asked later."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.fault((name,), Reason.WRONG_TYPE, f"must be a JSON Schema, is {kind_of(value)}")
            return None
        schema = cast(Schema, value)
        return schema if self._is_json(schema, self.at(name)) else None

    def values(self, name: str) -> dict[str, NodeValue]:
        """Gives a map of names to values."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fault((name,), Reason.WRONG_TYPE, f"must be a mapping of names to values, is {kind_of(value)}")
            return {}
        named = cast(Mapping[str, object], value)
        if len(named) > MAX_VALUES:
            self.fault((name,), Reason.TOO_LARGE, f"has {len(named)} names; at most {MAX_VALUES} are taken")
            return {}
        found: dict[str, NodeValue] = {}
        for key, item in named.items():
            if not key or len(key) > MAX_VALUE_NAME:
                self.fault((name, key), Reason.MALFORMED, f"must have a name of 1 to {MAX_VALUE_NAME} characters")
            one = self._value(item, (*self.at(name), key))
            if one is not None:
                found[key] = one
        return found

    def value(self, name: str, *, required: bool = False) -> NodeValue | None:
        """Gives a literal or an expression; None when it is absent or wrong."""
        value = self.raw(name)
        if value is None:
            if required:
                self.missing(name)
            return None
        return self._value(value, self.at(name))

    def condition(self, name: str) -> Condition | None:
        """Gives a condition: CEL as a text, or a mapping with `cel` or `jsonpath`; None when it is absent or wrong."""
        value = self.raw(name)
        if value is None:
            return None
        path = self.at(name)
        if isinstance(value, str):
            return Cel(value)
        if isinstance(value, bool):
            self.faults.add(
                path, Reason.WRONG_TYPE, f"is always {str(value).lower()}; write a question, or leave it out"
            )
            return None
        if not isinstance(value, Mapping):
            self.faults.add(
                path,
                Reason.WRONG_TYPE,
                f"must be CEL as a text, or a mapping with cel or jsonpath, is {kind_of(value)}",
            )
            return None
        return self._expression(cast(Mapping[str, object], value), path, ("cel", "jsonpath"))

    def _value(self, value: object, path: Path) -> NodeValue | None:
        if not isinstance(value, Mapping):
            return Literal(value) if self._is_json(value, path) else None
        named = cast(Mapping[str, object], value)
        if set(named) == {"literal"}:
            literal = named["literal"]
            return Literal(literal) if self._is_json(literal, (*path, "literal")) else None
        return self._expression(named, path, ("literal", "cel", "jsonpath"))

    def _expression(self, named: Mapping[str, object], path: Path, known: Sequence[str]) -> Cel | JsonPath | None:
        if len(named) != 1 or next(iter(named)) not in known:
            one = " or ".join((", ".join(known[:-1]), known[-1]))
            hint = "; put an object under literal" if "literal" in known else ""
            self.faults.add(path, Reason.WRONG_TYPE, f"must have exactly one of {one}{hint}")
            return None
        language, text = next(iter(named.items()))
        if not isinstance(text, str):
            self.faults.add(
                (*path, language), Reason.WRONG_TYPE, f"must be an expression as a text, is {kind_of(text)}"
            )
            return None
        return _EXPRESSIONS[language](text)

    def _is_json(self, value: object, path: Path) -> bool:
        try:
            size = len(canonical(value))
        except ValueError as error:
            self.faults.add(path, Reason.OUT_OF_RANGE, str(error))
            return False
        if size > MAX_LITERAL_BYTES:
            self.faults.add(path, Reason.TOO_LARGE, f"has {size} bytes as JSON; at most {MAX_LITERAL_BYTES} are taken")
            return False
        return True

    def each(self, name: str, *, what: str, inside: str) -> Iterator["Fields"]:
        """Gives the mappings of a list."""
        for index, item in enumerate(self.items(name, what=what)):
            yield Fields(item if item is not None else 0, (*self.at(name), index), self.faults, what=inside)


def canonical(value: object) -> bytes:
    """Writes JSON in its canonical form (RFC 8785). Raises: ValueError, with a sentence."""
    try:
        # Whatever JSON holds.
        return rfc8785.dumps(cast("dict[str, str]", value))
    except rfc8785.IntegerDomainError:
        raise ValueError(
            "has a whole number of more than 53 bits, which JSON does not carry; write it as a text"
        ) from None
    except rfc8785.FloatDomainError:
        raise ValueError("has a number that is not finite, which JSON does not carry") from None
    except (rfc8785.CanonicalizationError, RecursionError):
        raise ValueError("is no JSON") from None


def spoken(span: timedelta) -> str:
    """Writes a duration as people do: `1h30m`."""
    left, text = round(span.total_seconds() * 1_000_000), ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, _MICROSECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def kind_of(value: object) -> str:
    """Says what a value is, for sentences."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "a mapping"


def said(value: object) -> str:
    """Quotes a value that is short enough for a sentence, or says what it is."""
    return f"`{value}`" if isinstance(value, str | int | float) and len(str(value)) <= 64 else kind_of(value)


def _microseconds(count: str, unit: str) -> int:
    whole, _, part = count.partition(".")
    return int(whole) * _MICROSECONDS[unit] + int(part.ljust(6, "0") or "0") * _MICROSECONDS[unit] // 1_000_000
