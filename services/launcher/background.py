"""Leaves a mesh in the background: a launcher of its own session that reports through a pipe until it is healthy."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from services.launcher.bring_up import CHECKOUT, user_environment
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir, find_data_dir, prepare
from services.launcher.options import Progress, Report, StepState, UpOptions, options_to_json
from services.launcher.record import Addresses

#: The launcher as a program.
LAUNCHER: Final = (sys.executable, "-m", "services.launcher")
#: Lines of the pipe are short; a sentence with a log's end is the longest.
_LINE_BYTES: Final = 1024 * 1024


async def start(options: UpOptions, report: Report, *, program: Sequence[str] = LAUNCHER) -> Addresses:
    """Starts a launcher in the background and returns when its mesh is healthy.

    Args:
        program: the launcher; tests put one whose services are dummies.
    Raises: LauncherError: what the launcher says, or that it ended without a word.
    Cancelled: the launcher is told to end.
    """
    data = find_data_dir(options.data_dir, user_environment(options))
    prepare(data)
    launcher, receiving = _spawn(data, replace(options, detach=False, data_dir=data.root), program)
    try:
        addresses = await _follow(receiving, report, log=str(data.log("launcher")))
    except asyncio.CancelledError:
        launcher.send_signal(signal.SIGTERM)
        await asyncio.to_thread(launcher.wait)
        raise
    except LauncherError:
        await asyncio.to_thread(launcher.wait)
        raise
    launcher.returncode = 0  # left alone on purpose, which Popen would warn about
    return addresses


def _spawn(data: DataDir, options: UpOptions, program: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Starts the launcher. Returns it and the end of the pipe that it reports through."""
    receiving, sending = os.pipe()
    with data.log("launcher").open("ab") as log, os.fdopen(sending, "wb") as pipe:
        launcher = subprocess.Popen(
            [*program, "--report-to", str(pipe.fileno())],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(pipe.fileno(),),
            start_new_session=True,
        )
    # By the pipe, because settings may hold keys and everybody can read a command line.
    assert launcher.stdin is not None
    launcher.stdin.write(options_to_json(options).encode())
    launcher.stdin.close()
    return launcher, receiving


async def _follow(receiving: int, report: Report, *, log: str) -> Addresses:
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(receiving, "rb")
    )
    try:
        while line := await reader.readline():
            told: dict[str, Any] = json.loads(line)
            if "ready" in told:
                return Addresses(**told["ready"])
            if "failure" in told:
                raise LauncherError(told["failure"])
            step = told["progress"]
            report(
                Progress(
                    step=step["step"],
                    state=StepState(step["state"]),
                    seconds=step["seconds"],
                    detail=step["detail"],
                )
            )
    finally:
        transport.close()
    raise LauncherError(f"the launcher ended without a word; see {log}")


class Teller:
    """The other end of the pipe, in the launcher. Nobody may be listening any more."""

    def __init__(self, descriptor: int) -> None:
        self._pipe: Any = os.fdopen(descriptor, "w", buffering=1)

    def progress(self, progress: Progress) -> None:
        """Passes on one change of a step."""
        self._tell({"progress": asdict(progress)})

    def ready(self, addresses: Addresses) -> None:
        """Says that all is healthy, and hangs up."""
        self._tell({"ready": asdict(addresses)})
        self._hang_up()

    def failure(self, failure: LauncherError) -> None:
        """Says why there is no mesh, and hangs up."""
        self._tell({"failure": failure.sentence})
        self._hang_up()

    def _tell(self, message: dict[str, Any]) -> None:
        if self._pipe is None:
            return
        try:
            self._pipe.write(json.dumps(message) + "\n")
        except BrokenPipeError:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._pipe is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        self._pipe = None
