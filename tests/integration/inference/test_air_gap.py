"""An installation that sends nothing outside: its callers hear so, nothing is paid, and the chain goes on inside."""

import pytest
from pydantic import SecretStr

from tests.integration.inference.conftest import StartInference, a_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Of nobody: from RFC 5737.
OUTSIDE = "http://203.0.113.7:9/v1"


async def test_a_model_outside_is_refused_and_costs_nothing(
    start: StartInference, refused_addresses: list[str]
) -> None:
    async with start(egress="mesh", openai_base_url=OUTSIDE) as mesh:
        assert await mesh.refused("Generate", a_request()) == "precondition/EGRESS_REFUSED"
        budget = await mesh.budget()
        assert (budget.spent_nano_usd, budget.held_nano_usd) == (0, 0)
    assert refused_addresses == []


async def test_the_chain_goes_on_with_a_model_inside(start: StartInference, refused_addresses: list[str]) -> None:
    async with start(
        egress="mesh",
        anthropic_api_key=SecretStr("sk-test-key"),
        anthropic_base_url=OUTSIDE,
    ) as mesh:
        generation = await mesh.generate(model="default")
        assert generation.provider == "openai"
        assert await mesh.refused("Generate", a_request(model="anthropic/claude-haiku-4-5")) == (
            "precondition/EGRESS_REFUSED"
        )
    async with start(
        egress="mesh",
        openai_base_url=OUTSIDE,
        anthropic_api_key=SecretStr("sk-test-key"),
        anthropic_base_url=mesh.provider.anthropic_base_url,
    ) as mesh:
        generation = await mesh.generate(model="default")
        assert generation.provider == "anthropic"
        assert list(generation.failed_attempts) == ["openai/gpt-4o-mini: EGRESS_REFUSED"]
    assert refused_addresses == []
