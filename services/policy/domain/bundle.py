"""Immutable versions of rules, how they are named, and how they are ordered."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NewType
from uuid import UUID

from services.meshkit.core.errors import Invalid

BundleId = NewType("BundleId", UUID)

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_VERSION: Final = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One version of a bundle. Its rules never change; whether it is law now does."""

    id: BundleId
    name: str
    version: str
    #: SHA-256 of the canonical rules, hex.
    digest: str
    #: The rules as they were uploaded; empty where a list leaves them out.
    source: str
    rule_count: int
    #: None for a bundle that ships with the mesh.
    created: datetime | None = None
    active: bool = False

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBundle:
    """A bundle that somebody wants by its name, and by what it says."""

    name: str
    version: str
    digest: str


def check_bundle_name(name: str, *, field: str) -> str:
    """Gives the name back. Raises: Invalid."""
    if _NAME.fullmatch(name) is None:
        raise Invalid(field, "must be 1 to 63 letters, digits, `_` and `-`")
    return name


def parse_version(version: str, *, field: str) -> tuple[int, int, int]:
    """Reads a semantic version such as `1.0.0`. Raises: Invalid."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise Invalid(field, "must be a semantic version such as 1.0.0")
    return int(match[1]), int(match[2]), int(match[3])


def split_reference(reference: str, *, field: str) -> tuple[str, str]:
    """Splits `name` or `name@version`; the version is empty when not given. Raises: Invalid."""
    name, at, version = reference.partition("@")
    check_bundle_name(name, field=field)
    if at:
        parse_version(version, field=field)
    return name, version
