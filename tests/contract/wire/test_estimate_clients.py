"""What estimates ask of inference and cost, over real gRPC."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest

from comitia.cost.v1 import (
    budget_service_pb2,
    budget_service_pb2_grpc,
    cost_pb2,
    pricing_service_pb2,
    pricing_service_pb2_grpc,
)
from comitia.inference.v1 import (
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Caller, Principal
from services.meshkit.core.secret import Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.clients.budget_levels import CostBudgetLevels
from services.orchestrator.clients.model_prices import MeshModelPrices
from services.orchestrator.domain.preflight import BudgetLevel
from services.orchestrator.domain.run_shape import Prices

ADA = Caller(principal=Principal(tenant=TENANT, subject="key_ada", roles=frozenset(), token=Secret("t")), peer=None)


def a_deployment(name: str, adapter: str, *, chain: bool = True, embeds: bool = False) -> model_pb2.ModelDeployment:
    return model_pb2.ModelDeployment(
        name=name,
        adapter=adapter,
        model=name.rpartition("/")[2],
        task=model_pb2.MODEL_TASK_EMBED if embeds else model_pb2.MODEL_TASK_GENERATE,
        in_default_chain=chain,
    )


def a_price(provider: str, model: str, input_price: int, output_price: int, **fields: Any) -> cost_pb2.Price:
    return cost_pb2.Price(
        provider=provider,
        model=model,
        input_nano_usd_per_million=input_price,
        output_nano_usd_per_million=output_price,
        **fields,
    )


class Mesh(
    model_service_pb2_grpc.ModelServiceServicer,
    pricing_service_pb2_grpc.PricingServiceServicer,
    budget_service_pb2_grpc.BudgetServiceServicer,
):
    """Inference and cost, as far as estimates know them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refused = False
        self.models = [
            a_deployment("openai/unpriced", "openai"),
            a_deployment("openai/gpt-large-2026-01-01", "openai"),
            a_deployment("anthropic/haiku", "anthropic"),
            a_deployment("local/smol", "local", chain=False),
            a_deployment("stub", "stub", chain=False),
            a_deployment("openai/embeds", "openai", embeds=True),
        ]
        self.prices = [
            a_price("openai", "gpt-large", 2_000, 8_000),
            # Of long prompts, which cost more.
            a_price("openai", "gpt-large", 4_000, 9_000, min_prompt_tokens=200_000),
            a_price("anthropic", "Haiku", 100, 500),
            a_price("local", "*", 0, 0),
            a_price("stub", "*", 0, 0),
            a_price("openai", "embeds", 1, 0),
        ]
        self.budgets: dict[str, cost_pb2.Budget] = {}

    async def ListModels(self, request: Any, context: Any) -> model_service_pb2.ListModelsResponse:
        self.asked.append("ListModels")
        if self.refused:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        return model_service_pb2.ListModelsResponse(models=self.models)

    async def ListPrices(self, request: Any, context: Any) -> pricing_service_pb2.ListPricesResponse:
        """Gives two prices a page."""
        self.asked.append("ListPrices")
        start = int(request.page_token or 0)
        more = str(start + 2) if start + 2 < len(self.prices) else ""
        return pricing_service_pb2.ListPricesResponse(prices=self.prices[start : start + 2], next_page_token=more)

    async def GetBudget(self, request: Any, context: Any) -> budget_service_pb2.GetBudgetResponse:
        self.asked.append(request.budget_id)
        if self.refused:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        if request.budget_id not in self.budgets:
            await context.abort(grpc.StatusCode.NOT_FOUND, "none")
        return budget_service_pb2.GetBudgetResponse(budget=self.budgets[request.budget_id])


@pytest.fixture
async def mesh() -> AsyncIterator[tuple[Mesh, grpc.aio.Channel]]:
    mesh, server = Mesh(), grpc.aio.server()  # pyright: ignore[reportAbstractUsage]
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(mesh, server)
    pricing_service_pb2_grpc.add_PricingServiceServicer_to_server(mesh, server)
    budget_service_pb2_grpc.add_BudgetServiceServicer_to_server(mesh, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield mesh, channel
    await server.stop(None)


async def test_prices_are_found_behind_the_names_that_agents_use(mesh: tuple[Mesh, grpc.aio.Channel]) -> None:
    fake, channel = mesh
    clock = FakeClock()
    prices = MeshModelPrices(inference=channel, cost=channel, clock=clock)
    large = Prices(input=2_000, output=8_000)
    found = await prices.of(ADA, {"default", "anthropic/haiku", "openai/unpriced", "openai/embeds", "local/smol"})
    # The chain's first has no price: the next one is asked for `default`.
    assert found == {
        "default": large,
        "anthropic/haiku": Prices(input=100, output=500),
        "local/smol": Prices(input=0, output=0),
    }
    # The stub answers nothing that anybody wants.
    assert [name for name, _ in await prices.by_cost(ADA)] == [
        "local/smol",
        "anthropic/haiku",
        "openai/gpt-large-2026-01-01",
    ]
    asked = len(fake.asked)
    fake.prices[0].output_nano_usd_per_million = 1
    assert (await prices.of(ADA, {"default"}))["default"] == large
    assert len(fake.asked) == asked
    clock.advance(seconds=61)
    assert (await prices.of(ADA, {"default"}))["default"] == Prices(input=2_000, output=1)


async def test_a_caller_who_may_not_see_prices_is_told(mesh: tuple[Mesh, grpc.aio.Channel]) -> None:
    fake, channel = mesh
    fake.refused = True
    with pytest.raises(MeshError):
        await MeshModelPrices(inference=channel, cost=channel, clock=FakeClock()).of(ADA, {"default"})


async def test_budgets_say_what_is_left_and_from_where_on_they_degrade(mesh: tuple[Mesh, grpc.aio.Channel]) -> None:
    fake, channel = mesh
    clock = FakeClock()
    levels = CostBudgetLevels(channel, clock=clock)
    taken: dict[str, Any] = {"limit_nano_usd": 1_000, "spent_nano_usd": 100, "held_nano_usd": 50}
    fake.budgets["tenant"] = cost_pb2.Budget(**taken, mode=cost_pb2.BUDGET_MODE_HARD, warn_at_percent=80)
    assert await levels.of(ADA, "") == [BudgetLevel(name="tenant", left=850)]
    assert fake.asked == ["tenant"]
    # A project need not have one.
    assert len(await levels.of(ADA, "atlas")) == 1
    fake.budgets["project:atlas"] = cost_pb2.Budget(**taken, mode=cost_pb2.BUDGET_MODE_DEGRADE, warn_at_percent=80)
    assert (await levels.of(ADA, "atlas"))[1] == BudgetLevel(name="project:atlas", left=850, left_before_degrading=650)
    fake.budgets["project:atlas"].degraded_until_time.FromDatetime(clock.now() + timedelta(minutes=1))
    assert (await levels.of(ADA, "atlas"))[1].left_before_degrading == 0
    clock.advance(seconds=120)
    assert (await levels.of(ADA, "atlas"))[1].left_before_degrading == 650
    fake.budgets["project:atlas"].Clear()
    fake.budgets["project:atlas"].MergeFrom(cost_pb2.Budget(**taken, mode=cost_pb2.BUDGET_MODE_SOFT))
    assert not (await levels.of(ADA, "atlas"))[1].refuses
    fake.budgets["tenant"].spent_nano_usd = 5_000
    assert (await levels.of(ADA, ""))[0].left == 0
    fake.refused = True
    assert await levels.of(ADA, "atlas") == []
    assert clock.now() > datetime(2020, 1, 1, tzinfo=UTC)
