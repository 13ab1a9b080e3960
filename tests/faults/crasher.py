"""Kills parts of a running mesh, at failpoints or out of the blue, and waits until its launcher has them back."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from services.launcher.layout import DataDir
from services.launcher.record import ChildRecord, read_record
from tests.faults.failpoint_names import part_of
from tests.support.fault_rows import note
from tests.support.mesh import RunningMesh

#: Within this time callers look again for a neighbour that was away, seconds: as long as a rollout waits between two.
FOUND_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.05
#: Of the log of a part that did not come back.
_LOG_LINES: Final = 15


@contextmanager
def failpoint_folder() -> Iterator[Path]:
    """Gives the folder in which a test leaves the names of failpoints that are to kill."""
    with TemporaryDirectory(prefix="comitia-failpoints-") as folder:
        yield Path(folder)


def armed(names: Iterable[str], folder: Path) -> dict[str, str]:
    """Gives the settings with which these failpoints kill when a file of their name lies in the folder."""
    by_part: dict[str, list[str]] = {}
    for name in names:
        by_part.setdefault(part_of(name), []).append(f"{name}=kill:{folder}")
    return {f"COMITIA_{part.upper()}_FAILPOINTS": ",".join(entries) for part, entries in by_part.items()}


def _signal(members: Iterable[psutil.Process], number: signal.Signals) -> None:
    for member in members:
        with suppress(psutil.NoSuchProcess):
            member.send_signal(number)


class Crasher:
    """Kills parts of one mesh with SIGKILL and counts them.

    Args:
        folder: where failpoints look; see `armed`.
    """

    def __init__(self, mesh: RunningMesh, folder: Path) -> None:
        self._data = DataDir(mesh.data_dir)
        self._folder = folder
        #: Kills by part.
        self.killed: Counter[str] = Counter()
        #: Failpoints that killed.
        self.reached: list[str] = []

    def child(self, part: str) -> ChildRecord:
        """Gives a part as the launcher saw it last."""
        record = read_record(self._data)
        assert record is not None
        return next(child for child in record.children if child.name == part)

    async def at(self, *names: str, seconds: float = 90.0) -> None:
        """Kills parts at these failpoints, one each, as soon as they pass them; returns when all serve again."""
        before = {part_of(name): self.child(part_of(name)).restarts for name in names}
        assert len(before) == len(names), "one failpoint for each part"
        for name in names:
            (self._folder / name).touch()
        end = time.monotonic() + seconds
        while left := [name for name in names if (self._folder / name).exists()]:
            assert time.monotonic() < end, f"nothing passed {left} within {seconds} s"
            await asyncio.sleep(_PAUSE_SECONDS)
        for name in names:
            self.killed[part_of(name)] += 1
            note("killed at a failpoint", part_of(name))
            self.reached.append(name)
        for part, restarts in before.items():
            await self.until_back(part, restarts + 1)

    def kill(self, part: str) -> int:
        """Kills a part wherever it is. Returns how often it will have been restarted then."""
        child = self.child(part)
        with suppress(ProcessLookupError):  # it just died of itself
            os.kill(child.pid, signal.SIGKILL)
            self.killed[part] += 1
            note("killed", part)
        return child.restarts + 1

    async def restart(self, *parts: str) -> None:
        """Asks parts to stop as whoever replaces them does; returns when all serve again and their callers know it."""
        due: dict[str, int] = {}
        for part in parts:
            child = self.child(part)
            os.kill(child.pid, signal.SIGTERM)
            note("restarted", part)
            due[part] = child.restarts + 1
        for part, restarts in due.items():
            await self.until_back(part, restarts)
        await asyncio.sleep(FOUND_SECONDS)

    async def pause(self, part: str, seconds: float) -> None:
        """Stops a part with all its processes for a while, as a machine does that swaps or moves."""
        note("paused", part)
        await self._halt(part, seconds)

    async def slow_down(self, part: str, seconds: float) -> None:
        """Has a part answer late for a while: it is stopped for half of the time, in short pieces."""
        note("slowed down", part)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await self._halt(part, _PAUSE_SECONDS)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def keep_down(self, part: str, seconds: float) -> None:
        """Has connections to a part refused for a while: whenever it is back it is killed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.child(part).state != "waiting to restart":
                self.kill(part)
            await asyncio.sleep(_PAUSE_SECONDS)
        note("refuses connections", part)
        await self.until_back(part, self.child(part).restarts)

    async def _halt(self, part: str, seconds: float) -> None:
        leader = psutil.Process(self.child(part).pid)
        members = [leader, *leader.children(recursive=True)]
        _signal(members, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            _signal(members, signal.SIGCONT)

    async def anywhere(self, parts: Iterable[str], dice: Random, *, most_seconds: float = 0.5) -> None:
        """Kills each of the parts once, in any order and after any pause; returns when all serve again."""
        order = sorted(parts)
        dice.shuffle(order)
        due: dict[str, int] = {}
        for part in order:
            await asyncio.sleep(dice.uniform(0.0, most_seconds))
            due[part] = self.kill(part)
        for part, restarts in due.items():
            await self.until_back(part, restarts)

    async def until_back(self, part: str, restarts: int, *, seconds: float = 60.0) -> None:
        """Waits until a part serves after so many restarts."""
        end = time.monotonic() + seconds
        while True:
            child = self.child(part)
            if child.restarts >= restarts and child.state == "healthy":
                return
            assert time.monotonic() < end, self._missing(child, restarts, seconds)
            await asyncio.sleep(_PAUSE_SECONDS)

    def _missing(self, child: ChildRecord, restarts: int, seconds: float) -> str:
        """Says of a part that did not come back what its log ends with, since the log goes with the mesh."""
        log = self._data.log(child.name).read_text(encoding="utf-8", errors="replace").splitlines()
        lived = time.time() - child.started
        return "\n".join(
            (
                f"{child.name} is {child.state} after {child.restarts} restarts of {restarts} and {seconds} s;",
                f"process {child.pid} was started {lived:.1f} s ago; load {os.getloadavg()}; its log ends with",
                *log[-_LOG_LINES:],
            )
        )
