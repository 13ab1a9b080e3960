"""Finds the price of a model by the names that callers use."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from services.cost.domain.errors import PriceUnknown
from services.cost.domain.price import ANY_MODEL, Price

#: A release date or `latest` at the end of a model's name.
_RELEASE: Final = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$")


class PriceBook:
    """All prices, by name and by digest. Immutable: a new table is a new book."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._by_name: dict[tuple[str, str], list[Price]] = {}
        self._by_digest: dict[bytes, Price] = {}
        for price in prices:
            self._by_digest[price.digest] = price
            for name in {price.model, *price.aliases}:
                self._by_name.setdefault((price.provider, name.lower()), []).append(price)

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, provider: str, model: str, *, at: datetime) -> Price:
        """Finds the price that holds at a moment.

        The exact name comes first, since a dated release may cost something else than its family; then the name without
        its date; then a price for all models of the provider.
        Raises: PriceUnknown: never a guess.
        """
        name = model.lower()
        price = (
            self._named(provider, name, at)
            or self._named(provider, _RELEASE.sub("", name), at)
            or self._named(provider, ANY_MODEL, at)
        )
        if price is None:
            raise PriceUnknown(provider, model)
        return price

    def _named(self, provider: str, name: str, at: datetime) -> Price | None:
        held = [price for price in self._by_name.get((provider, name), ()) if price.holds_at(at)]
        if len(held) < 2:
            return held[0] if held else None
        # Two models may share an alias after a rename: the model of that very name, else the newest, is meant.
        return max(held, key=lambda price: (price.model.lower() == name, price.start))

    def by_digest(self, digest: bytes) -> Price | None:
        """Gives the price that a hold was made with, None if this book is older than the hold."""
        return self._by_digest.get(digest)
