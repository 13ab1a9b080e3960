"""One tenant's budget is locked by another transaction: that tenant waits, and nobody else does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import REGISTRY
from sqlalchemy import text

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.cost.conftest import CostCaller, CostMesh
from tests.support.money import a_reserve

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUND = 100 * 150 + 50 * 600
_LOCK = text("SELECT FROM budget WHERE tenant_id = :tenant ORDER BY id FOR UPDATE")


@asynccontextmanager
async def locked(mesh: CostMesh, *tenants: TenantId) -> AsyncIterator[None]:
    """Holds the locks of all budgets of some tenants, as a long transaction of somebody else would."""
    async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        for tenant in tenants:
            await scope.execute(_LOCK, {"tenant": tenant})
        yield


async def apart(items: int) -> None:
    """Waits until so many items wait apart."""
    async with asyncio.timeout(10):
        while REGISTRY.get_sample_value("comitia_queue_items", {"queue": "cost.locked"}) != items:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@pytest.fixture
def anna(mesh: CostMesh) -> CostCaller:
    return mesh.caller()


@pytest.fixture
def ben(mesh: CostMesh) -> CostCaller:
    return mesh.caller(tenant=TenantId(uuid4()))


async def test_others_spend_while_a_tenant_is_locked_and_it_spends_once_it_is_free(
    mesh: CostMesh, anna: CostCaller, ben: CostCaller
) -> None:
    open_hold = await anna.dispatch(await anna.reserve())
    await ben.spend()
    async with locked(mesh, mesh.tenant):
        asked = [asyncio.create_task(anna.reserve()) for _ in range(3)]
        asked.append(asyncio.create_task(anna.settle(open_hold, input_tokens=10, output_tokens=5)))
        for _ in range(5):
            await ben.spend()
        await asyncio.gather(*(ben.spend() for _ in range(20)))
        await apart(4)
        assert not any(task.done() for task in asked)
    holds = await asyncio.gather(*asked)
    assert [hold.state for hold in holds] == [cost_pb2.HOLD_STATE_RESERVED] * 3 + [cost_pb2.HOLD_STATE_SETTLED]
    budget = await anna.budget()
    assert (budget.held_nano_usd, budget.spent_nano_usd) == (3 * BOUND, 4500)
    assert len(await anna.events()) == 1
    assert (await ben.budget()).spent_nano_usd == 26 * 4500
    await apart(0)


async def test_tenants_that_are_locked_do_not_wait_for_each_other(
    mesh: CostMesh, anna: CostCaller, ben: CostCaller
) -> None:
    cleo = mesh.caller(tenant=TenantId(uuid4()))
    await asyncio.gather(anna.reserve(), ben.reserve(), cleo.reserve())
    async with locked(mesh, mesh.tenant):
        async with locked(mesh, ben.principal.tenant):
            first, second = asyncio.create_task(anna.reserve()), asyncio.create_task(ben.reserve())
            await apart(2)
            await cleo.spend()
        await second
        assert not first.done()
    await first


async def test_the_same_request_that_waits_apart_twice_makes_one_hold(mesh: CostMesh, anna: CostCaller) -> None:
    await anna.spend()
    request = a_reserve()
    async with locked(mesh, mesh.tenant):
        asked = [asyncio.create_task(anna.call("Reserve", request)) for _ in range(2)]
        await apart(2)
    first, second = await asyncio.gather(*asked)
    assert first == second
    assert (await anna.budget()).held_nano_usd == BOUND


async def test_a_frame_answers_the_others_while_an_item_of_it_waits_apart(
    mesh: CostMesh, anna: CostCaller, ben: CostCaller
) -> None:
    await anna.spend()
    await ben.spend()
    async with Coalescer(
        lambda: BudgetServiceStub(mesh.inside).BatchSpend(
            metadata=[("comitia-workload", mesh.keys.workload("inference").assertion())]
        ),
        frame=pb.BatchSpendRequest,
        name="test",
        clock=mesh.clock,
        random=Random(1),
    ) as stream:

        async def reserve(caller: CostCaller, **changes: Any) -> pb.BatchSpendResponse.Item:
            item = pb.BatchSpendRequest.Item(reserve=a_reserve(**changes))
            return await stream.call(item, principal=caller.principal)

        async with locked(mesh, mesh.tenant):
            mine = [asyncio.create_task(reserve(anna)), asyncio.create_task(reserve(anna, wait=Duration(seconds=60)))]
            assert (await reserve(ben)).hold.amount_nano_usd == BOUND
            await apart(2)
            assert not any(task.done() for task in mine)
        assert [(await task).hold.amount_nano_usd for task in mine] == [BOUND, BOUND]
    # Nobody frees what was told.
    assert (await anna.budget()).held_nano_usd == 2 * BOUND
