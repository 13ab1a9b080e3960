"""Two of each service: an orchestrator sleeps through its lease, and all are restarted in turn, under load."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher.layout import DataDir
from services.launcher.services import REPLICATED, SERVICES, processes
from services.meshkit.telemetry.names import SHARDS_HELD
from tests.e2e.test_security_metrics import pages
from tests.faults.audit import Findings, audit
from tests.faults.books import SWEEP, Books, read_books
from tests.faults.callers import Callers
from tests.faults.conftest import Stage, staged
from tests.faults.crasher import Crasher
from tests.faults.order_audit import audit_orders
from tests.faults.order_workers import OrderWorkers
from tests.faults.orders import Orders
from tests.faults.workload import ANSWER, Workload, during
from tests.support.fault_rows import note

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("mesh-replicas")]

REPLICAS = processes("orchestrator", 2)
#: One process of each service, and the others.
FIRST = SERVICES
SECOND = tuple(processes(service, 2)[1] for service in REPLICATED)
#: Longer than a lease of 15 s.
ASLEEP_SECONDS = 20.0
LONG_ASLEEP_SECONDS = 60.0
ROUNDS = 2
MODEL = "gpt-4o-mini"
#: Most of a turn, but less than memory waits for a vector.
SLOWLY_SECONDS = 0.4


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Gives a mesh with two of each service but memory."""
    with staged(orchestrators=len(REPLICAS), replicas=2) as pair:
        yield pair


async def test_what_slept_through_its_lease_commits_nothing_and_the_other_goes_on(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload, orders: Orders, workers: OrderWorkers
) -> None:
    await _one_sleeps(stage, client, crasher, workload, orders, workers, seconds=ASLEEP_SECONDS, least=3)


@pytest.mark.faults
async def test_what_slept_for_a_minute_commits_nothing_and_the_other_goes_on(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload, orders: Orders, workers: OrderWorkers
) -> None:
    await _one_sleeps(stage, client, crasher, workload, orders, workers, seconds=LONG_ASLEEP_SECONDS, least=20)


async def test_restarts_of_all_orchestrators_and_workers_in_turn_fail_no_session_and_no_order(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload, orders: Orders, workers: OrderWorkers
) -> None:
    async def trouble() -> None:
        for _ in range(ROUNDS):
            for replica in REPLICAS:
                child = crasher.child(replica)
                os.kill(child.pid, signal.SIGTERM)
                await crasher.until_back(replica, child.restarts + 1)
            await workers.restart_in_turn()

    sessions = await workload.during(trouble(), *orders.lanes(least=4), least=6)
    assert all(crasher.child(replica).restarts >= ROUNDS for replica in REPLICAS)
    assert workers.ended == {0: ROUNDS * workers.count}
    assert (await audit_orders(stage.mesh, client, orders.over, workers.effects)).orders >= 4
    assert (await audit(stage.mesh, client, sessions)).sessions >= 6


@pytest.mark.faults
async def test_models_that_answer_slowly_are_asked_once_while_orchestrators_restart(
    stage: Stage, client: AsyncClient, crasher: Crasher
) -> None:
    stage.mesh.provider.behave(default=True, text=ANSWER, wait=SLOWLY_SECONDS)
    before = await read_books(stage.mesh)

    async def trouble() -> None:
        for replica in REPLICAS:
            await crasher.restart(replica)

    callers = Callers(stage.mesh, client)
    await during(trouble(), *callers.lanes(sessions=6, doors=0))
    assert callers.failed == []
    findings = await audit(stage.mesh, client, callers.ended)
    assert findings.sessions >= 6
    # Each turn asks the model once; what a replica had asked when it stopped was answered to the other.
    assert _answers_left(findings.left) <= _answers_left(before.checked(within=SWEEP).left)
    assert _answers(await read_books(stage.mesh)) == _answers(before) + findings.turns


def _answers(books: Books) -> int:
    return sum(call.model == MODEL for call in books.calls)


def _answers_left(holds: Sequence[str]) -> set[str]:
    """Gives those for answers: memory waits for a vector as long as its caller does, and not while this one is slow."""
    return {hold.split()[1] for hold in holds if f"for {MODEL} " in hold}


async def test_restarts_of_all_services_fail_no_request_and_no_session(
    stage: Stage, client: AsyncClient, crasher: Crasher
) -> None:
    """A replica of each at once, which leaves the other one; memory, of which there is one, is missed by nobody."""
    findings = await _restarted(stage, client, crasher, [FIRST])
    assert findings.settled > 0


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_restarts_of_all_processes_one_by_one_fail_no_request_and_no_session(
    stage: Stage, client: AsyncClient, crasher: Crasher
) -> None:
    before = (await read_books(stage.mesh)).checked(within=SWEEP).left
    findings = await _restarted(stage, client, crasher, [[process] for process in (*FIRST, *SECOND)])
    assert findings.sessions >= 6
    # What was at work when it was told to stop has come to its end: nothing was cut, and so nothing was made twice.
    assert findings.settled == findings.served
    assert len(findings.left) == len(before), findings.left


async def _restarted(stage: Stage, client: AsyncClient, crasher: Crasher, waves: Sequence[Sequence[str]]) -> Findings:
    async def trouble() -> None:
        for wave in waves:
            await crasher.restart(*wave)

    callers = Callers(stage.mesh, client)
    await during(trouble(), *callers.lanes())
    assert callers.failed == []
    assert callers.answered >= 50
    findings = await audit(stage.mesh, client, callers.ended)
    assert findings.sessions >= 3
    return findings


async def _one_sleeps(
    stage: Stage,
    client: AsyncClient,
    crasher: Crasher,
    workload: Workload,
    orders: Orders,
    workers: OrderWorkers,
    *,
    seconds: float,
    least: int,
) -> None:
    """Stops one of two orchestrators in the middle of its work, and wakes it when others have its runs."""
    sleeper = crasher.child(REPLICAS[0])
    log = DataDir(stage.mesh.data_dir).log(sleeper.name)
    lost_before = _losses(log)

    async def trouble() -> None:
        await _until(lambda: len(workload.started) >= workload.at_once)
        # Or the other one came first, has them all, and there is nothing to lose.
        await _until(lambda: pages(stage.mesh, sleeper.name)[sleeper.name, SHARDS_HELD, frozenset()] > 0)
        os.kill(sleeper.pid, signal.SIGSTOP)
        note("paused for longer than its lease", "orchestrator")
        try:
            before = len(workload.ended)
            await asyncio.sleep(seconds)
            # Others have its runs, and end some of them while it sleeps.
            await _until(lambda: len(workload.ended) > before)
        finally:
            os.kill(sleeper.pid, signal.SIGCONT)
        await _until(lambda: _losses(log) > lost_before)

    sessions = await workload.during(trouble(), *orders.lanes(least=least), least=least)
    assert crasher.child(sleeper.name).pid == sleeper.pid
    assert (await audit_orders(stage.mesh, client, orders.over, workers.effects)).orders >= least
    assert (await audit(stage.mesh, client, sessions)).sessions >= least


def _losses(log: Path) -> int:
    return log.read_text(encoding="utf-8").count("lease lost")


async def _until(met: Callable[[], bool], *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
