"""Looks at a running mesh from outside, and ends it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir, find_data_dir, holder
from services.launcher.record import Addresses, ChildRecord, read_record

_DOWN_SECONDS: Final = 120.0
_KILL_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStatus:
    """One part of a mesh as it is now."""

    name: str
    #: `starting`, `healthy`, `waiting to restart`, `stopped`.
    state: str
    pid: int
    port: int | None
    uptime_seconds: float
    #: Memory of it and its own children, shared pages counted in proportion; None where it may not be read.
    pss_bytes: int | None
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshStatus:
    """A mesh as it is now. `children` begins with the launcher, in which the services of a single process live."""

    running: bool
    #: All parts were healthy at its start.
    ready: bool
    single_process: bool
    #: Services and edge speak TLS with each other.
    mtls: bool
    addresses: Addresses | None
    children: tuple[ChildStatus, ...]

    @property
    def pss_bytes(self) -> int:
        """Memory of the whole mesh, as far as it can be read."""
        return sum(child.pss_bytes or 0 for child in self.children)


def status(data_dir: Path | None = None) -> MeshStatus:
    """Looks at the mesh of a data directory (None: the usual one)."""
    data = find_data_dir(data_dir, os.environ)
    launcher, record = holder(data), read_record(data)
    if launcher is None or record is None:
        return MeshStatus(running=False, ready=False, single_process=False, mtls=False, addresses=None, children=())
    now = time.time()
    itself = ChildStatus(
        name="launcher",
        state="healthy" if record.ready else "starting",
        pid=launcher,
        port=None,
        uptime_seconds=now - record.started,
        pss_bytes=_pss(launcher, descend=False),
        restarts=0,
    )
    return MeshStatus(
        running=True,
        ready=record.ready,
        single_process=record.single_process,
        mtls=record.mtls,
        addresses=record.addresses,
        children=(itself, *(_child_status(child, now) for child in record.children)),
    )


def log_paths(data_dir: Path | None = None) -> dict[str, Path]:
    """Lists the logs that there are, by child; `launcher` and `migrations` among them."""
    logs = find_data_dir(data_dir, os.environ).logs
    return {path.stem: path for path in sorted(logs.glob("*.log"))}


def down(data_dir: Path | None = None) -> bool:
    """Stops the mesh of a data directory and returns when all of it is gone.

    Returns: False when nothing ran.
    Raises: LauncherError: it belongs to another user.
    """
    data = find_data_dir(data_dir, os.environ)
    launcher = holder(data)
    if launcher is None:
        return False
    _signal(launcher, signal.SIGTERM)
    if not _gone(data, launcher, _DOWN_SECONDS):
        # Its children end with it.
        _signal(launcher, signal.SIGKILL)
        _gone(data, launcher, _KILL_SECONDS)
    return True


def _gone(data: DataDir, launcher: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holder(data) != launcher:
            return True
        time.sleep(_PAUSE_SECONDS)
    return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError as cause:
        raise LauncherError(f"the mesh belongs to another user (launcher pid {pid}); stop it as that user") from cause


def _child_status(child: ChildRecord, now: float) -> ChildStatus:
    return ChildStatus(
        name=child.name,
        state=child.state,
        pid=child.pid,
        port=child.port,
        uptime_seconds=now - child.started,
        pss_bytes=_pss(child.pid, descend=True),
        restarts=child.restarts,
    )


def _pss(pid: int, *, descend: bool) -> int | None:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)] if descend else [process]
        return sum(int(member.memory_full_info().pss) for member in family)
    except psutil.Error:
        return None
