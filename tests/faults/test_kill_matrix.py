"""The long form: every failpoint by itself, more dice, and holds that run out."""

import asyncio
import time
from random import Random

import pytest

from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import ComitiaError
from services.cost.domain.hold import HoldState
from services.launcher.services import SERVICES
from tests.faults.audit import audit
from tests.faults.conftest import Stage
from tests.faults.crasher import Crasher
from tests.faults.failpoint_names import ON_THE_WAY, interleaved
from tests.faults.workload import ANSWER, Workload
from tests.support.mesh_databases import connected

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("mesh-faults")]

#: A call that its caller gives up after this long leaves a hold that ends a minute later.
_GIVEN_UP_SECONDS = 1.0
_HOLD_ENDS_SECONDS = 90.0
_PAUSE_SECONDS = 0.1


@pytest.mark.parametrize("name", interleaved(ON_THE_WAY))
async def test_a_death_at_one_failpoint(
    name: str, stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    sessions = await workload.during(crasher.at(name, seconds=90), least=3)
    assert crasher.reached == [name]
    findings = await audit(stage.mesh, client, sessions)
    assert findings.sessions >= 3
    assert findings.settled >= findings.turns


@pytest.mark.parametrize("seed", range(1, 4))
async def test_deaths_anywhere(
    seed: int, stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    parts = (*SERVICES, "edge", "nats", "postgres")
    sessions = await workload.during(crasher.anywhere(parts, Random(seed), most_seconds=1.5), least=4)
    assert crasher.killed.total() == len(parts)
    findings = await audit(stage.mesh, client, sessions)
    assert findings.sessions >= 4


async def test_a_hold_of_a_lost_call_is_charged_as_assumed_though_cost_dies_over_it(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    stage.mesh.provider.behave(text=ANSWER, wait=5.0)
    with pytest.raises((ComitiaError, TimeoutError)):
        async with asyncio.timeout(_GIVEN_UP_SECONDS):
            await client.models.generate("Are you there?")
    await crasher.at("cost.before_expiry", seconds=_HOLD_ENDS_SECONDS * 5)
    end = time.monotonic() + _HOLD_ENDS_SECONDS
    async with connected(stage.mesh.data_dir, "cost") as connection:
        while not await connection.fetchval(
            "SELECT count(*) FROM hold WHERE state = $1 AND charged_nano_usd = amount_nano_usd", HoldState.ASSUMED
        ):
            assert time.monotonic() < end
            await asyncio.sleep(_PAUSE_SECONDS)
    session = await workload.one()
    assert (await audit(stage.mesh, client, [session])).uncertain >= 1
