"""Budgets, their limits and their alerts over gRPC on real Postgres."""

import asyncio

import pytest
from pydantic import SecretStr
from sqlalchemy import exc, text

from comitia.common.v1.usage_pb2 import Usage
from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.meshkit.bus.bus import bus
from services.meshkit.bus.consumer import Consumer, Message
from services.meshkit.bus.subjects import service_stream
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.conftest import NatsServer
from tests.integration.cost.conftest import CostMesh, StartCost
from tests.support.money import a_reserve, a_run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUND = 100 * 150 + 50 * 600


async def test_a_run_gets_its_budget_once(mesh: CostMesh) -> None:
    orchestrator = mesh.caller(peer="orchestrator")
    request = pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=5)
    first = (await orchestrator.call("CreateBudget", request)).budget
    assert (first.scope, first.run_id, first.limit_nano_usd) == (cost_pb2.BUDGET_SCOPE_RUN, request.run_id, 5)
    assert (await orchestrator.call("CreateBudget", request)).budget == first
    request.limit_nano_usd = 6
    assert await orchestrator.refused("CreateBudget", request) == "exists/BUDGET_EXISTS"


@pytest.mark.parametrize(("run_id", "limit"), [("", 5), ("budget_1", 5), (None, 0), (None, -1), (None, 2**63 - 1)])
async def test_a_budget_that_makes_no_sense_is_refused(mesh: CostMesh, run_id: str | None, limit: int) -> None:
    request = pb.CreateBudgetRequest(run_id=a_run_id() if run_id is None else run_id, limit_nano_usd=limit)
    assert await mesh.caller(peer="orchestrator").refused("CreateBudget", request) == "invalid/INVALID_FIELD"


async def test_the_tenants_budget_is_there_for_whoever_asks(start_cost: StartCost) -> None:
    async with start_cost(tenant_limit_nano_usd=42) as mesh:
        budget = await mesh.caller().budget()
        assert (budget.scope, budget.limit_nano_usd) == (cost_pb2.BUDGET_SCOPE_TENANT, 42)
        assert await mesh.caller().budget(budget.budget_id) == budget


async def test_budgets_are_listed_newest_first_page_by_page(mesh: CostMesh) -> None:
    anna, orchestrator = mesh.caller(), mesh.caller(peer="orchestrator")
    made = [(await anna.budget()).budget_id]
    for _ in range(4):
        mesh.clock.advance(seconds=1)
        request = pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=5)
        made.append((await orchestrator.call("CreateBudget", request)).budget.budget_id)
    seen: list[str] = []
    token = ""
    while True:
        page = await anna.call("ListBudgets", pb.ListBudgetsRequest(page_size=2, page_token=token))
        seen += [budget.budget_id for budget in page.budgets]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]
    for wrong in (pb.ListBudgetsRequest(page_size=-1), pb.ListBudgetsRequest(page_token="x")):
        assert await anna.refused("ListBudgets", wrong) == "invalid/INVALID_FIELD"


async def test_a_lowered_limit_shows_as_overrun_and_nothing_new_is_held(mesh: CostMesh) -> None:
    anna = mesh.caller()
    hold = await anna.reserve()
    lowered = await anna.limit(BOUND - 1)
    assert (lowered.overrun_nano_usd, lowered.held_nano_usd) == (1, BOUND)
    assert await anna.refused("Reserve", a_reserve(input_tokens=0, output_tokens=0)) == "exhausted/BUDGET_EXHAUSTED"
    await anna.release(hold)
    assert (await anna.budget()).overrun_nano_usd == 0
    wrong = pb.SetBudgetLimitRequest(budget_id="tenant", limit_nano_usd=-1)
    assert await anna.refused("SetBudgetLimit", wrong) == "invalid/INVALID_FIELD"


