"""Arms failpoints: says where a process fails, and how. See `meshkit.core.failpoints`.

A description is `name=kill`, `name=error` or `name=delay:50` (milliseconds), each optionally `@3` for the third hit
only. `name=kill:/some/folder` kills at a hit that finds a file of that name in the folder, and takes the file away
first: so a test says when, and a process that was started again lives. Several are separated by commas.
"""

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.meshkit.core.errors import Internal, Invalid
from services.meshkit.core.failpoints import act_at
from services.meshkit.telemetry.logs import logger

Action = Literal["kill", "error", "delay"]

log = logger(__name__)


class FailpointHit(Internal):
    """A failpoint that a test armed was reached."""

    reason = "FAILPOINT"


def arm(description: str) -> None:
    """Arms what the setting `failpoints` describes; the empty text disarms everything.

    Raises: Invalid: the text is malformed. A name that no module has is never hit.
    """
    armed = dict(_parse(entry.strip()) for entry in description.split(",") if entry.strip())
    act_at(armed)
    if armed:
        log.warning("failpoints are armed; this is no production process", failpoints=description)


@dataclass(slots=True, kw_only=True)
class _Armed:
    name: str
    action: Action
    delay_seconds: float = 0.0
    #: Fails only when it can take this file away.
    asked_by: Path | None = None
    #: Fails at this hit only, counted from 1; None fails at every hit.
    only_hit: int | None = None
    hits: int = 0

    async def __call__(self) -> None:
        self.hits += 1
        if self.only_hit is not None and self.hits != self.only_hit:
            return
        if self.asked_by is not None and not _taken(self.asked_by):
            return
        match self.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "error":
                raise FailpointHit(f"failpoint {self.name!r}", failpoint=self.name)
            case "delay":
                await asyncio.sleep(self.delay_seconds)


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
                return name, _Armed(name=name, action=action, only_hit=only_hit, asked_by=asked_by)
            case "delay" if name and detail:
                return name, _Armed(name=name, action=action, delay_seconds=int(detail) / 1000, only_hit=only_hit)
            case _:
                raise _misspelt(entry)
    except ValueError as error:
        raise _misspelt(entry) from error


def _misspelt(entry: str) -> Invalid:
    return Invalid(
        "failpoints", f"{entry!r} is not name=kill, name=error, name=kill:/folder or name=delay:50, with or without @3"
    )
