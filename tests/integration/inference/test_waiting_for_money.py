"""Calls of models wait for money that others hold, and only for that: through inference, at a provider with a meter."""

import asyncio
from random import Random

import pytest

from services.meshkit.core.errors import MeshError
from tests.integration.inference.conftest import InferenceMesh, StartInference, a_request
from tests.support.providers.fake import Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLERS = 500


async def test_500_callers_use_a_cap_up_and_ask_no_more_of_the_provider(start: StartInference) -> None:
    async with start(max_model_calls=CALLERS) as mesh:
        await use_up(mesh)


async def use_up(mesh: InferenceMesh) -> None:
    # What one call may take at most is far more than what it takes.
    mesh.provider.next(Behaviour(prompt_tokens=10, completion_tokens=10))
    await mesh.generate()
    random, one = Random(3), (await mesh.budget()).spent_nano_usd
    limit = one + 250 * one
    await mesh.limit(limit)
    for _ in range(CALLERS):
        mesh.provider.next(Behaviour(prompt_tokens=10, completion_tokens=random.randint(5, 15), wait=0.01))
    refused: list[str] = []

    async def call(number: int) -> None:
        try:
            await mesh.call("Generate", a_request(path=f"calls/{number}"), timeout=200)
        except MeshError as refusal:
            refused.append(f"{refusal.reason}/{refusal.metadata.get('cause')}")

    await asyncio.gather(*(call(number) for number in range(CALLERS)))
    budget = await mesh.budget()
    assert (budget.held_nano_usd, budget.overrun_nano_usd) == (0, 0)
    assert 0.95 * limit <= budget.spent_nano_usd <= limit
    assert set(refused) == {"BUDGET_EXHAUSTED/spent"}
    assert len(mesh.provider.meter.calls) == 1 + CALLERS - len(refused)
    assert mesh.provider.meter.unheld == []
