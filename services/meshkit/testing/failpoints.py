"""Named places in the code where a test makes the process fail: `await failpoint("inference.after_reserve")`.

Off unless the settings name some; then `name=kill`, `name=error` or `name=delay:50` (milliseconds), each optionally
`@3` for the third hit only. `name=kill:/some/folder` kills at a hit that finds a file of that name in the folder, and
takes the file away first: so a test says when, and a process that was started again lives. Several are separated by
commas.
"""

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from services.meshkit.core.errors import Internal, Invalid
from services.meshkit.telemetry.logs import logger

Action = Literal["kill", "error", "delay"]

log = logger(__name__)


class FailpointHit(Internal):
    """A failpoint that a test armed was reached."""

    reason = "FAILPOINT"


@dataclass(slots=True, kw_only=True)
class _Armed:
    action: Action
    delay_seconds: float = 0.0
    #: Fails only when it can take this file away.
    asked_by: Path | None = None
    #: Fails at this hit only, counted from 1; None fails at every hit.
    only_hit: int | None = None
    hits: int = 0


_registered: Final[set[str]] = set()
_armed: Final[dict[str, _Armed]] = {}


def register(*names: str) -> None:
    """Announces failpoints of a module, so that tests can list them and a misspelt one is refused."""
    _registered.update(names)


def registered() -> tuple[str, ...]:
    """Gives the names of all failpoints of the modules that are loaded, sorted."""
    return tuple(sorted(_registered))


def arm(description: str) -> None:
    """Arms what the setting `failpoints` describes; the empty text disarms everything.

    Raises: Invalid: the text is malformed. An unknown name is logged, for its module may not be loaded yet.
    """
    armed = dict(_parse(entry.strip()) for entry in description.split(",") if entry.strip())
    _armed.clear()
    _armed.update(armed)
    if armed:
        log.warning("failpoints are armed; this is no production process", failpoints=description)


async def failpoint(name: str) -> None:
    """Fails here if a test asked for it; costs one look otherwise."""
    if _armed:
        await _hit(name)


async def _hit(name: str) -> None:
    armed = _armed.get(name)
    if armed is None:
        return
    armed.hits += 1
    if armed.only_hit is not None and armed.hits != armed.only_hit:
        return
    if armed.asked_by is not None and not _taken(armed.asked_by):
        return
    match armed.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "error":
            raise FailpointHit(f"failpoint {name!r}", failpoint=name)
        case "delay":
            await asyncio.sleep(armed.delay_seconds)


def _taken(file: Path) -> bool:
    """Takes a file away; of several processes one succeeds."""
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True


def _parse(entry: str) -> tuple[str, _Armed]:
    name, _, rest = entry.partition("=")
    what, _, hit = rest.partition("@")
    action, _, detail = what.partition(":")
    try:
        only_hit = int(hit) if hit else None
        match action:
            case "kill" | "error" if name and (not detail or detail.startswith("/")):
                asked_by = Path(detail, name) if detail else None
                return name, _Armed(action=action, only_hit=only_hit, asked_by=asked_by)
            case "delay" if name and detail:
                return name, _Armed(action=action, delay_seconds=int(detail) / 1000, only_hit=only_hit)
            case _:
                raise _misspelt(entry)
    except ValueError as error:
        raise _misspelt(entry) from error


def _misspelt(entry: str) -> Invalid:
    return Invalid(
        "failpoints", f"{entry!r} is not name=kill, name=error, name=kill:/folder or name=delay:50, with or without @3"
    )
