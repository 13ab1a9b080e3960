"""A budget is never exceeded: who has used it up is told so, and a session ends with that reason (INV-6)."""

import asyncio

import pytest

from comitia.cost.v1 import cost_pb2
from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.errors import LimitReached
from tests.e2e.conftest import Tenant

FAILED = session_pb2.SESSION_STATE_FAILED
PARALLEL = 6


def within(budget: cost_pb2.Budget) -> bool:
    return budget.spent_nano_usd + budget.held_nano_usd <= budget.limit_nano_usd and not budget.overrun_nano_usd


async def test_a_session_that_cannot_pay_its_first_turn_never_asks(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    session = await tenant.start("Ada", max_rounds=2, max_cost_nano_usd=1_000)
    ended = await tenant.ended(session.session_id)
    assert (ended.state, ended.state_reason, ended.turn_count) == (FAILED, "BUDGET_EXHAUSTED", 0)
    assert ended.budget_id in ended.state_message
    budget = await tenant.client.costs.budget(ended.budget_id)
    assert (budget.limit_nano_usd, budget.spent_nano_usd, budget.held_nano_usd) == (1_000, 0, 0)
    assert tenant.provider.meter(tenant.mark)["calls"] == []


async def test_a_session_ends_when_its_money_is_used_up_and_keeps_its_turns(tenant: Tenant) -> None:
    await tenant.cast("Ada", max_output_tokens=500)
    # A turn holds some 400,000 nano-USD and is charged some 300,000 of them: two fit, a third does not.
    for _ in range(5):
        tenant.says(f"Dear words {tenant.mark}", completion_tokens=480, prompt_tokens=100)
    session = await tenant.start("Ada", max_rounds=5, max_cost_nano_usd=900_000)
    budgets: list[cost_pb2.Budget] = []
    async with asyncio.timeout(20):
        async for event in tenant.client.sessions.watch(session.session_id):
            budgets.append(await tenant.client.costs.budget(session.budget_id))
            if event.WhichOneof("event") == "session_ended":
                break
    ended = await tenant.client.sessions.get(session.session_id)
    assert all(within(budget) for budget in budgets)
    assert (ended.state, ended.state_reason) == (FAILED, "BUDGET_EXHAUSTED")
    assert 1 <= ended.turn_count < 5
    assert len(await tenant.turns(session.session_id)) == ended.turn_count
    assert ended.cost_nano_usd == ended.turn_count * (100 * 150 + 480 * 600)
    answered = [call for call in tenant.provider.meter(tenant.mark)["calls"] if call["completion_tokens"]]
    assert len(answered) == ended.turn_count


async def test_speakers_at_once_share_one_budget_and_never_overspend_it(tenant: Tenant) -> None:
    names = [f"Agent{number}" for number in range(PARALLEL)]
    await tenant.cast(*names, max_output_tokens=500)
    for _ in names:
        tenant.says("Dear words", completion_tokens=480, prompt_tokens=100, wait=0.2)
    session = await tenant.start(*names, strategy="parallel", max_rounds=1, max_cost_nano_usd=1_000_000)
    seen: list[cost_pb2.Budget] = []
    while (await tenant.client.sessions.get(session.session_id)).state != FAILED:
        seen.append(await tenant.client.costs.budget(session.budget_id))
    assert all(within(budget) for budget in seen)
    ended = await tenant.client.sessions.get(session.session_id)
    assert ended.state_reason == "BUDGET_EXHAUSTED"
    assert within(await tenant.client.costs.budget(session.budget_id))


async def test_a_tenant_without_money_asks_no_model_until_its_limit_is_raised(tenant: Tenant) -> None:
    await tenant.client.models.generate(f"Hello {tenant.mark}")
    lowered = await tenant.client.costs.set_limit(0)
    assert lowered.overrun_nano_usd == lowered.spent_nano_usd > 0
    before = len(tenant.provider.meter(tenant.mark)["calls"])
    with pytest.raises(LimitReached) as refused:
        await tenant.client.models.generate(f"Hello {tenant.mark}")
    assert (refused.value.reason, refused.value.metadata["cause"]) == ("BUDGET_EXHAUSTED", "overrun")
    assert refused.value.retry_after is None
    body = {"texts": [f"Embed {tenant.mark}"]}
    answer = await tenant.rest.ask("POST", "/v1/embed", body)
    assert (answer.status, answer.reason) == (429, "BUDGET_EXHAUSTED")
    assert len(tenant.provider.meter(tenant.mark)["calls"]) == before
    await tenant.client.costs.set_limit(10**9)
    assert (await tenant.client.models.generate(f"Hello {tenant.mark}")).hold_id.startswith("hold_")
    assert within(await tenant.client.costs.budget())
