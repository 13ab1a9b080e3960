"""What models cost, asked of inference, which knows what stands behind a name, and of cost."""

from collections.abc import Collection
from typing import Final

import grpc.aio

from comitia.cost.v1 import cost_pb2, pricing_service_pb2, pricing_service_pb2_grpc
from comitia.inference.v1 import (
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from services.meshkit.content.model_name import NameKey, name_key, priced
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, Principal
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors
from services.orchestrator.domain.run_shape import Prices

_SECONDS: Final = 2.0
#: Both lists are those of the whole mesh, and change by the day.
_REMEMBER_SECONDS: Final = 60.0
_PAGE: Final = 500
_MOST_PAGES: Final = 20
_DEFAULT: Final = "default"
_STUB: Final = "stub"


class MeshModelPrices:
    """Implements `ModelPrices`; remembers for a minute."""

    def __init__(self, *, inference: grpc.aio.Channel, cost: grpc.aio.Channel, clock: Clock) -> None:
        self._models = model_service_pb2_grpc.ModelServiceStub(inference)
        self._pricing = pricing_service_pb2_grpc.PricingServiceStub(cost)
        self._clock = clock
        #: By name, in the order of the chain; as many as are configured.
        self._known: dict[str, Prices] = {}
        #: Models that answer without thinking, for demos and tests: nobody is degraded to one.
        self._scripted = frozenset[str]()
        self._asked_at = float("-inf")

    async def of(self, caller: Caller, models: Collection[str]) -> dict[str, Prices]:
        """See `ModelPrices.of`."""
        known = await self._all(caller.principal)
        return {model: known[model] for model in models if model in known}

    async def by_cost(self, caller: Caller) -> list[tuple[str, Prices]]:
        """See `ModelPrices.by_cost`."""
        known = await self._all(caller.principal)
        named = [(name, prices) for name, prices in known.items() if name != _DEFAULT and name not in self._scripted]
        return sorted(named, key=lambda one: (one[1].output, one[1].input, one[0]))

    async def _all(self, principal: Principal) -> dict[str, Prices]:
        now = self._clock.monotonic()
        if now - self._asked_at >= _REMEMBER_SECONDS:
            self._known = await self._fetch(principal)
            self._asked_at = now
        return self._known

    async def _fetch(self, principal: Principal) -> dict[str, Prices]:
        metadata = call_metadata(principal)
        with remote_errors():
            listed = await self._models.ListModels(
                model_service_pb2.ListModelsRequest(), timeout=_SECONDS, metadata=metadata
            )
        self._scripted = frozenset(model.name for model in listed.models if model.adapter == _STUB)
        rows = await self._prices(principal)
        found: dict[str, Prices] = {}
        for model in listed.models:
            if model.task != model_pb2.MODEL_TASK_GENERATE:
                continue
            price = priced(rows, model.adapter, model.model)
            if price is None:
                continue
            found[model.name] = Prices(input=price.input_nano_usd_per_million, output=price.output_nano_usd_per_million)
            if model.in_default_chain:
                found.setdefault(_DEFAULT, found[model.name])
        return found

    async def _prices(self, principal: Principal) -> dict[NameKey, cost_pb2.Price]:
        """Gives the prices of short prompts, by provider and model."""
        rows: dict[NameKey, cost_pb2.Price] = {}
        request = pricing_service_pb2.ListPricesRequest(page_size=_PAGE)
        for _ in range(_MOST_PAGES):
            with remote_errors():
                page = await self._pricing.ListPrices(request, timeout=_SECONDS, metadata=call_metadata(principal))
            for price in page.prices:
                if price.min_prompt_tokens == 0:
                    rows.update({name_key(price.provider, name): price for name in (price.model, *price.aliases)})
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return rows
