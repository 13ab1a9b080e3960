"""Enum values by their short names: `debate` for `SESSION_MODE_DEBATE`."""

from difflib import get_close_matches
from typing import Any, Protocol

from comitia_sdk.errors import InvalidRequest


class Enum(Protocol):
    """A generated enum."""

    def keys(self) -> list[str]:
        """Gives the full names."""
        ...

    def values(self) -> list[Any]:
        """Gives the numbers; their type is the enum's own."""
        ...


def short_names(enum: Enum) -> dict[str, int]:
    """Gives the numbers of an enum's values by short name, without the unspecified one."""
    full = dict(zip(enum.keys(), enum.values(), strict=True))
    [unspecified] = [name for name, number in full.items() if number == 0]
    prefix = unspecified.removesuffix("UNSPECIFIED")
    return {name.removeprefix(prefix).lower(): int(number) for name, number in full.items() if number != 0}


def number_of(enum: Enum, name: str, *, field: str) -> int:
    """Gives the number of a value by its short name. Raises: InvalidRequest, naming what would fit."""
    known = short_names(enum)
    wanted = name.lower().replace("-", "_")
    if wanted in known:
        return known[wanted]
    close = get_close_matches(wanted, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InvalidRequest(f"{field}: {name!r} is none of {', '.join(known)}{hint}", reason="INVALID_FIELD", field=field)


def short_name(enum: Enum, number: int) -> str:
    """Gives the short name of a value; `unspecified` for 0, the number itself for one that is not known here."""
    if number == 0:
        return "unspecified"
    return next((name for name, known in short_names(enum).items() if known == number), str(number))
