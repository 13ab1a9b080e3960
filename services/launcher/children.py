"""Starts the children, waits until each is healthy, brings back those that die, and stops them in order.

Until the mesh is healthy a death is final and is told in one sentence (`failed`). From `keep` on a child that dies
comes back after a growing wait. None outlives the launcher: see `leash.py` and `guardian.py`.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Final

from services.launcher.child import ChildProcess, ChildSpec, describe_exit
from services.launcher.errors import LauncherError
from services.launcher.health import Probe
from services.launcher.options import Progress, Report, StepState
from services.meshkit.core.clock import Clock
from services.meshkit.core.retry import Backoff

_GUARDIAN: Final = str(Path(__file__).with_name("guardian.py"))
#: Wait before a child that died for the first time is started again; each later one is twice as long.
_FIRST_WAIT_SECONDS: Final = 0.5
#: A child that lived this long is forgiven its earlier deaths.
_FORGIVEN_AFTER_SECONDS: Final = 60.0
_PROBE_PAUSE_SECONDS: Final = 0.04


class ChildState(StrEnum):
    """Where a child stands."""

    STARTING = "starting"
    HEALTHY = "healthy"
    WAITING = "waiting to restart"
    STOPPED = "stopped"


@dataclass(slots=True)
class Child:
    """What is known of one child. Changed by its supervisor only."""

    spec: ChildSpec
    state: ChildState = ChildState.STARTING
    process: ChildProcess | None = None
    #: Wall clock, seconds since 1970.
    started: float = 0.0
    restarts: int = 0


class Supervisor:
    """Owns the children and one task for each.

    Args:
        report: told each child that died after `keep`, and when it is back.
        changed: called after each change of a child's state.
        most_wait_seconds: longest wait before a child that died is started again.
    Concurrency: one loop, in the main thread.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        dice: Random,
        report: Report,
        changed: Callable[[], None],
        most_wait_seconds: float = 30.0,
    ) -> None:
        self.children: dict[str, Child] = {}
        self._clock = clock
        self._dice = dice
        self._report = report
        self._changed = changed
        first = min(_FIRST_WAIT_SECONDS, most_wait_seconds)
        self._backoff = Backoff(first_seconds=first, factor=2.0, most_seconds=most_wait_seconds)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._keeping = False
        self._stopping = False
        self._failure: asyncio.Future[LauncherError] = asyncio.get_running_loop().create_future()
        self._guardian: subprocess.Popen[bytes] | None = None

    async def start(self, spec: ChildSpec, *, healthy_seconds: float) -> None:
        """Starts a child and waits until it is healthy.

        Raises: LauncherError: it died, or was not healthy in time.
        """
        child = self.children[spec.name] = Child(spec)
        try:
            process = self._spawn(child)
        except OSError as cause:
            raise LauncherError(f"{spec.name} cannot be started: {cause}") from cause
        healthy = asyncio.create_task(self._until_healthy(spec.probe))
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({healthy, ended}, timeout=healthy_seconds, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise LauncherError(_death(process, ended.result()))
            if not healthy.done():
                raise LauncherError(f"{spec.name} was not healthy after {healthy_seconds:g} s; {process.last_words()}")
        except BaseException:
            self._forget_group(process)
            await process.stop()
            self._move(child, ChildState.STOPPED)
            raise
        finally:
            for task in (healthy, ended):
                task.cancel()
            await asyncio.gather(healthy, ended, return_exceptions=True)
        self._move(child, ChildState.HEALTHY)
        self._tasks[spec.name] = asyncio.create_task(self._supervise(child), name=f"supervise {spec.name}")

    async def run(self, spec: ChildSpec) -> None:
        """Runs a short child to its end.

        Raises: LauncherError: it failed; the sentence is its last line.
        """
        process = ChildProcess(spec)
        self._tell_guardian(f"+{process.pid} {int(spec.death_signal)}\n")
        try:
            code = await process.wait()
        finally:
            await process.stop()
            self._forget_group(process)
        if code != 0:
            raise LauncherError((process.last_lines() or [_death(process, code)])[-1])

    async def failed(self) -> LauncherError:
        """Waits for the first child that dies before `keep`, and says so in a sentence."""
        return await asyncio.shield(self._failure)

    def keep(self) -> None:
        """From now on a child that dies is started again."""
        self._keeping = True

    async def stop(self, names: Iterable[str]) -> None:
        """Stops these children together. From now on none is started again, whichever dies."""
        self._stopping = True
        await asyncio.gather(*(self._stop_one(self.children[name]) for name in names if name in self.children))

    async def close(self) -> None:
        """Stops what still runs, and ends the tasks and the guardian."""
        await self.stop(tuple(self.children))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        self._failure.cancel()
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            self._guardian.wait()
            self._guardian = None

    async def _stop_one(self, child: Child) -> None:
        if child.state is ChildState.STOPPED:
            return
        if child.state is ChildState.WAITING:
            self._tasks[child.spec.name].cancel()
        if child.process is not None:
            await child.process.stop()
            self._forget_group(child.process)
        self._move(child, ChildState.STOPPED)

    async def _supervise(self, child: Child) -> None:
        waits = self._backoff.waits(self._dice)
        while child.process is not None:
            born = self._clock.monotonic()
            code = await self._lifetime(child, child.process)
            self._forget_group(child.process)
            if self._stopping:
                return
            if not self._keeping and child.spec.required:
                if not self._failure.done():
                    self._failure.set_result(LauncherError(_death(child.process, code)))
                self._move(child, ChildState.STOPPED)
                return
            if self._clock.monotonic() - born > _FORGIVEN_AFTER_SECONDS:
                waits = self._backoff.waits(self._dice)
            await self._bring_back(child, describe_exit(code), waits)

    async def _bring_back(self, child: Child, end: str, waits: Iterator[float]) -> None:
        self._move(child, ChildState.WAITING)
        for seconds in waits:
            detail = f"ended with {end}; starts again in {seconds:.1f} s; see {child.spec.log}"
            self._report(Progress(step=child.spec.name, state=StepState.FAILED, detail=detail))
            await self._clock.sleep(seconds)
            child.restarts += 1
            try:
                self._spawn(child)
            except OSError as cause:  # no memory, no process left: so is the next wait longer
                end = str(cause)
            else:
                return

    async def _lifetime(self, child: Child, process: ChildProcess) -> int:
        """Waits for a child's end, noting meanwhile when it becomes healthy."""
        if child.state is ChildState.HEALTHY:
            return await process.wait()
        healthy = asyncio.create_task(self._note_health(child))
        try:
            return await process.wait()
        finally:
            healthy.cancel()
            await asyncio.gather(healthy, return_exceptions=True)

    async def _note_health(self, child: Child) -> None:
        await self._until_healthy(child.spec.probe)
        self._move(child, ChildState.HEALTHY)
        seconds = self._clock.now().timestamp() - child.started
        self._report(Progress(step=child.spec.name, state=StepState.DONE, seconds=seconds, detail="serves again"))

    async def _until_healthy(self, probe: Probe) -> None:
        while not await probe():
            await self._clock.sleep(_PROBE_PAUSE_SECONDS)

    def _spawn(self, child: Child) -> ChildProcess:
        child.process = ChildProcess(child.spec)
        child.started = self._clock.now().timestamp()
        self._tell_guardian(_listing(child))
        self._move(child, ChildState.STARTING)
        return child.process

    def _move(self, child: Child, state: ChildState) -> None:
        child.state = state
        self._changed()

    def _forget_group(self, process: ChildProcess) -> None:
        self._tell_guardian(f"-{process.pid}\n")

    def _tell_guardian(self, line: str) -> None:
        if self._guardian is None or self._guardian.poll() is not None:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", _GUARDIAN], stdin=subprocess.PIPE, start_new_session=True, env={}, cwd="/"
            )
            line = "".join(map(_listing, self.children.values())) + line
        assert self._guardian.stdin is not None
        # A guardian killed at this instant misses a line; the next one is told all, and leashes hold meanwhile.
        with contextlib.suppress(BrokenPipeError):
            self._guardian.stdin.write(line.encode())
            self._guardian.stdin.flush()


def _listing(child: Child) -> str:
    return f"+{child.process.pid} {int(child.spec.death_signal)}\n" if child.process and child.process.alive else ""


def _death(process: ChildProcess, code: int) -> str:
    return f"{process.spec.name} ended with {describe_exit(code)} before the mesh was healthy; {process.last_words()}"
