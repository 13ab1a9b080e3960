"""Parts of the mesh die in the middle of turns: sessions end well, and nothing is lost, doubled or unpaid."""

from random import Random

import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher.services import SERVICES
from tests.faults.audit import audit
from tests.faults.conftest import SEED, Stage
from tests.faults.crasher import Crasher
from tests.faults.failpoint_names import ON_BIG_FACTS, ON_DELETION, ON_EXPIRY, ON_STEPS, ON_THE_WAY, in_the_code
from tests.faults.order_audit import audit_orders
from tests.faults.order_workers import OrderWorkers
from tests.faults.orders import Orders
from tests.faults.workload import Workload

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("mesh-faults")]

#: What dies together, each row after the one before has recovered. `test_kill_matrix` has all of them, one by one.
WAVES = (
    (
        "inference.after_reserve",
        "orchestrator.before_call",
        "memory.before_commit",
        "cost.after_reserve_commit",
        "policy.after_violation_commit",
        "tools.after_begin",
    ),
    (
        "inference.after_answer",
        "orchestrator.before_commit",
        "memory.after_commit",
        "cost.after_settle_commit",
        "tools.after_execute",
    ),
    ("inference.after_settle", "orchestrator.after_commit"),
)


def test_every_failpoint_is_in_the_matrix() -> None:
    assert in_the_code() == {*ON_THE_WAY, *ON_EXPIRY, *ON_STEPS, *ON_BIG_FACTS, *ON_DELETION}


async def test_sessions_and_orders_end_well_while_parts_die_at_failpoints_and_anywhere(
    stage: Stage, client: AsyncClient, crasher: Crasher, workload: Workload, orders: Orders, workers: OrderWorkers
) -> None:
    async def trouble() -> None:
        for wave in WAVES:
            await crasher.at(*wave)
            workers.kill(orders.dice)
        await crasher.anywhere(SERVICES, Random(SEED))

    sessions = await workload.during(trouble(), *orders.lanes(least=3), least=6)
    assert len(crasher.reached) == sum(map(len, WAVES)) >= 8
    assert all(crasher.child(part).restarts >= crasher.killed[part] >= 1 for part in SERVICES)
    assert (await audit_orders(stage.mesh, client, orders.over, workers.effects)).orders >= 3
    findings = await audit(stage.mesh, client, sessions)
    assert findings.turns >= 24
    assert findings.memories >= findings.turns // 2
    assert findings.settled >= findings.turns
