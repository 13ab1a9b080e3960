"""Servers and neighbours that are away for a while: sessions wait, visibly where they have to, and go on."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.launcher.layout import DataDir
from tests.faults.audit import audit
from tests.faults.conftest import Stage
from tests.faults.crasher import Crasher
from tests.faults.order_audit import audit_orders
from tests.faults.order_workers import OrderWorkers
from tests.faults.orders import Orders
from tests.faults.workload import Workload, patiently
from tests.support.fault_rows import note

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("mesh-faults")]


async def test_an_emptied_nats_loses_nothing(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload, orders: Orders, workers: OrderWorkers
) -> None:
    async def trouble() -> None:
        await asyncio.sleep(0.5)
        restarts = crasher.kill("nats")
        note("emptied", "nats")
        await asyncio.to_thread(shutil.rmtree, DataDir(stage.mesh.data_dir).of("nats") / "jetstream", True)
        await crasher.until_back("nats", restarts)

    sessions = await workload.during(trouble(), *orders.lanes())
    assert (await audit_orders(stage.mesh, client, orders.over, workers.effects)).orders >= 2
    assert (await audit(stage.mesh, client, sessions)).sessions >= 3


async def test_sessions_and_orders_go_on_after_postgres_was_killed(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload, orders: Orders, workers: OrderWorkers
) -> None:
    async def trouble() -> None:
        await asyncio.sleep(0.5)
        await crasher.until_back("postgres", crasher.kill("postgres"))

    sessions = await workload.during(trouble(), *orders.lanes())
    assert (await audit_orders(stage.mesh, client, orders.over, workers.effects)).orders >= 2
    assert (await audit(stage.mesh, client, sessions)).sessions >= 3


async def test_a_run_without_a_token_waits_visibly_for_the_gateway(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    waiting = await workload.start(manual=True)
    await workload.until_state(waiting, session_pb2.SESSION_STATE_WAITING)
    async with _kept_down(crasher, "gateway"):
        # It forgets the token it has; the caller's own goes on working.
        await crasher.until_back("orchestrator", crasher.kill("orchestrator"))
        await patiently(lambda: client.sessions.advance(waiting))
        parked = await workload.until_state(waiting, session_pb2.SESSION_STATE_PARKED)
        assert parked.state_reason
        assert parked.state_message
    session = await workload.until_ended(waiting)
    assert (await audit(stage.mesh, client, [session])).sessions == 1


@asynccontextmanager
async def _kept_down(crasher: Crasher, part: str) -> AsyncIterator[None]:
    """Kills a part whenever it is back."""

    async def keep_killing() -> None:
        while True:
            if crasher.child(part).state != "waiting to restart":
                crasher.kill(part)
            await asyncio.sleep(0.1)

    killing = asyncio.create_task(keep_killing())
    try:
        yield
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        end = time.monotonic() + 60
        while crasher.child(part).state != "healthy":
            assert time.monotonic() < end, f"{part} does not come back"
            await asyncio.sleep(0.1)