async def test_a_limit_that_is_not_given_is_not_taken_for_none_at_all(mesh: CostMesh) -> None:
    anna = mesh.caller()
    before = await anna.limit(BOUND)
    silent = pb.SetBudgetLimitRequest(budget_id="tenant")
    assert await anna.refused("SetBudgetLimit", silent) == "invalid/INVALID_FIELD"
    assert (await anna.budget()).limit_nano_usd == before.limit_nano_usd
    assert (await anna.limit(0)).limit_nano_usd == 0


async def test_usage_beyond_the_bound_is_charged_shown_as_overrun_and_told_on_the_bus(mesh: CostMesh) -> None:
    anna = mesh.caller()
    await anna.limit(BOUND)
    hold = await anna.dispatch(await anna.reserve())
    await anna.settle(hold, output_tokens=1000)
    budget = await anna.budget()
    assert (budget.spent_nano_usd, budget.overrun_nano_usd) == (600_000, 600_000 - BOUND)
    (row,) = [row for row in await mesh.messages() if "warned" not in row.subject]
    alert = cost_pb2.BudgetAlert.FromString(row.body)
    assert row.subject == f"comitia.cost.budget.overrun.v1.{mesh.tenant}"
    assert alert.tenant_id == from_uuid("tenant", mesh.tenant)
    assert (alert.cause, alert.budget.spent_nano_usd) == (cost_pb2.BUDGET_ALERT_CAUSE_OVERRUN, 600_000)


async def test_an_alert_reaches_the_stream_of_cost(start_cost: StartCost, nats_server: NatsServer) -> None:
    url = nats_server.url.replace("://", f"://{nats_server.token}@")
    async with start_cost(nats_url=SecretStr(url)) as mesh, bus(url, streams=(service_stream("cost"),)) as listener:
        await listener.wait_connected()
        heard: asyncio.Queue[Message] = asyncio.Queue()
        consumer = Consumer(listener, service_stream("cost"), "cost-test", heard.put)
        listening = asyncio.ensure_future(consumer())
        try:
            await mesh.caller().reserve()
            await mesh.caller().limit(1)
            message = await asyncio.wait_for(heard.get(), 10)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    alert = cost_pb2.BudgetAlert.FromString(message.body)
    assert message.subject == f"comitia.cost.budget.overrun.v1.{mesh.tenant}"
    assert (alert.budget.overrun_nano_usd, alert.budget.limit_nano_usd) == (BOUND - 1, 1)


async def test_a_used_up_budget_is_told_on_the_bus_once(mesh: CostMesh) -> None:
    anna = mesh.caller()
    await anna.limit(BOUND)
    hold = await anna.dispatch(await anna.reserve())
    await anna.settle(hold, input_tokens=100, output_tokens=50)
    for _ in range(3):
        assert await anna.refused("Reserve", a_reserve()) == "exhausted/BUDGET_EXHAUSTED"
    rows = await mesh.messages()
    told = [f"comitia.cost.budget.{cause}.v1.{mesh.tenant}" for cause in ("warned", "exhausted")]
    assert [row.subject for row in rows] == told


async def test_the_database_itself_refuses_a_budget_that_is_overspent(mesh: CostMesh) -> None:
    await mesh.caller().reserve()
    async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine:
        for change in ("held_nano_usd = limit_nano_usd + 1", "spent_nano_usd = -1"):
            with pytest.raises(exc.IntegrityError, match="ck_budget"):
                async with maintenance_scope(engine) as scope:
                    await scope.execute(text(f"UPDATE budget SET {change}"))


async def test_usage_that_prices_beyond_reason_is_refused_and_the_hold_stays(mesh: CostMesh) -> None:
    anna = mesh.caller()
    hold = await anna.dispatch(await anna.reserve(model="gpt-4-32k"))
    absurd = pb.SettleRequest(hold_id=hold.hold_id, usage=Usage(output_tokens=10**10))
    assert await anna.refused("Settle", absurd) == "invalid/INVALID_FIELD"
    assert (await anna.budget()).held_nano_usd == hold.amount_nano_usd
