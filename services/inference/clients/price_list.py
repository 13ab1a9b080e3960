"""Asks cost what models cost."""

from collections.abc import Sequence
from typing import Final

from comitia.cost.v1 import pricing_service_pb2, pricing_service_pb2_grpc
from services.inference.domain.cheaper import TokenRates
from services.inference.domain.deployment import DeploymentVersion
from services.meshkit.content.model_name import NameKey, name_key, priced
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors

#: Prices change by the day; the page of a list is asked for again after this long.
_REMEMBER_SECONDS: Final = 60.0
_PAGE: Final = 500
_MOST_PAGES: Final = 10
#: Providers that are remembered; the one asked longest ago goes first.
_MOST_PROVIDERS: Final = 256


class CostPriceList:
    """Remembers for a minute what the models of each provider cost. A `PriceList`."""

    def __init__(self, pricing: "pricing_service_pb2_grpc.PricingServiceAsyncStub", *, clock: Clock) -> None:
        self._pricing = pricing
        self._clock = clock
        #: By provider; tenants name some of them, so there are at most `_MOST_PROVIDERS`.
        self._models: dict[str, tuple[float, dict[NameKey, TokenRates]]] = {}

    async def priced(self, principal: Principal, deployments: Sequence[DeploymentVersion]) -> frozenset[str]:
        """See `PriceList.priced`."""
        return frozenset(await self.rates(principal, deployments))

    async def rates(self, principal: Principal, deployments: Sequence[DeploymentVersion]) -> dict[str, TokenRates]:
        """See `PriceList.rates`."""
        found: dict[str, TokenRates] = {}
        for deployment in deployments:
            models = await self._models_of(principal, deployment.payee)
            rates = priced(models, deployment.payee, deployment.model)
            if rates is not None:
                found[deployment.full_name] = rates
        return found

    async def has_own(self, principal: Principal, provider: str, model: str) -> bool:
        """See `BatchPrices.has_own`."""
        return name_key(provider, model) in await self._models_of(principal, provider)

    async def _models_of(self, principal: Principal, provider: str) -> dict[NameKey, TokenRates]:
        asked_at, models = self._models.get(provider, (0.0, dict[NameKey, TokenRates]()))
        now = self._clock.monotonic()
        if provider in self._models and now - asked_at < _REMEMBER_SECONDS:
            return models
        models = await self._fetch(principal, provider)
        self._models.pop(provider, None)
        if len(self._models) >= _MOST_PROVIDERS:
            del self._models[next(iter(self._models))]
        self._models[provider] = (now, models)
        return models

    async def _fetch(self, principal: Principal, provider: str) -> dict[NameKey, TokenRates]:
        models: dict[NameKey, TokenRates] = {}
        request = pricing_service_pb2.ListPricesRequest(page_size=_PAGE, provider=provider)
        for _ in range(_MOST_PAGES):
            with remote_errors():
                page = await self._pricing.ListPrices(request, metadata=call_metadata(principal))
            # Where long prompts cost more, a model has several; that of short ones, which comes first, is compared.
            for price in page.prices:
                rates = TokenRates(input=price.input_nano_usd_per_million, output=price.output_nano_usd_per_million)
                for name in (price.model, *price.aliases):
                    models.setdefault(name_key(price.provider, name), rates)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return models
