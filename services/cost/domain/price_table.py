"""What becomes of the price table when a list comes, shipped with a release or imported. Nothing is ever deleted.

At any moment a name has at most one price, however it is written: neither list may break that.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from services.cost.domain.errors import PriceUnknown
from services.cost.domain.price import Price
from services.cost.domain.price_book import PriceBook
from services.meshkit.content.model_name import NameKey, name_key


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedPrices:
    """The price list that a release ships."""

    #: Grows by one with each list whose prices differ from those of the one before.
    edition: int
    prices: tuple[Price, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What a new price list changes in the table."""

    added: tuple[Price, ...]
    #: Ends of prices that are in the table, by digest; None: it holds still.
    ends: dict[bytes, datetime | None]

    def of(self, known: Iterable[Price]) -> list[Price]:
        """Gives the table as it becomes."""
        return [*(replace(one, end=self.ends.get(one.digest, one.end)) for one in known), *self.added]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """What a list changes about one model from one moment on."""

    #: The prices that its names had then, each once; empty: they had none.
    before: tuple[Price, ...]
    after: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Supersession:
    """What an imported list changes in the table."""

    renewal: Renewal
    changes: tuple[PriceChange, ...]
    #: Prices that the table had already.
    unchanged: int


def renewal(known: Sequence[Price], listed: Sequence[Price], *, now: datetime) -> Renewal:
    """Compares the table with what is shipped.

    A model that is new to the table is taken as listed, its past included, unless one of its names was another model's.
    For a known model the past stays as it is: a price that differs holds from now on. Models that are no longer listed
    keep their price, for holds may name it, but no name that another model has now. What an operator imported keeps its
    names and its prices.
    """
    imported = {key for price in known if price.imported and not price.void for key in price.keys}
    wanted = [_without(price, imported) for price in listed if price.key not in imported]
    owners = {key: price.key for price in _from(wanted, now) for key in price.keys}
    table = _by_model(known)
    added: list[Price] = []
    ends: dict[bytes, datetime | None] = {}
    for key, prices in _by_model(wanted).items():
        if before := table.get(key):
            _renew(before, prices, now, added, ends)
        else:
            others = [one for one in known if any(one.keys & price.keys and one.meets(price) for price in prices)]
            added += _from(prices, now) if others else prices
    for price in known:
        lost = {key for key in price.keys if owners.get(key, price.key) != price.key}
        end, moment = ends.get(price.digest, price.end), max(now, price.start)
        # A listed model may lose a name as well, where its own new price begins later than now.
        if lost and not price.imported and (end is None or end > moment):
            ends[price.digest] = moment
            if price.key not in lost:
                added.append(_without(replace(price, start=moment, end=end), lost))
    return _as_known(known, added, ends)


def supersession(known: Sequence[Price], listed: Sequence[Price]) -> Supersession:
    """Compares the table with a list that is right for its models from the first moment it names, past or future.

    Prices that it takes the place of end there; one that begins later ends as it begins: only its digest finds it.
    Harmless to repeat.
    """
    starts: dict[NameKey, datetime] = {}
    for price in listed:
        starts[price.key] = min(starts.get(price.key, price.start), price.start)
    ends = {
        price.digest: max(first, price.start)
        for price in known
        if (first := starts.get(price.key)) is not None and (price.end is None or price.end > first)
    }
    book = PriceBook(known)
    changes = [PriceChange(before=prices_before(book, price), after=price) for price in listed]
    fresh = tuple(one for one in changes if len(one.before) != 1 or not one.before[0].same_as(one.after))
    return Supersession(renewal=_as_known(known, listed, dict(ends)), changes=fresh, unchanged=len(listed) - len(fresh))


def prices_before(book: PriceBook, price: Price) -> tuple[Price, ...]:
    """Gives the prices that the names of a price have in a book at its start, each once, that of the model first."""
    found: dict[bytes, Price] = {}
    for name in (price.model, *price.aliases):
        try:
            before = book.find(price.provider, name, at=price.start)
        except PriceUnknown:
            continue
        found[before.digest] = before
    return tuple(found.values())


def overlaps(prices: Iterable[Price]) -> frozenset[NameKey]:
    """Gives the names that have two prices at some moment."""
    spans: dict[NameKey, list[tuple[datetime, datetime | None]]] = {}
    for price in prices:
        if not price.void:
            for key in price.keys:
                spans.setdefault(key, []).append((price.start, price.end))
    found: set[NameKey] = set()
    for key, intervals in spans.items():
        intervals.sort(key=lambda interval: interval[0])
        if any(end is None or end > start for (_, end), (start, _) in pairwise(intervals)):
            found.add(key)
    return frozenset(found)


def _by_model(prices: Iterable[Price]) -> dict[NameKey, list[Price]]:
    models: dict[NameKey, list[Price]] = {}
    for price in prices:
        models.setdefault(price.key, []).append(price)
    return models


def _renew(
    before: Sequence[Price],
    listed: Sequence[Price],
    now: datetime,
    added: list[Price],
    ends: dict[bytes, datetime | None],
) -> None:
    """Has a known model follow the list from now on. One that the list has only in the past keeps its price."""
    ahead = [price for price in before if not price.void and (price.end is None or price.end > now)]
    wanted = _from(listed, now)
    kept: set[bytes] = set()
    for price in wanted:
        same = next((one for one in ahead if one.same_as(price) and max(one.start, now) == price.start), None)
        if same is None:
            added.append(price)
            continue
        kept.add(same.digest)
        if same.end != price.end:
            ends[same.digest] = price.end
    if wanted:
        first = min(price.start for price in wanted)
        for price in ahead:
            if price.digest not in kept and (price.end is None or price.end > first):
                ends[price.digest] = max(first, price.start)


def _from(prices: Iterable[Price], now: datetime) -> list[Price]:
    """Leaves out what is over."""
    return [replace(one, start=max(one.start, now)) for one in prices if one.end is None or one.end > now]


def _without(price: Price, keys: Collection[NameKey]) -> Price:
    """Takes aliases off a price."""
    kept = tuple(name for name in price.aliases if name_key(price.provider, name) not in keys)
    return price if kept == price.aliases else replace(price, aliases=kept)


def _as_known(known: Iterable[Price], added: Iterable[Price], ends: dict[bytes, datetime | None]) -> Renewal:
    """Has prices come back that the table has already, and leaves out ends that stay."""
    table = {price.digest: price for price in known}
    for price in added:
        if price.digest in table:
            ends[price.digest] = price.end
    return Renewal(
        added=tuple(price for price in added if price.digest not in table),
        ends={digest: end for digest, end in ends.items() if table[digest].end != end},
    )
