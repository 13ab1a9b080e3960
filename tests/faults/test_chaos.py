"""The longest forms: parts of the mesh die for ten minutes, and a mesh that only works does not grow."""

import asyncio
import json
import time
from collections.abc import Iterator
from random import Random
from typing import Final

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.launcher.services import SERVICES, processes
from services.launcher.status import status
from tests.faults.audit import audit
from tests.faults.conftest import SEED, Stage, staged
from tests.faults.crasher import Crasher
from tests.faults.order_audit import FLOOR, audit_orders
from tests.faults.order_workers import OrderWorkers
from tests.faults.orders import Orders
from tests.faults.workload import Workload

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.xdist_group("mesh-faults")]

REPLICAS: Final = processes("orchestrator", 2)
PARTS: Final = (*SERVICES, REPLICAS[-1], "edge", "nats", "postgres")
CHAOS_SECONDS: Final = 600.0
#: Longest time for one session or order, while everything dies again and again.
ENDS_SECONDS: Final = 600.0
#: Sessions at the same time, and how often.
CROWD: Final = 500
CROWDS: Final = 6
LAST_CROWDS: Final = 3
#: Sessions of one wave, and waves: caches and pools fill in the first ones.
SESSIONS: Final = 40
WARM_WAVES: Final = 3
WAVES: Final = 6
#: Most that the mesh may grow over all measured waves; noise of one wave is about 1 %.
MOST_GROWTH: Final = 0.05


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Gives a mesh with two orchestrators."""
    with staged(orchestrators=len(REPLICAS)) as pair:
        yield pair


async def test_ten_minutes_of_deaths_lose_and_double_nothing(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload, orders: Orders, workers: OrderWorkers
) -> None:
    dice = Random(SEED)

    async def trouble() -> None:
        end = time.monotonic() + CHAOS_SECONDS
        while time.monotonic() < end:
            workers.kill(dice)
            await crasher.anywhere(dice.sample(PARTS, k=dice.randint(1, 4)), dice, most_seconds=3.0)
            await asyncio.sleep(dice.uniform(0.0, 5.0))

    workload.session_seconds = orders.order_seconds = ENDS_SECONDS
    sessions = await workload.during(trouble(), *orders.lanes(least=20), least=20)
    found = await audit_orders(stage.mesh, client, orders.over, workers.effects, floor=FLOOR)
    findings = await audit(stage.mesh, client, sessions)
    print(f"\n{dict(crasher.killed)}, {workers.killed} workers\n{found}\n{findings}")
    assert crasher.killed.total() >= 60
    assert set(crasher.killed) == set(PARTS)
    assert workers.killed >= 20
    assert found.orders >= 20
    assert findings.sessions >= 20
    assert findings.settled >= findings.turns


async def test_memory_stays_flat_over_hundreds_of_sessions(stage: Stage, workload: Workload) -> None:
    weights: list[int] = []
    for wave in range(1, WARM_WAVES + WAVES + 1):
        await workload.during(asyncio.sleep(0), least=SESSIONS * wave)
        weights.append(status(stage.mesh.data_dir).pss_bytes)
    before, after = weights[WARM_WAVES - 1], weights[-1]
    assert after <= before * (1 + MOST_GROWTH), f"the mesh grew from {before / 1e6:.0f} to {after / 1e6:.0f} MB"


async def test_500_sessions_at_once_end_well_and_memory_stays_flat(stage: Stage, workload: Workload) -> None:
    workload.session_seconds = ENDS_SECONDS
    weights: list[int] = []
    for _ in range(WARM_WAVES + CROWDS):
        ids = await asyncio.gather(*(workload.start(rounds=1, model="stub") for _ in range(CROWD)))
        ended = [await workload.until_ended(session_id) for session_id in ids]
        assert {session.state for session in ended} == {session_pb2.SESSION_STATE_SUCCEEDED}
        weights.append(status(stage.mesh.data_dir).pss_bytes)
    # What one look finds may be 5 % more than the next.
    before, after = max(weights[:WARM_WAVES]), min(weights[-LAST_CROWDS:])
    figure = {"figure": "concurrent_sessions", "value": CROWD, "errors": 0, "pss_mb": [w // 1_000_000 for w in weights]}
    print(f"\n{json.dumps(figure)}")
    assert after <= before * (1 + MOST_GROWTH), f"the mesh grew from {before / 1e6:.0f} to {after / 1e6:.0f} MB"
