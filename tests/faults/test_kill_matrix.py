"""The long form: every failpoint by itself and ten times over, more dice, and holds that run out."""

import asyncio
import time
from collections import Counter
from random import Random
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from comitia_sdk.aio import AsyncClient
from services.cost.domain.hold import CostKind, HoldState
from services.launcher.services import SERVICES
from tests.faults.audit import audit
from tests.faults.conftest import Stage
from tests.faults.crasher import Crasher
from tests.faults.failpoint_names import ON_BIG_FACTS, ON_STEPS, ON_THE_WAY, ON_WORKERS, interleaved, waves
from tests.faults.order_audit import FLOOR, audit_orders
from tests.faults.order_workers import OrderWorkers
from tests.faults.orders import Orders
from tests.faults.workload import ANSWER, Workload
from tests.support.mesh_databases import connected

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("mesh-faults")]

#: Deaths at each failpoint, and the longest time until all parts of a wave have died.
TIMES: Final = 10
WAVE_SECONDS: Final = 180.0
#: Longest time for one session or order, while everything dies again and again.
ENDS_SECONDS: Final = 600.0
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


@pytest.mark.timeout(3600)
async def test_ten_deaths_at_each_failpoint_of_the_mesh_and_of_workers(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload, orders: Orders, workers: OrderWorkers
) -> None:
    everywhere = (*ON_THE_WAY, *ON_STEPS, *ON_BIG_FACTS, *ON_WORKERS)

    async def trouble() -> None:
        for wave in waves(everywhere * TIMES):
            of_workers = [name for name in wave if name in ON_WORKERS]
            async with asyncio.TaskGroup() as dying:
                dying.create_task(crasher.at(*(set(wave) - set(of_workers)), seconds=WAVE_SECONDS))
                dying.create_task(workers.at(*of_workers, seconds=WAVE_SECONDS))

    workload.session_seconds = orders.order_seconds = ENDS_SECONDS
    sessions = await workload.during(trouble(), *orders.lanes(), least=20)
    hits = Counter([*crasher.reached, *workers.reached])
    assert hits == dict.fromkeys(everywhere, TIMES)
    found = await audit_orders(stage.mesh, client, orders.over, workers.effects, floor=FLOOR)
    findings = await audit(stage.mesh, client, sessions)
    print(f"\n{sum(hits.values())} deaths: {dict(hits)}\n{found}\n{findings}")
    assert found.orders >= TIMES
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
    await _generate_in_vain(stage, client)
    await crasher.at("cost.before_expiry", seconds=_HOLD_ENDS_SECONDS)
    end = time.monotonic() + _HOLD_ENDS_SECONDS
    async with connected(stage.mesh.data_dir, "cost") as connection:
        while not await connection.fetchval(
            "SELECT count(*) FROM hold WHERE state = $1 AND charged_nano_usd = amount_nano_usd", HoldState.ASSUMED
        ):
            assert time.monotonic() < end
            await asyncio.sleep(_PAUSE_SECONDS)
    session = await workload.one()
    assert (await audit(stage.mesh, client, [session])).left


async def test_a_hold_that_cost_died_over_is_found_by_the_repeat_of_its_call(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload
) -> None:
    before = await _left_over(stage)
    sessions = await workload.during(crasher.at("cost.after_reserve_commit", seconds=90), least=2)
    await audit(stage.mesh, client, sessions)
    assert await _left_over(stage) == before, "a hold was left to be assumed for a call that was never sent"


async def _left_over(stage: Stage) -> int:
    """Counts holds of answers that nobody settled. Recall does without an embedding, so nobody repeats that one."""
    query = "SELECT count(*) FROM hold WHERE kind = $1 AND state IN ($2, $3)"
    async with connected(stage.mesh.data_dir, "cost") as connection:
        left: int = await connection.fetchval(query, CostKind.GENERATE, HoldState.DISPATCHED, HoldState.ASSUMED)
        return left


async def _generate_in_vain(stage: Stage, client: AsyncClient) -> None:
    """Asks a model that answers too late, so that nobody ever knows what it used."""
    stage.mesh.provider.behave(text=ANSWER, wait=_GIVEN_UP_SECONDS * 3)
    message = content_pb2.Message(role=content_pb2.MESSAGE_ROLE_USER)
    message.parts.add().text.text = "Are you there?"
    request = inference_service_pb2.GenerateRequest(messages=[message])
    bearer = (("authorization", f"Bearer {await client.identity.token()}"),)
    async with grpc.aio.insecure_channel(stage.mesh.target) as channel:
        stub: Any = inference_service_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Generate(request, timeout=_GIVEN_UP_SECONDS, metadata=bearer)
    assert refusal.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
