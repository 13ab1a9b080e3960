"""Postgres and NATS as `comitia up` runs them, for as long as the experiment lasts, and who used how much processor."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import psutil

from services.launcher.child import ChildProcess, ChildSpec
from services.launcher.embedded import nats, postgres
from services.launcher.environment import ordinary_environment


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the engines and workers stand on."""

    admin_url: str
    nats_url: str
    #: Process ids of the servers; their children count as theirs.
    servers: dict[str, int]

    def url(self, role: str, password: str) -> str:
        """Address of the database as another role."""
        return f"postgresql://{role}:{password}@{self.admin_url.partition('@')[2]}"

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds of the servers since they began, with children that have ended."""
        return {name: tree_cpu_seconds(pid) for name, pid in self.servers.items()}


def tree_cpu_seconds(pid: int) -> float:
    """CPU seconds, user and system, of a process, its children, and those of them that have ended."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    seconds = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            seconds += times.user + times.system
    return seconds


def busy_elsewhere() -> float:
    """CPU seconds of the whole machine since it began."""
    machine = psutil.cpu_times()
    return sum(machine[:8]) - machine.idle - machine.iowait


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    """Starts both servers in a temporary directory, and ends them."""
    with tempfile.TemporaryDirectory(prefix="bench-loop-") as directory:
        place = Path(directory)
        # For the account that Postgres runs as where this is root.
        place.chmod(0o755)  # noqa: ASYNC240
        environment = ordinary_environment({})
        room = postgres.PostgresRoom(
            directory=place / "postgres", port=free_port(), log=place / "postgres.log", password=token_hex(16)
        )
        nats_port, token = free_port(), token_hex(16)
        specs = {
            "postgres": await postgres.prepare_postgres(room, environment),
            "nats": nats.prepare_nats(
                place / "nats", port=nats_port, token=token, log=place / "nats.log", environment=environment
            ),
        }
        started: dict[str, ChildProcess] = {}
        try:
            for name, spec in specs.items():
                started[name] = ChildProcess(spec)
            for name, spec in specs.items():
                await _until_it_serves(started[name], spec)
            yield Ground(
                admin_url=room.admin_url,
                nats_url=nats.nats_url(nats_port, token),
                servers={name: child.pid for name, child in started.items()},
            )
        finally:
            for child in started.values():
                await child.stop()


async def _until_it_serves(child: ChildProcess, spec: ChildSpec) -> None:
    async with asyncio.timeout(30):
        while not await spec.probe():
            if not child.alive:
                raise SystemExit(f"{spec.name} did not start: {child.last_words()}")
            await asyncio.sleep(0.02)


def free_port() -> int:
    """Finds a port that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
