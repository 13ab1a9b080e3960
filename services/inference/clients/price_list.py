"""Asks cost which models have a price."""

import re
from collections.abc import Sequence
from typing import Final

from comitia.cost.v1 import cost_service_pb2, cost_service_pb2_grpc
from services.inference.domain.deployment import Deployment
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors

#: Prices change by the day; the page of a list is asked for again after this long.
_REMEMBER_SECONDS: Final = 60.0
_PAGE: Final = 500
_MOST_PAGES: Final = 10
_RELEASE: Final = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$")
_ANY_MODEL: Final = "*"


class CostPriceList:
    """Remembers for a minute which models of which provider are priced. A `PriceList`."""

    def __init__(self, pricing: "cost_service_pb2_grpc.PricingServiceAsyncStub", *, clock: Clock) -> None:
        self._pricing = pricing
        self._clock = clock
        #: By provider, and so bounded by the adapters there are.
        self._models: dict[str, tuple[float, frozenset[str]]] = {}

    async def priced(self, principal: Principal, deployments: Sequence[Deployment]) -> frozenset[str]:
        """See `PriceList.priced`."""
        names: set[str] = set()
        for deployment in deployments:
            models = await self._models_of(principal, deployment.adapter)
            model = deployment.model.lower()
            if models & {model, _RELEASE.sub("", model), _ANY_MODEL}:
                names.add(deployment.name)
        return frozenset(names)

    async def _models_of(self, principal: Principal, provider: str) -> frozenset[str]:
        asked_at, models = self._models.get(provider, (0.0, frozenset[str]()))
        now = self._clock.monotonic()
        if provider in self._models and now - asked_at < _REMEMBER_SECONDS:
            return models
        models = frozenset(await self._fetch(principal, provider))
        self._models[provider] = (now, models)
        return models

    async def _fetch(self, principal: Principal, provider: str) -> set[str]:
        models: set[str] = set()
        request = cost_service_pb2.ListPricesRequest(page_size=_PAGE, provider=provider)
        for _ in range(_MOST_PAGES):
            with remote_errors():
                page = await self._pricing.ListPrices(request, metadata=call_metadata(principal))
            models.update(price.model.lower() for price in page.prices)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return models
