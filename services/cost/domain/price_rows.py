"""Rows of price lists as people write them: CSV or JSON, read whole, with every fault named by its line and field.

A row is one tier of one model from one moment on. Rates are dollars per million tokens; a class that is left out costs
what it is usually billed as: prompt tokens as input, answer tokens as output.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any, Final, cast

from services.cost.domain.price import BEGINNING, Rates, Tier
from services.meshkit.content.model_name import ANY_MODEL, NameKey, name_key
from services.meshkit.core.money import NANO_PER_USD

#: Most rows of a list.
MOST_ROWS: Final = 10_000
_MOST_NAME: Final = 200
_MOST_ALIASES: Final = 50
#: Ten times what the dearest model ever cost: more is a mistake in the unit.
_MOST_DOLLARS: Final = 10_000
_CLASSES: Final = tuple(item.name for item in fields(Rates))
RATE: Final = "_usd_per_million"
_COLUMNS: Final = (
    "provider",
    "model",
    "aliases",
    "start_time",
    "end_time",
    "min_prompt_tokens",
    *(f"{name}{RATE}" for name in _CLASSES),
)
_REQUIRED: Final = ("provider", "model", "start_time", f"input{RATE}", f"output{RATE}")
_AS_OUTPUT: Final = frozenset({"reasoning", "audio_out"})
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
#: Length of a date without time.
_DATE: Final = 10
#: What some programs write before a text.
_MARK: Final = "\ufeff"
#: What others than ours divide cells by.
_SEPARATORS: Final = (";", "\t", "|")
_AHEAD: Final = timedelta(days=366)


class ListFormat(IntEnum):
    """How a list is written."""

    CSV = 1
    JSON = 2


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong with a list."""

    #: Line of a CSV file; number of the row, from 1, in JSON; 0: the list as a whole.
    line: int
    field: str
    sentence: str

    def __str__(self) -> str:
        place = f"line {self.line}, {self.field}" if self.line else self.field
        return f"{place}: {self.sentence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One tier of one model from one moment on."""

    line: int
    provider: str
    model: str
    aliases: tuple[str, ...]
    start: datetime
    end: datetime | None
    tier: Tier

    @property
    def key(self) -> NameKey:
        """What the model's name is compared by."""
        return name_key(self.provider, self.model)


def read_rows(content: str, form: ListFormat, faults: list[Fault], *, now: datetime) -> list[Row]:
    """Reads all rows that can be read, and notes what is wrong with the others."""
    content = content.removeprefix(_MARK)
    found = _csv_rows(content, faults) if form is ListFormat.CSV else _json_rows(content, faults)
    if len(found) > MOST_ROWS:
        faults.append(Fault(0, "content", f"must have at most {MOST_ROWS} rows"))
        return []
    return [row for line, values in found if (row := _row(line, values, faults, now=now)) is not None]


def _csv_rows(content: str, faults: list[Fault]) -> list[tuple[int, Mapping[str, str]]]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, list[str]())]
        other = next((one for one in _SEPARATORS if len(names) == 1 and "model" in names[0].split(one)), None)
        if other is not None:
            faults.append(Fault(1, "row", f"is divided by {other!r}: divide cells by commas, and amounts by points"))
            return []
        if not _names_fit(1, names, faults):
            return []
        found: list[tuple[int, Mapping[str, str]]] = []
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(names):
                faults.append(Fault(reader.line_num, "row", f"has {len(cells)} cells instead of {len(names)}"))
                continue
            found.append((reader.line_num, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}))
    except csv.Error as error:
        faults.append(Fault(reader.line_num, "row", f"is no CSV: {error}"))
        return []
    return found


