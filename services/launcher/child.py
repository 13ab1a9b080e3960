"""One child process: how it starts, how it ends, and what it last said."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.launcher.health import Probe

_LEASH: Final = str(Path(__file__).with_name("leash.py"))
#: How long a child may take to end after `death_signal`.
_END_SECONDS: Final = 10.0
_LOG_TURNS_AT_BYTES: Final = 16 * 1024 * 1024
_TAIL_LINES: Final = 6
_TAIL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run, and how to tell that it is well."""

    name: str
    #: Program (absolute path) and arguments. No secrets: every user of the machine can read them.
    command: tuple[str, ...]
    #: The whole environment of the child; nothing is inherited.
    environment: Mapping[str, str]
    #: Tells whether it serves.
    probe: Probe
    #: Receives what the child prints.
    log: Path
    #: Its main port, for `status`.
    port: int | None = None
    #: Working directory.
    directory: Path | None = None
    #: As whom it runs; see `leash.py`.
    identity: str = "self"
    #: Asks it to finish.
    stop_signal: signal.Signals = signal.SIGTERM
    #: How long finishing may take before `death_signal`.
    stop_seconds: float = 15.0
    #: What the kernel sends it when the launcher dies.
    death_signal: signal.Signals = signal.SIGKILL
    #: False: the mesh serves without it.
    required: bool = True


class ChildProcess:
    """A started child, in a process group of its own.

    Concurrency: start it from the thread that lives as long as the launcher; the kernel counts the death of the
    *thread* that started a child as the death of its parent.
    """

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self._log_start = _turn_log(spec.log)
        with spec.log.open("ab") as log:
            # A plain fork and exec: Python code between them (`preexec_fn`) could hang on another thread's lock.
            self._process = subprocess.Popen(
                _leashed(spec.command, spec.identity, spec.death_signal),
                env=dict(spec.environment),
                cwd=spec.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, and that of its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its end has not been noticed yet."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Waits for its end. What is left of its group then ends too.

        Returns: the exit code; negative, the signal that ended it.
        """
        if self._process.returncode is None:
            await _exited(self._process.pid)
            # Before the wait: until then the number of the group cannot become another's.
            self._signal_group(signal.SIGKILL)
        return self._process.wait()

    async def stop(self) -> None:
        """Asks it to finish, waits as long as its spec allows, then makes it end, and at last kills its group."""
        for number, seconds in (
            (self.spec.stop_signal, self.spec.stop_seconds),
            # Not yet SIGKILL: children of Postgres lead groups of their own and would be left behind.
            (self.spec.death_signal, _END_SECONDS),
        ):
            if self._process.returncode is not None:
                return
            self._process.send_signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.wait()
        if self._process.returncode is None:
            self._signal_group(signal.SIGKILL)
            await self.wait()

    def last_lines(self) -> list[str]:
        """Gives the last few lines it printed since its start."""
        with self.spec.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()][-_TAIL_LINES:]

    def last_words(self) -> str:
        """Says in one line what it printed last."""
        said = self.last_lines()
        return f"its log {self.spec.log} ends with: {' | '.join(said)}" if said else f"its log {self.spec.log} is empty"

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # nobody is left in it


def run_short(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    identity: str = "self",
    directory: Path | None = None,
    seconds: float,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a short program to its end, tied to the launcher as a child is. For worker threads: it blocks.

    Returns: its exit code and what it printed, both outputs in `stdout`.
    """
    return subprocess.run(
        _leashed(command, identity, signal.SIGKILL),
        env=dict(environment),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )


def _leashed(command: Sequence[str], identity: str, death_signal: signal.Signals) -> list[str]:
    return [sys.executable, "-I", "-S", _LEASH, str(os.getpid()), str(int(death_signal)), identity, *command]


def describe_exit(code: int) -> str:
    """Says an exit code as `subprocess` gives it in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


async def _exited(pid: int) -> None:
    """Waits until the process has ended, without collecting its exit code."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _turn_log(path: Path) -> int:
    """Moves a log that has grown long aside. Returns where the next line begins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        path.touch(mode=0o600)
        return 0
    if size > _LOG_TURNS_AT_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
        path.touch(mode=0o600)
        return 0
    return size
