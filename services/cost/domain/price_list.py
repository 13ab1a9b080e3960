"""Price lists that operators import: CSV or JSON, read whole, with every fault named by its line and field.

A row is one tier of one model from one moment on. Rates are dollars per million tokens; a class that is left out costs
what it is usually billed as: prompt tokens as input, answer tokens as output.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final, cast

from services.cost.domain.errors import PriceListWrong
from services.cost.domain.price import BEGINNING, Price, Rates, Tier
from services.meshkit.core.money import NANO_PER_USD

#: Most rows of a list.
MOST_ROWS: Final = 10_000
_MOST_FAULTS: Final = 50
_MOST_NAME: Final = 200
_MOST_ALIASES: Final = 50
#: Ten times what the dearest model ever cost: more is a mistake in the unit.
_MOST_DOLLARS: Final = 10_000
#: A price that moves further than that was given per token, or per thousand.
_FURTHEST: Final = 200
_CLASSES: Final = tuple(item.name for item in fields(Rates))
_RATE: Final = "_usd_per_million"
_COLUMNS: Final = (
    "provider",
    "model",
    "aliases",
    "start_time",
    "end_time",
    "min_prompt_tokens",
    *(f"{name}{_RATE}" for name in _CLASSES),
)
_REQUIRED: Final = ("provider", "model", "start_time", f"input{_RATE}", f"output{_RATE}")
_AS_OUTPUT: Final = frozenset({"reasoning", "audio_out"})
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
#: Length of a date without time.
_DATE: Final = 10
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
class _Row:
    line: int
    provider: str
    model: str
    aliases: tuple[str, ...]
    start: datetime
    end: datetime | None
    tier: Tier


def read_list(content: str, form: ListFormat, *, source: str, known: Iterable[Price], now: datetime) -> list[Price]:
    """Reads a list and checks all of it.

    Args:
        source: where the prices come from; part of each one's digest.
        known: prices that are in force; one that moves absurdly far from its own is refused.
    Raises: PriceListWrong: with every fault, the first 50 of them.
    """
    faults: list[Fault] = []
    rows = [
        row for line, values in _rows(content, form, faults) if (row := _row(line, values, faults, now=now)) is not None
    ]
    prices = _prices(rows, source, faults)
    _check_moves(prices, rows, known, faults)
    if not rows and not faults:
        faults.append(Fault(0, "content", "holds no prices"))
    if faults:
        raise PriceListWrong([str(fault) for fault in sorted(faults)[:_MOST_FAULTS]], count=len(faults))
    return prices


# --- rows ------------------------------------------------------------------------------------------------------------


def _rows(content: str, form: ListFormat, faults: list[Fault]) -> list[tuple[int, Mapping[str, str]]]:
    found = _csv_rows(content, faults) if form is ListFormat.CSV else _json_rows(content, faults)
    if len(found) > MOST_ROWS:
        faults.append(Fault(0, "content", f"must have at most {MOST_ROWS} rows"))
        return []
    return found


def _csv_rows(content: str, faults: list[Fault]) -> list[tuple[int, Mapping[str, str]]]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, list[str]())]
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
    wrong = [
        Fault(line, name[:60] or "column", "is none of " + ", ".join(_COLUMNS))
        for name in names
        if name not in _COLUMNS
    ]
    wrong += [Fault(line, name, "is missing") for name in _REQUIRED if name not in names]
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
        if len(names) > _MOST_ALIASES or len(set(names)) < len(names):
            self.fault("aliases", f"must be at most {_MOST_ALIASES} different names")
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
        known = {name: self._rate(f"{name}{_RATE}") for name in _CLASSES if self._values.get(f"{name}{_RATE}")}
        for name in ("input", "output"):
            if name not in known:
                self.fault(f"{name}{_RATE}", "is required, with 0 for free")
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


def _row(line: int, values: Mapping[str, str], faults: list[Fault], *, now: datetime) -> _Row | None:
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
    return _Row(line=line, provider=provider, model=model, aliases=aliases, start=start, end=end, tier=tier)


# --- the list as a whole ---------------------------------------------------------------------------------------------


def _prices(rows: Sequence[_Row], source: str, faults: list[Fault]) -> list[Price]:
    """Puts tiers together, and looks for what overlaps and what leaves a gap."""
    tiers: dict[tuple[str, str, datetime], list[_Row]] = {}
    for row in rows:
        tiers.setdefault((row.provider, row.model, row.start), []).append(row)
    spans: dict[tuple[str, str], list[list[_Row]]] = {}
    for (provider, model, _), together in sorted(tiers.items()):
        spans.setdefault((provider, model), []).append(sorted(together, key=lambda row: row.tier.min_prompt_tokens))
    made: list[Price] = []
    for steps in spans.values():
        if _fit_together(steps, faults):
            made += [_price(together, source) for together in steps]
    _check_names(made, rows, faults)
    return made


def _fit_together(steps: Sequence[Sequence[_Row]], faults: list[Fault]) -> bool:
    before = len(faults)
    for together in steps:
        first = together[0]
        if first.tier.min_prompt_tokens != 0:
            faults.append(Fault(first.line, "min_prompt_tokens", "must be 0 in one row of each price"))
        for one, other in pairwise(together):
            if one.tier.min_prompt_tokens == other.tier.min_prompt_tokens:
                faults.append(Fault(other.line, "min_prompt_tokens", f"is that of line {one.line}: the prices overlap"))
            if (one.end, one.aliases) != (other.end, other.aliases):
                faults.append(
                    Fault(other.line, "end_time", f"must be that of line {one.line}, and so must the aliases")
                )
    for earlier, later in pairwise(steps):
        end, start = earlier[0].end, later[0].start
        if end is None or end > start:
            faults.append(
                Fault(later[0].line, "start_time", f"lies within the price of line {earlier[0].line}: they overlap")
            )
        elif end < start:
            sentence = f"leaves a gap after the price of line {earlier[0].line}, which ends {end.isoformat()}"
            faults.append(Fault(later[0].line, "start_time", sentence))
    return len(faults) == before


def _price(rows: Sequence[_Row], source: str) -> Price:
    first = rows[0]
    return Price(
        provider=first.provider,
        model=first.model,
        aliases=first.aliases,
        tiers=tuple(row.tier for row in rows),
        start=first.start,
        end=first.end,
        source=source,
        imported=True,
    )


def _check_names(prices: Sequence[Price], rows: Sequence[_Row], faults: list[Fault]) -> None:
    """No name may mean two models."""
    lines = {(row.provider, row.model): row.line for row in rows}
    owners: dict[tuple[str, str], str] = {}
    for price in prices:
        for name in (price.model, *price.aliases):
            owner = owners.setdefault((price.provider, name.lower()), price.model)
            if owner != price.model:
                place = lines[price.provider, price.model]
                faults.append(Fault(place, "aliases", f"{name!r} is a name of {owner!r} too: the prices overlap"))


def _check_moves(prices: Sequence[Price], rows: Sequence[_Row], known: Iterable[Price], faults: list[Fault]) -> None:
    """A price that jumps was given in another unit."""
    lines = {(row.provider, row.model, row.start): row.line for row in rows}
    current: dict[tuple[str, str], list[Price]] = {}
    for price in known:
        current.setdefault((price.provider, price.model), []).append(price)
    for price in prices:
        before = next(
            (one for one in current.get((price.provider, price.model), ()) if one.holds_at(price.start)), None
        )
        if before is None:
            continue
        line = lines[price.provider, price.model, price.start]
        for name in ("input", "output"):
            old, new = (int(getattr(one.tiers[0].rates, name)) for one in (before, price))
            if old and new and not old <= new * _FURTHEST <= old * _FURTHEST**2:
                sentence = f"is more than {_FURTHEST} times off the price that holds: is it dollars per million tokens?"
                faults.append(Fault(line, f"{name}{_RATE}", sentence))
