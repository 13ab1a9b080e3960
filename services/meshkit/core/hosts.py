"""Which hosts may be asked: exact names, `*.example.com` for all below a name, `*` for any."""

import re
from typing import Final

from services.meshkit.core.errors import Invalid

ANY_HOST: Final = "*"
_MOST_HOSTS: Final = 64
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_IPV6: Final = re.compile(r"\[[0-9a-f:.]+\]")


def checked_hosts(hosts: tuple[str, ...], *, field: str) -> tuple[str, ...]:
    """Gives the patterns in lower case, sorted, each once.

    Raises: Invalid: one is no host, or there are more than 64.
    """
    if len(hosts) > _MOST_HOSTS:
        raise Invalid(field, f"must have at most {_MOST_HOSTS} hosts")
    kept: set[str] = set()
    for index, host in enumerate(hosts):
        pattern = host.lower().rstrip(".")
        is_host = pattern == ANY_HOST or _HOST.fullmatch(pattern) or _IPV6.fullmatch(pattern)
        if not is_host or len(pattern) > 253:
            raise Invalid(
                f"{field}[{index}]", "must be a host such as api.example.com or *.example.com, without scheme or port"
            )
        kept.add(pattern)
    return tuple(sorted(kept))


def is_allowed(host: str, patterns: tuple[str, ...]) -> bool:
    """Tells whether a host (ASCII form, IPv6 without brackets) fits one of the patterns."""
    name = host.lower().rstrip(".")
    return any(
        pattern == ANY_HOST or pattern in (name, f"[{name}]") or (pattern[:2] == "*." and name.endswith(pattern[1:]))
        for pattern in patterns
    )