def _json_rows(content: str, faults: list[Fault]) -> list[tuple[int, Mapping[str, str]]]:
    try:
        # Numbers stay as they are written: a float would change the last digits of an amount.
        listed = json.loads(content, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        faults.append(Fault(0, "content", f"is no JSON: {str(error)[:200]}"))
        return []
    if not isinstance(listed, list):
        faults.append(Fault(0, "content", "must be an array of objects, one for each row"))
        return []
    found: list[tuple[int, Mapping[str, str]]] = []
    for line, values in enumerate(cast(list[Any], listed), start=1):  # open JSON, looked at below
        if not isinstance(values, dict):
            faults.append(Fault(line, "row", "must be an object"))
            continue
        row = cast(dict[str, Any], values)
        if _names_fit(line, list(row), faults) and (texts := _texts(line, row, faults)) is not None:
            found.append((line, texts))
    return found


def _names_fit(line: int, names: Sequence[str], faults: list[Fault]) -> bool:
    unknown = [name[:60] or "(no name)" for name in names if name not in _COLUMNS]
    wrong = [Fault(line, ", ".join(unknown), "is none of " + ", ".join(_COLUMNS))] if unknown else list[Fault]()
    missing = [name for name in _REQUIRED if name not in names]
    wrong += [Fault(line, ", ".join(missing), "is missing" if len(missing) == 1 else "are missing")] if missing else []
    wrong += [Fault(line, name, "stands there twice") for name in {name for name in names if names.count(name) > 1}]
    faults += wrong
    return not wrong


def _texts(line: int, row: Mapping[str, Any], faults: list[Fault]) -> dict[str, str] | None:
    texts: dict[str, str] = {}
    for name, value in row.items():
        if name == "aliases" and isinstance(value, list):
            value = ";".join(map(str, cast(list[Any], value)))
        if value is None:
            continue
        if not isinstance(value, str):
            faults.append(Fault(line, name, "must be a text or a number"))
            return None
        texts[name] = value.strip()
    return texts


class _Reader:
    """Reads the fields of one row, and notes what is wrong with each."""

    def __init__(self, line: int, values: Mapping[str, str], faults: list[Fault]) -> None:
        self._line = line
        self._values = values
        self._faults = faults

    def fault(self, field: str, sentence: str) -> None:
        self._faults.append(Fault(self._line, field, sentence))

    def name(self, field: str) -> str:
        text = self._values.get(field, "")
        if not text:
            self.fault(field, "is required")
        self._check_name(field, text)
        return text

    def aliases(self) -> tuple[str, ...]:
        names = tuple(name.strip() for name in self._values.get("aliases", "").split(";") if name.strip())
        if len(names) > _MOST_ALIASES or len({name.lower() for name in names}) < len(names):
            self.fault("aliases", f"must be at most {_MOST_ALIASES} different names, however they are written")
        if ANY_MODEL in names:
            self.fault("aliases", f"must not be {ANY_MODEL!r}: only a row of its own is for all models of a provider")
        for name in names:
            self._check_name("aliases", name)
        return names

    def moment(self, field: str) -> datetime | None:
        """Reads a date, or a time with its zone; None when there is none, or it is wrong."""
        text = self._values.get(field, "")
        if not text:
            return None
        try:
            moment = datetime.fromisoformat(text)
            if len(text) == _DATE:
                return moment.replace(tzinfo=UTC)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        self.fault(field, "must be a date such as 2026-11-01, or a time with its zone such as 2026-11-01T12:00Z")
        return None

    def tokens(self) -> int:
        text = self._values.get("min_prompt_tokens") or "0"
        if re.fullmatch(r"[0-9]{1,9}", text) is None:
            self.fault("min_prompt_tokens", "must be a whole number, 0 or more")
            return 0
        return int(text)

    def rates(self) -> Rates:
        known = {name: self._rate(f"{name}{RATE}") for name in _CLASSES if self._values.get(f"{name}{RATE}")}
        for name in ("input", "output"):
            if name not in known:
                self.fault(f"{name}{RATE}", "is required, with 0 for free")
        prompt, answer = known.get("input", 0), known.get("output", 0)
        usual = {name: answer if name in _AS_OUTPUT else prompt for name in _CLASSES}
        usual["cache_write_1h"] = known.get("cache_write_5m", prompt)
        return Rates(**(usual | known))

    def _rate(self, field: str) -> int:
        text = self._values[field]
        if text.startswith("-"):
            self.fault(field, "must not be negative")
            return 0
        if _NUMBER.fullmatch(text) is None:
            self.fault(field, "must be an amount in dollars such as 2.50")
            return 0
        nano = Decimal(text) * NANO_PER_USD
        if nano > _MOST_DOLLARS * NANO_PER_USD:
            self.fault(field, f"is above {_MOST_DOLLARS} dollars per million tokens, which no model costs")
        elif nano != nano.to_integral_value():
            self.fault(field, "must have at most 9 digits after the point")
        return int(nano)

    def _check_name(self, field: str, text: str) -> None:
        if len(text) > _MOST_NAME or not text.isprintable():
            self.fault(field, f"must have at most {_MOST_NAME} characters, all of them visible")


def _row(line: int, values: Mapping[str, str], faults: list[Fault], *, now: datetime) -> Row | None:
    before = len(faults)
    row = _Reader(line, values, faults)
    provider, model, aliases = row.name("provider"), row.name("model"), row.aliases()
    if not values.get("start_time"):
        row.fault("start_time", "is required")
    start, end = row.moment("start_time"), row.moment("end_time")
    if start is not None and not BEGINNING <= start <= now + _AHEAD:
        row.fault("start_time", f"must lie between {BEGINNING:%Y-%m-%d} and a year from now")
    if start is not None and end is not None and end <= start:
        row.fault("end_time", "must be after start_time")
    tier = Tier(row.tokens(), row.rates())
    if start is None or len(faults) > before:
        return None
    return Row(line=line, provider=provider, model=model, aliases=aliases, start=start, end=end, tier=tier)
