"""The orchestrator dies around steps of workers, and workers die in them: one effect and one result a step."""

import pytest

from comitia_sdk.aio import AsyncClient
from tests.faults.conftest import Stage
from tests.faults.crasher import Crasher
from tests.faults.failpoint_names import ON_BIG_FACTS, ON_STEPS, ON_WORKERS
from tests.faults.order_audit import audit_orders
from tests.faults.order_workers import OrderWorkers
from tests.faults.orders import Orders
from tests.faults.workload import during

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("mesh-faults")]

ORDERS = 6


async def test_orders_end_well_while_the_orchestrator_dies_around_their_steps(
    stage: Stage, client: AsyncClient, crasher: Crasher, orders: Orders, workers: OrderWorkers
) -> None:
    async def trouble() -> None:
        for name in (*ON_STEPS, *ON_BIG_FACTS):
            await crasher.at(name)

    await during(trouble(), *orders.lanes(least=ORDERS))
    assert crasher.reached == [*ON_STEPS, *ON_BIG_FACTS]
    findings = await audit_orders(stage.mesh, client, orders.over, workers.effects)
    assert findings.orders >= ORDERS
    assert findings.effects == findings.steps >= 5 * ORDERS


async def test_orders_end_well_while_their_workers_die(
    stage: Stage, client: AsyncClient, orders: Orders, workers: OrderWorkers
) -> None:
    async def trouble() -> None:
        for name in ON_WORKERS:
            await workers.at(name)
            workers.kill(orders.dice)

    await during(trouble(), *orders.lanes(least=ORDERS))
    assert workers.reached == list(ON_WORKERS)
    findings = await audit_orders(stage.mesh, client, orders.over, workers.effects)
    assert findings.orders >= ORDERS
    assert findings.effects == findings.steps >= 5 * ORDERS
