"""Finds the price of a model by the names that callers use."""

from collections.abc import Iterable
from datetime import datetime
from itertools import zip_longest

from services.cost.domain.errors import PriceUnknown
from services.cost.domain.price import Price
from services.cost.domain.rollup import Span
from services.meshkit.content.model_name import NameKey, price_keys


class PriceBook:
    """All prices, by name and by digest. Immutable: a new table is a new book."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._by_name: dict[NameKey, list[Price]] = {}
        self._by_digest: dict[bytes, Price] = {}
        for price in prices:
            self._by_digest[price.digest] = price
            for key in price.keys:
                self._by_name.setdefault(key, []).append(price)

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, provider: str, model: str, *, at: datetime) -> Price:
        """Finds the price that holds at a moment, by the rule of `model_name`.

        Raises: PriceUnknown: never a guess.
        """
        price = self._holding(provider, model, at)
        if price is None:
            raise PriceUnknown(provider, model)
        return price

    def differs(self, digest: bytes | None, provider: str, model: str) -> list[Span]:
        """Tells when calls of a model have another price than this, or one at all; never while it is unknown."""
        named = [price for key in price_keys(provider, model) for price in self._by_name.get(key, ())]
        moments = sorted({moment for price in named for moment in (price.start, price.end) if moment is not None})
        spans: list[Span] = []
        for start, end in zip_longest(moments, moments[1:]):
            held = self._holding(provider, model, start)
            if held is not None and held.digest != digest:
                spans.append(Span(start, end))
        return spans

    def by_digest(self, digest: bytes) -> Price | None:
        """Gives the price that a hold was made with, None if this book is older than the hold."""
        return self._by_digest.get(digest)

    def _holding(self, provider: str, model: str, at: datetime) -> Price | None:
        for key in price_keys(provider, model):
            price = self._named(key, at)
            if price is not None:
                return price
        return None

    def _named(self, key: NameKey, at: datetime) -> Price | None:
        held = [price for price in self._by_name.get(key, ()) if price.holds_at(at)]
        if len(held) < 2:
            return held[0] if held else None
        # Should two models share an alias, the model of that very name is meant, else the newest.
        return max(held, key=lambda price: (price.key == key, price.start))
