"""Options that are given as `NAME=VALUE`."""

from collections.abc import Sequence

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
