"""How a tool is named: `name`, its highest version, or `name@version`."""

import re
from dataclasses import dataclass
from typing import Final

from services.meshkit.core.errors import Invalid

_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,63}")
_VERSION: Final = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Reference:
    """A tool as it is asked for. Without a version the highest one is meant."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def check_name(name: str, *, field: str) -> str:
    """Gives the name back if a tool may have it. Raises: Invalid."""
    if _NAME.fullmatch(name) is None:
        raise Invalid(field, "must be 1 to 63 letters, digits and `_`")
    return name


def parse_version(version: str, *, field: str) -> Version:
    """Reads a semantic version such as `1.0.0`. Raises: Invalid."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise Invalid(field, "must be a version such as 1.0.0")
    return int(match[1]), int(match[2]), int(match[3])


def parse_reference(text: str, *, field: str) -> Reference:
    """Reads `name` or `name@version`. Raises: Invalid."""
    name, at, version = text.partition("@")
    check_name(name, field=field)
    if at:
        parse_version(version, field=field)
    return Reference(name, version)
