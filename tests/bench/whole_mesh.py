"""A mesh of its own for a bench, answering from the stub alone, and how to report what was measured on it."""

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from comitia_sdk.aio import AsyncClient
from services.launcher import background, status
from services.launcher.options import UpOptions
from services.launcher.record import Addresses

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
_POLL_SECONDS: Final = 0.05
_LOAD_SECONDS: Final = 300.0


class Report:
    """Prints the figures of a bench, a line each, as DESIGN section 5 asks for."""

    def __init__(self, bench: str) -> None:
        self._bench = bench

    def __call__(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        better: str = "lower",
        goal: float | None = None,
        peers: Mapping[str, float] | None = None,
        note: str = "",
    ) -> None:
        """Prints one figure.

        Args:
            peers: what others make of the same, by name.
        """
        line = {
            "bench": self._bench,
            "figure": name,
            "value": round(value) if value > 1000 else round(value, 2),
            "unit": unit,
            "better": better,
            "goal": goal,
            "peers": dict(peers or {}),
            "note": note,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchMesh:
    """A mesh that answers from the stub alone."""

    options: UpOptions
    addresses: Addresses
    #: From the start of the launcher's process until every part is healthy and the edge finds it.
    up_seconds: float
    #: The longest steps of that start.
    steps: Mapping[str, float]

    @property
    def data_dir(self) -> Path:
        """What it keeps."""
        assert self.options.data_dir is not None
        return self.options.data_dir

    @property
    def admin_key(self) -> str:
        """API key of its administrator."""
        return Path(self.addresses.admin_key_path).read_text().strip()

    def client(self) -> AsyncClient:
        """Opens a client of its administrator."""
        assert self.addresses.edge_url is not None
        return AsyncClient(self.addresses.edge_url, api_key=self.admin_key)


@asynccontextmanager
async def up(options: UpOptions) -> AsyncGenerator[BenchMesh]:
    """Runs a mesh on the data of the options while the block runs."""
    steps: dict[str, float] = {}
    began = time.monotonic()
    addresses = await background.start(options, lambda step: steps.update({step.step: step.seconds}))
    try:
        yield BenchMesh(options=options, addresses=addresses, up_seconds=time.monotonic() - began, steps=dict(steps))
    finally:
        await asyncio.to_thread(status.down, options.data_dir)


@contextmanager
def data_dir() -> Iterator[UpOptions]:
    """Gives options with a data directory that Postgres can enter as another user."""
    folder = Path(tempfile.mkdtemp(prefix="comitia-bench-"))
    folder.chmod(0o755)
    try:
        yield UpOptions(
            data_dir=folder,
            detach=True,
            random_ports=True,
            edge_port=0,
            local_model=False,
            environment={"COMITIA_INFERENCE_STUB_ENABLED": "true"},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition. Raises: TimeoutError."""
    async with asyncio.timeout(_LOAD_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(_POLL_SECONDS)


def processor_seconds(data: Path) -> dict[str, float]:
    """Gives the processor time of each part so far, that of its own children included."""
    used: dict[str, float] = {}
    for child in status.status(data).children:
        process = psutil.Process(child.pid)
        total = 0.0
        for member in (process, *(process.children(recursive=True) if child.name != "launcher" else ())):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                # Connections end, and with them the processes that served them.
                ended = 0.0 if child.name == "launcher" else times.children_user + times.children_system
                total += times.user + times.system + ended
        used[child.name] = total
    return used


def memory_bytes(data: Path, part: str) -> int:
    """Gives the resident memory of a part."""
    (pid,) = (child.pid for child in status.status(data).children if child.name == part)
    return int(psutil.Process(pid).memory_info().rss)


def percentile(values: Sequence[float], percent: int) -> float:
    """Gives a percentile, 1 to 99."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
