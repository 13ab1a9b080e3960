"""Measures whole turns on the stub model, through all seven services: how long one takes, how many go, what they cost.

Run by `make bench-turn`; `BENCH_SHORT=1` gives the same figures in a minute. The mesh is the launcher's. Sessions are
measured in the middle of their work, by what Postgres and the kernel say: nobody asks the mesh for anything then, and
the client that started them is a process of its own. What a turn takes is counted from its first fact to its last.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import asyncpg
import psutil

from tests.bench.engine_ground import Child
from tests.bench.whole_mesh import SHORT, BenchMesh, Report, data_dir, percentile, processor_seconds, up
from tests.support.mesh_databases import connected

SESSIONS: Final = (16, 64, 128)
SECONDS: Final = 3.0 if SHORT else 8.0
#: Of one session: its turns are bounded.
SECONDS_ALONE: Final = 2.0 if SHORT else 4.0
WARM_SECONDS: Final = 1.0 if SHORT else 3.0
TURN_GOAL: Final = 15.0
RATE_GOAL: Final = 300.0
#: From this part of all cores on the processor is what limits.
_BUSY: Final = 0.9
#: Parts that take less of a turn are left out, milliseconds.
_LEAST_MS: Final = 0.02

_RUNNING: Final = "SELECT count(*) FROM run WHERE state = 1"
#: Parked, failed, or anything else but at work or well ended.
_ILL: Final = "SELECT count(*) FROM run WHERE state NOT IN (1, 5)"
_FLUSHES: Final = "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'"

figure: Final = Report("turn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was done so far."""

    #: Of a clock that only grows, and Unix time, seconds.
    at: float
    wall: float
    #: Turns that were recorded.
    turns: int
    #: Times that Postgres forced its log to the disk.
    flushes: int
    #: Processor time of each part of the mesh, and of all that runs on this machine, seconds.
    parts: Mapping[str, float]
    machine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What happened between two moments."""

    begin: Moment
    end: Moment

    @property
    def turns(self) -> int:
        """Turns that were recorded."""
        return self.end.turns - self.begin.turns

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end.at - self.begin.at

    @property
    def cores(self) -> Mapping[str, float]:
        """How many cores each part of the mesh kept busy."""
        return {part: (used - self.begin.parts.get(part, 0.0)) / self.seconds for part, used in self.end.parts.items()}

    @property
    def limit(self) -> str:
        """Says what keeps the turns from being more."""
        cores, count = self.cores, os.cpu_count() or 1
        mesh = sum(cores.values())
        others = max(0.0, (self.end.machine - self.begin.machine) / self.seconds - mesh)
        busiest = max(cores, key=lambda part: cores[part])
        limit = "the processor limits" if mesh + others > _BUSY * count else "the one waits for the other"
        used = f"the mesh used {mesh:.2f} of {count} cores, others {others:.2f}"
        return f"{limit}: {used}; most of all {busiest}, {cores[busiest]:.2f}"


class Bench:
    """A mesh under sessions, and the process that starts them."""

    def __init__(self, mesh: BenchMesh, driver: Child, connection: asyncpg.Connection) -> None:
        self.mesh = mesh
        self._driver = driver
        self._connection = connection

    async def alone(self) -> None:
        """Measures one session that has the mesh for itself, then the same one with somebody who watches it."""
        session_id: str = await self._driver.ask("start", sessions=1)
        await asyncio.sleep(WARM_SECONDS)
        window = await self.window(1, SECONDS_ALONE)
        took = await self._milliseconds(session_id, window)
        note = f"the stub takes no time; {window.limit}"
        figure("turn_added_p50_alone", percentile(took, 50), "ms", goal=TURN_GOAL, note=note)
        note = f"{len(took)} turns, one after the other; {window.turns / window.seconds:.0f} of them a second"
        figure("turn_added_p99_alone", percentile(took, 99), "ms", note=note)
        flushes = (window.end.flushes - window.begin.flushes) / window.turns
        note = "times that Postgres forced its log to the disk, for whatever reason"
        figure("log_flushes_per_turn_alone", flushes, "", note=note)
        costs("alone", window)
        self._driver.say(do="watch", session_id=session_id, seconds=WARM_SECONDS + SECONDS_ALONE)
        await asyncio.sleep(WARM_SECONDS)
        window = await self.window(1, SECONDS_ALONE)
        await self._driver.hear()
        took = await self._milliseconds(session_id, window)
        note = f"the same with one client that watches it live; {window.limit}"
        figure("turn_added_p50_watched", percentile(took, 50), "ms", note=note)

    async def together(self, sessions: int) -> None:
        """Measures many sessions at once."""
        await self.start(sessions)
        window = await self.window(sessions, SECONDS)
        rate, note = window.turns / window.seconds, f"{window.turns} turns; {window.limit}"
        figure(f"turns_per_s_{sessions}_sessions", rate, "1/s", better="higher", goal=RATE_GOAL, note=note)
        costs(f"{sessions}_sessions", window)

    async def start(self, sessions: int) -> None:
        """Has so many sessions at work, and lets them get warm."""
        await self._driver.ask("start", sessions=sessions - await self._connection.fetchval(_RUNNING))
        await asyncio.sleep(WARM_SECONDS)

    async def window(self, sessions: int, seconds: float) -> Window:
        """Lets sessions work, all that were started, and gives what happened."""
        begin = await self._moment()
        await asyncio.sleep(seconds)
        window = Window(begin=begin, end=await self._moment())
        running, ill = await self._connection.fetchval(_RUNNING), await self._connection.fetchval(_ILL)
        if ill or running != sessions:
            raise SystemExit(f"{running} sessions of {sessions} are running, and {ill} are not well")
        return window

    async def _moment(self) -> Moment:
        return Moment(
            turns=await self._connection.fetchval("SELECT count(*) FROM turn_place"),
            at=time.perf_counter(),
            wall=time.time(),
            flushes=await self._connection.fetchval(_FLUSHES),
            parts=processor_seconds(self.mesh.data_dir),
            machine=_busy_seconds(),
        )

    async def _milliseconds(self, session_id: str, window: Window) -> list[float]:
        turns: list[tuple[float, float]] = await self._driver.ask("turns", session_id=session_id)
        return [(end - begin) * 1000 for begin, end in turns if window.begin.wall <= begin and end <= window.end.wall]


def costs(name: str, window: Window) -> None:
    """Prints the processor time of a turn, of all parts together and of each."""
    parts = {part: used * window.seconds / window.turns * 1000 for part, used in window.cores.items()}
    shown = {part: spent for part, spent in sorted(parts.items(), key=lambda item: -item[1]) if spent > _LEAST_MS}
    note = ", ".join(f"{part} {spent:.2f}" for part, spent in shown.items())
    figure(f"cpu_ms_per_turn_{name}", sum(parts.values()), "ms", note=note)
    for part, spent in shown.items():
        figure(f"cpu_ms_per_turn_{name}_{part.replace('-', '_')}", spent, "ms")


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


@asynccontextmanager
async def benches(environment: Mapping[str, str] | None = None) -> AsyncGenerator[Bench]:
    """Runs a mesh with a client that has made its agents.

    Args:
        environment: settings of the mesh on top.
    """
    with data_dir() as options:
        options = replace(options, environment={**options.environment, **(environment or {})})
        async with up(options) as mesh, connected(mesh.data_dir, "orchestrator") as connection:
            driver = Child("tests.bench.turn_driver")
            try:
                driver.say(edge_url=mesh.addresses.edge_url, api_key=mesh.admin_key)
                await driver.ask("prepare")
                yield Bench(mesh, driver, connection)
            finally:
                driver.kill()


async def main() -> None:
    """Measures one session, then more and more of them at once."""
    async with benches() as bench:
        await bench.alone()
        for sessions in SESSIONS:
            await bench.together(sessions)


if __name__ == "__main__":
    asyncio.run(main())
