"""Named places in the code where a test makes the process fail: `await failpoint("inference.after_reserve")`.

What fails, and how, is `meshkit.testing.failpoints`; a process loads that only when its settings name failpoints.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

#: What happens at an armed failpoint.
Act = Callable[[], Awaitable[None]]

_registered: Final[set[str]] = set()
_acts: Final[dict[str, Act]] = {}


def register(*names: str) -> None:
    """Announces failpoints of a module, so that tests can list them."""
    _registered.update(names)


def registered() -> tuple[str, ...]:
    """Gives the names of all failpoints of the modules that are loaded, sorted."""
    return tuple(sorted(_registered))


def act_at(acts: Mapping[str, Act]) -> None:
    """Says what happens at which failpoints, instead of what was said before. Nothing, in production."""
    _acts.clear()
    _acts.update(acts)


async def failpoint(name: str) -> None:
    """Fails here if a test asked for it; costs one look otherwise."""
    if _acts and (act := _acts.get(name)) is not None:
        await act()
