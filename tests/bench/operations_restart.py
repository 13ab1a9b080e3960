"""Measures a rolling restart: each process of each service in turn, while a mesh of two of each makes 50 turns/s.

Part of `make bench-operations`. The provider takes half a second for each answer, so that a few dozen sessions make the
turns; what a turn takes beyond that is what is compared.
"""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

from comitia_sdk.aio import AsyncClient
from services.launcher.services import REPLICATED, SERVICES, processes
from tests.bench.whole_mesh import SHORT, Report, percentile
from tests.faults.callers import Callers
from tests.faults.crasher import Crasher, failpoint_folder
from tests.faults.workload import AGENTS, ANSWER, ROUNDS, during, prepare
from tests.support.mesh import RunningMesh, running_mesh

PROVIDER_SECONDS: Final = 0.5
TURNS_PER_S: Final = 50
#: Sessions at once: a turn waits for its answer, and a session for who looks whether it has ended.
SESSIONS: Final = 40
STEADY_SECONDS: Final = 10.0 if SHORT else 30.0
#: All processes, a replica of each service after the other.
ORDER: Final = (*SERVICES, *(processes(service, 2)[1] for service in REPLICATED))
RESTARTED: Final = ORDER[:2] if SHORT else ORDER

figure: Final = Report("operations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What callers met."""

    failed: list[str]
    turns_per_s: float
    #: What each turn took beyond its answer, milliseconds.
    added: list[float]
    #: Turns that are not there, and turns that are there twice.
    lost: int
    repeated: int


def restarts() -> None:
    """Measures a mesh that is left alone, then the same one while it is restarted."""
    with failpoint_folder() as folder, running_mesh(orchestrators=2, replicas=2) as mesh:
        asyncio.run(_measure(mesh, Crasher(mesh, folder)))


async def _measure(mesh: RunningMesh, crasher: Crasher) -> None:
    async with AsyncClient(mesh.url, api_key=mesh.admin_key) as client:
        await prepare(client, mesh.provider)
        mesh.provider.behave(default=True, text=ANSWER, wait=PROVIDER_SECONDS)
        await _found(mesh, client, asyncio.sleep(1.0))
        steady = await _found(mesh, client, asyncio.sleep(STEADY_SECONDS))
        began = time.perf_counter()
        rolling = await _found(mesh, client, _restart(crasher))
        took = time.perf_counter() - began
    before, meanwhile = percentile(steady.added, 99), percentile(rolling.added, 99)
    note = "; ".join([f"{len(RESTARTED)} processes in {took:.0f} s", *rolling.failed[:3]])
    figure("restart_failed_requests", len(rolling.failed), "", goal=0, note=note)
    figure("restart_lost_turns", rolling.lost, "", goal=0)
    figure("restart_repeated_turns", rolling.repeated, "", goal=0)
    note = f"{steady.turns_per_s:.0f} before"
    figure("restart_turns_per_s", rolling.turns_per_s, "1/s", better="higher", goal=TURNS_PER_S, note=note)
    figure("turn_added_p99_steady", before, "ms", note=f"{len(steady.added)} turns")
    figure("turn_added_p99_restarting", meanwhile, "ms", goal=2 * before, note=f"{len(rolling.added)} turns")


async def _restart(crasher: Crasher) -> None:
    for process in RESTARTED:
        await crasher.restart(process)


async def _found(mesh: RunningMesh, client: AsyncClient, meanwhile: Awaitable[None]) -> Found:
    callers = Callers(mesh, client, pause_seconds=PROVIDER_SECONDS)
    began = time.perf_counter()
    await during(meanwhile, *callers.lanes(sessions=SESSIONS, doors=0))
    took = time.perf_counter() - began
    added: list[float] = []
    lost = repeated = 0
    for session in callers.ended:
        turns = [turn async for turn in client.sessions.turns(session.session_id, page_size=100)]
        said = {(turn.round, turn.agent_name) for turn in turns}
        lost += ROUNDS * len(AGENTS) - len(said)
        repeated += len(turns) - len(said)
        added += [
            (turn.timing.end_time.ToMicroseconds() - turn.timing.start_time.ToMicroseconds()) / 1e3
            - PROVIDER_SECONDS * 1e3
            for turn in turns
        ]
    return Found(failed=callers.failed, turns_per_s=len(added) / took, added=added, lost=lost, repeated=repeated)


if __name__ == "__main__":
    restarts()
