"""The longest forms: parts of the mesh die for ten minutes, and a mesh that only works does not grow."""

import asyncio
import time
from random import Random
from typing import Final

import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher.services import SERVICES
from services.launcher.status import status
from tests.faults.audit import audit
from tests.faults.conftest import Stage
from tests.faults.crasher import Crasher
from tests.faults.workload import Workload

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.xdist_group("mesh-faults")]

PARTS: Final = (*SERVICES, "edge", "nats", "postgres")
CHAOS_SECONDS: Final = 600.0
SEED: Final = 7
#: Sessions of one wave, and waves: caches and pools fill in the first ones.
SESSIONS: Final = 40
WARM_WAVES: Final = 3
WAVES: Final = 6
#: Most that the mesh may grow over all measured waves; noise of one wave is about 1 %.
MOST_GROWTH: Final = 0.05


async def test_ten_minutes_of_deaths_lose_and_double_nothing(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    dice = Random(SEED)

    async def trouble() -> None:
        end = time.monotonic() + CHAOS_SECONDS
        while time.monotonic() < end:
            await crasher.anywhere(dice.sample(PARTS, k=dice.randint(1, 4)), dice, most_seconds=3.0)
            await asyncio.sleep(dice.uniform(0.0, 5.0))

    sessions = await workload.during(trouble(), least=20)
    assert crasher.killed.total() >= 60
    assert set(crasher.killed) == set(PARTS)
    findings = await audit(stage.mesh, client, sessions)
    assert findings.sessions >= 20
    assert findings.settled >= findings.turns


async def test_memory_stays_flat_over_hundreds_of_sessions(stage: Stage, workload: Workload) -> None:
    weights: list[int] = []
    for wave in range(1, WARM_WAVES + WAVES + 1):
        await workload.during(asyncio.sleep(0), least=SESSIONS * wave)
        weights.append(status(stage.mesh.data_dir).pss_bytes)
    before, after = weights[WARM_WAVES - 1], weights[-1]
    assert after <= before * (1 + MOST_GROWTH), f"the mesh grew from {before / 1e6:.0f} to {after / 1e6:.0f} MB"
