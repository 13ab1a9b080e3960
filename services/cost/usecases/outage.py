"""Tells an outage that passes from a fault that does not, for work that repeats itself."""

from typing import Final

from services.meshkit.core.errors import ErrorKind, MeshError

_PASSING: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED, ErrorKind.CONFLICT})


def passes(error: MeshError) -> bool:
    """True when the same work may well succeed a little later."""
    return error.kind in _PASSING
