"""Price lists that operators import, as a whole: no overlap, no gap, no name of somebody else, no other unit."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from services.cost.domain.errors import PriceListWrong
from services.cost.domain.price import Price
from services.cost.domain.price_book import PriceBook
from services.cost.domain.price_rows import RATE, Fault, ListFormat, Row, read_rows
from services.cost.domain.price_table import prices_before, supersession
from services.meshkit.content.model_name import NameKey, name_key

#: Line of each price of a list, by its model and start.
Lines = Mapping[tuple[NameKey, datetime], int]

_MOST_FAULTS: Final = 50
#: A price that moves further than that was given per token, or per thousand.
_FURTHEST: Final = 200


def read_list(
    content: str,
    form: ListFormat,
    *,
    source: str,
    known: Sequence[Price],
    now: datetime,
    unit_confirmed: bool = False,
) -> list[Price]:
    """Reads a list and checks all of it.

    Args:
        source: where the prices come from; part of each one's digest.
        known: the price table. Models that the list leaves out keep their names, and a price that is absurdly far from
            what is shipped for a name, or else from what the name costs, is refused.
        unit_confirmed: True where the operator says that such a price is right.
    Raises: PriceListWrong: with every fault, the first 50 of them.
    """
    faults: list[Fault] = []
    rows = read_rows(content, form, faults, now=now)
    prices = _prices(rows, source, faults)
    lines = {(row.key, row.start): row.line for row in rows}
    _check_names(prices, lines, faults)
    _check_owners(prices, lines, known, faults)
    if not unit_confirmed:
        _check_moves(prices, lines, known, faults)
    if not rows and not faults:
        faults.append(Fault(0, "content", "holds no prices"))
    if faults:
        raise PriceListWrong([str(fault) for fault in sorted(faults)[:_MOST_FAULTS]], count=len(faults))
    return prices


def _prices(rows: Sequence[Row], source: str, faults: list[Fault]) -> list[Price]:
    """Puts tiers together, and looks for what overlaps and what leaves a gap."""
    tiers: dict[tuple[NameKey, datetime], list[Row]] = {}
    for row in rows:
        tiers.setdefault((row.key, row.start), []).append(row)
    spans: dict[NameKey, list[list[Row]]] = {}
    for (key, _), together in sorted(tiers.items()):
        spans.setdefault(key, []).append(sorted(together, key=lambda row: row.tier.min_prompt_tokens))
    made: list[Price] = []
    for steps in spans.values():
        if _fit_together(steps, faults):
            made += [_price(together, source) for together in steps]
    return made


def _fit_together(steps: Sequence[Sequence[Row]], faults: list[Fault]) -> bool:
    before = len(faults)
    for together in steps:
        first = together[0]
        if first.tier.min_prompt_tokens != 0:
            faults.append(Fault(first.line, "min_prompt_tokens", "must be 0 in one row of each price"))
        for one, other in pairwise(together):
            if one.tier.min_prompt_tokens == other.tier.min_prompt_tokens:
                faults.append(Fault(other.line, "min_prompt_tokens", f"is that of line {one.line}: the prices overlap"))
            if (one.end, one.aliases) != (other.end, other.aliases):
                faults.append(
                    Fault(other.line, "end_time", f"must be that of line {one.line}, and so must the aliases")
                )
    for earlier, later in pairwise(steps):
        end, start = earlier[0].end, later[0].start
        if end is None or end > start:
            faults.append(
                Fault(later[0].line, "start_time", f"lies within the price of line {earlier[0].line}: they overlap")
            )
        elif end < start:
            sentence = f"leaves a gap after the price of line {earlier[0].line}, which ends {end.isoformat()}"
            faults.append(Fault(later[0].line, "start_time", sentence))
    return len(faults) == before


def _price(rows: Sequence[Row], source: str) -> Price:
    first = rows[0]
    return Price(
        provider=first.provider,
        model=first.model,
        aliases=first.aliases,
        tiers=tuple(row.tier for row in rows),
        start=first.start,
        end=first.end,
        source=source,
        imported=True,
    )


def _check_names(prices: Sequence[Price], lines: Lines, faults: list[Fault]) -> None:
    """No name may mean two models of the list."""
    owners: dict[NameKey, Price] = {}
    for price in prices:
        for name in (price.model, *price.aliases):
            owner = owners.setdefault(name_key(price.provider, name), price)
            if owner.key != price.key:
                sentence = f"{name!r} is a name of {owner.model!r} too: the prices overlap"
                faults.append(Fault(lines[price.key, price.start], "aliases", sentence))


def _check_owners(prices: Sequence[Price], lines: Lines, known: Sequence[Price], faults: list[Fault]) -> None:
    """No name may be taken from a model that the list leaves out."""
    listed = {price.digest for price in prices}
    table = supersession(known, prices).renewal.of(known)
    holders: dict[NameKey, list[Price]] = {}
    for price in table:
        if price.digest not in listed:
            for key in price.keys:
                holders.setdefault(key, []).append(price)
    for price in prices:
        for name in (price.model, *price.aliases):
            owner = next(
                (one for one in holders.get(name_key(price.provider, name), ()) if one.meets(price)),
                None,
            )
            if owner is not None:
                field = "model" if name == price.model else "aliases"
                sentence = (
                    f"{name!r} is a name of {owner.model!r}, which costs something else then: list that one too, from"
                    f" {price.start:%Y-%m-%d} on and without the name"
                )
                faults.append(Fault(lines[price.key, price.start], field, sentence))


def _check_moves(prices: Sequence[Price], lines: Lines, known: Sequence[Price], faults: list[Fault]) -> None:
    """A price that jumps was given in another unit. What was imported may be what is wrong: shipped ones tell."""
    book = PriceBook(known)
    shipped: dict[NameKey, Price] = {}
    for one in sorted(known, key=lambda one: one.start):
        shipped |= {} if one.imported else dict.fromkeys(one.keys, one)
    for price in prices:
        told = {one.digest: one for key in price.keys if (one := shipped.get(key)) is not None}
        for before in told.values() or prices_before(book, price):
            for name in ("input", "output"):
                old, new = (int(getattr(one.tiers[0].rates, name)) for one in (before, price))
                if old and new and not old <= new * _FURTHEST <= old * _FURTHEST**2:
                    sentence = (
                        f"is more than {_FURTHEST} times off the price that {before.model!r} has: is it dollars per"
                        " million tokens? If so, say confirm_unit (--confirm-unit)"
                    )
                    faults.append(Fault(lines[price.key, price.start], f"{name}{RATE}", sentence))
