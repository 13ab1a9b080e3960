"""Looks for ways to spend less in a tenant's own history."""

from datetime import timedelta

from services.cost.domain.errors import PriceUnknown
from services.cost.domain.period import Period, start_of
from services.cost.domain.price import Price
from services.cost.domain.recommendation import MOST_DAYS, Recommendation, recommend
from services.cost.usecases.forecast_ports import SpendReader
from services.cost.usecases.prices import CurrentPrices
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId


class RecommendSavings:
    """Reads the calls of the last full days and prices them at what holds now."""

    def __init__(self, *, reader: SpendReader, prices: CurrentPrices, clock: Clock) -> None:
        self._reader = reader
        self._prices = prices
        self._clock = clock

    async def __call__(self, tenant: TenantId) -> list[Recommendation]:
        """Lists what could be done, the largest saving first."""
        now = self._clock.now()
        end = start_of(Period.DAY, "UTC", now)
        uses = await self._reader.uses(tenant, start=end - timedelta(days=MOST_DAYS), end=end)
        book = self._prices.book

        def price_of(provider: str, model: str) -> Price | None:
            try:
                return book.find(provider, model, at=now)
            except PriceUnknown:
                return None

        return recommend(uses, price_of, last_day=(end - timedelta(days=1)).date())
