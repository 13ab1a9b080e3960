"""Processes of the worker of orders: started again whenever they die, which is what a test is for."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Final

from tests.faults.crasher import armed
from tests.faults.failpoint_names import ON_WORKERS
from tests.faults.order_effects import FOLDER
from tests.support.fault_rows import note
from tests.support.mesh import CHECKOUT, RunningMesh

_PAUSE_SECONDS: Final = 0.05
_COMMAND: Final = (
    str(Path(sys.executable).with_name("comitia")),
    *("worker", "run", "tests.faults.order_worker:worker", "--quiet"),
)


class OrderWorkers:
    """Some processes of one worker, and who kills them.

    Args:
        effects: where their effects are left.
        failpoints: where their failpoints look; see `crasher.armed`.
    """

    def __init__(self, mesh: RunningMesh, *, effects: Path, failpoints: Path, count: int = 2) -> None:
        self.effects = effects
        self._failpoints = failpoints
        self._environment = {
            **mesh.environment,
            **armed(ON_WORKERS, failpoints),
            "COMITIA_URL": mesh.url,
            "COMITIA_API_KEY": mesh.admin_key,
            FOLDER: str(effects),
        }
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        #: Set once another process has followed the one that was told to end.
        self._followed: dict[int, asyncio.Event] = {}
        self.count = count
        self._stopping = False
        #: Kills, and how processes ended of themselves.
        self.killed = 0
        self.ended: Counter[int] = Counter()
        #: Failpoints that killed.
        self.reached: list[str] = []

    async def at(self, *names: str, seconds: float = 60.0) -> None:
        """Kills a worker at each of these failpoints, as soon as one passes it."""
        for name in names:
            (self._failpoints / name).touch()
        end = time.monotonic() + seconds
        while left := [name for name in names if (self._failpoints / name).exists()]:
            assert time.monotonic() < end, f"no worker passed {left} within {seconds} s"
            await asyncio.sleep(_PAUSE_SECONDS)
        self.reached += names
        for _ in names:
            note("killed at a failpoint", "worker")
        self.killed += len(names)

    def kill(self, dice: Random) -> None:
        """Kills one of them wherever it is."""
        if self._processes:
            note("killed", "worker")
            _send(self._processes[dice.choice(sorted(self._processes))], signal.SIGKILL)
            self.killed += 1

    async def restart_in_turn(self, *, seconds: float = 60.0) -> None:
        """Has each finish what it has and end, and a new one follow it, one after the other."""
        for place, process in sorted(self._processes.items()):
            self._followed[place] = asyncio.Event()
            _send(process, signal.SIGTERM)
            async with asyncio.timeout(seconds):
                await self._followed[place].wait()

    @asynccontextmanager
    async def at_work(self) -> AsyncGenerator[None]:
        """Keeps all of them going while the block runs."""
        keeping = [asyncio.create_task(self._keep(place)) for place in range(self.count)]
        try:
            yield
        finally:
            self._stopping = True
            for process in self._processes.values():
                _send(process, signal.SIGTERM)
            await asyncio.gather(*keeping)

    async def _keep(self, place: int) -> None:
        while not self._stopping:
            self._processes[place] = process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                env=self._environment,
                cwd=CHECKOUT,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            if place in self._followed:
                self._followed[place].set()
            try:
                self.ended[await process.wait()] += 1
            finally:
                if process.returncode is None:
                    _send(process, signal.SIGKILL)
                    await process.wait()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Sends a signal past asyncio, which looks first whether the process has ended, and then nobody learns how."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def unexpected(ends: Iterable[int]) -> set[int]:
    """Gives exit codes that nobody asked for."""
    return set(ends) - {0, -signal.SIGKILL, -signal.SIGTERM}
