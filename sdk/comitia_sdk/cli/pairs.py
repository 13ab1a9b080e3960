"""Options that are given as `NAME=VALUE`."""

import json
from collections.abc import Sequence
from typing import Any

from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed


def pairs(option: str, given: Sequence[str], *, empty: bool = False) -> dict[str, str]:
    """Reads each name once.

    Args:
        empty: a value may be.
    Raises: CommandFailed.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not (name and equals and (value or empty)):
            raise CommandFailed(f"{option} {one!r} must be NAME=VALUE", code=EXIT_USAGE)
        if name in found:
            raise CommandFailed(f"{option} names {name} twice", code=EXIT_USAGE)
        found[name] = value
    return found


def values_of(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Reads each name once, its value as JSON or as text. Raises: CommandFailed."""
    return {name: value_of(value) for name, value in pairs(option, given, empty=True).items()}


def value_of(text: str) -> Any:  # JSON is open
    """Reads a value: JSON, and a text where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text
