"""The price table in memory: loaded at start, read again when it may have changed."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from services.cost.domain.price import Price, free_price
from services.cost.domain.price_book import PriceBook
from services.cost.domain.price_table import ShippedPrices
from services.cost.usecases.ports import PriceStore
from services.cost.usecases.rounds import make_round
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class CurrentPrices:
    """The book that calls are priced with. Prices pinned by a hold are found even if they came after the book."""

    def __init__(self, store: PriceStore, *, clock: Clock, refresh_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._refresh_seconds = refresh_seconds
        self._all: list[Price] = []
        self._book = PriceBook(())

    @property
    def book(self) -> PriceBook:
        """The prices as of the last refresh."""
        return self._book

    @property
    def known(self) -> Sequence[Price]:
        """All prices, past ones too, as of the last refresh."""
        return self._all

    def at(self, moment: datetime) -> list[Price]:
        """Lists the prices that hold at a moment, by provider and model."""
        held = [price for price in self._all if price.holds_at(moment)]
        return sorted(held, key=lambda price: (price.provider, price.model))

    async def refresh(self) -> None:
        """Reads the table again."""
        self._all = await self._store.all()
        self._book = PriceBook(self._all)

    async def ensure(self, digests: Iterable[bytes]) -> None:
        """Reads the table again if one of these prices is not in the book."""
        if not self.has(digests):
            await self.refresh()

    def has(self, digests: Iterable[bytes]) -> bool:
        """True when all of these prices are in the book."""
        return all(self._book.by_digest(digest) is not None for digest in digests)

    def pinned(self, digest: bytes) -> Price:
        """Gives the price that a hold was made with. Raises: Internal: it was deleted, which nobody may do."""
        price = self._book.by_digest(digest)
        if price is None:
            raise Internal("the price of a hold is missing from the price table", price=digest.hex())
        return price

    async def __call__(self) -> None:
        """Refreshes until cancelled, so that a price changed by another replica is seen; an outage only delays it."""
        while True:
            await self._clock.sleep(self._refresh_seconds)
            await make_round("prices", self.refresh, fault="prices are not refreshed")


async def import_prices(
    store: PriceStore, shipped: ShippedPrices, *, free_providers: Iterable[str], now: datetime
) -> int:
    """Brings the table up to the shipped prices and those of free providers; gives how many are new."""
    free = [free_price(name) for name in free_providers]
    added, edition = await store.replace_current(shipped, free, now=now)
    if edition > shipped.edition:
        log.info("the prices of a later release stay", edition=edition, shipped_edition=shipped.edition)
    if added:
        log.info("prices imported", added=added)
    return added
