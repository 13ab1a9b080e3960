"""Prices: integers of nano-USD per million tokens, by class, rounded up once per call."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from typing import Final

from services.meshkit.content import Usage
from services.meshkit.core.money import NanoUsd, price_of

#: Model name of a price that holds for every model of its provider, such as a local one.
ANY_MODEL: Final = "*"
#: Start of prices that hold since we know of them.
BEGINNING: Final = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-USD per million tokens of each class, each >= 0, in the order of the proto."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0
    image: int = 0

    def price(self, usage: Usage) -> NanoUsd:
        """Prices token counts."""
        return price_of(
            [
                (usage.input, self.input),
                (usage.cache_read, self.cache_read),
                (usage.cache_write_5m, self.cache_write_5m),
                (usage.cache_write_1h, self.cache_write_1h),
                (usage.output, self.output),
                (usage.reasoning, self.reasoning),
                (usage.audio_in, self.audio_in),
                (usage.audio_out, self.audio_out),
                (usage.image, self.image),
            ]
        )

    @property
    def dearest_prompt(self) -> int:
        """Highest rate that a token of the prompt can cost."""
        return max(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h, self.audio_in, self.image)

    @property
    def dearest_answer(self) -> int:
        """Highest rate that a token of the answer can cost."""
        return max(self.output, self.reasoning, self.audio_out)


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates of all tokens of a call whose prompt has at least so many tokens."""

    min_prompt_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one model costs during an interval."""

    provider: str
    #: Model as the provider names it, or `*`.
    model: str
    #: Other names of the same model.
    aliases: tuple[str, ...] = ()
    #: Ascending by prompt size; the first begins at 0.
    tiers: tuple[Tier, ...]
    start: datetime = BEGINNING
    #: None: it holds still.
    end: datetime | None = None
    source: str
    #: True when an operator gave it: shipped prices leave the model alone from then on.
    imported: bool = False
    #: SHA-256 of everything above but the end, which is learnt later, and of who gave it.
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        starts = [tier.min_prompt_tokens for tier in self.tiers]
        if starts[:1] != [0] or starts != sorted(set(starts)):
            raise ValueError(f"tiers of {self.model!r} must ascend from 0")
        if any(rate < 0 for tier in self.tiers for rate in astuple(tier.rates)):
            raise ValueError(f"a rate of {self.model!r} is negative")
        content = [
            self.provider,
            self.model,
            sorted(self.aliases),
            [[tier.min_prompt_tokens, *astuple(tier.rates)] for tier in self.tiers],
            self.start.isoformat(),
            self.source,
        ]
        object.__setattr__(self, "digest", sha256(json.dumps(content, separators=(",", ":")).encode()).digest())

    def charge(self, usage: Usage) -> NanoUsd:
        """Prices what a call used."""
        return self._tiers_up_to(usage)[-1].rates.price(usage)

    def bound(self, usage: Usage) -> NanoUsd:
        """Prices the most that a call can use.

        Prompt tokens count at the dearest class a prompt token can fall into, answer tokens likewise, in the dearest
        tier within reach. So no usage with as many or fewer prompt and answer tokens ever costs more, whatever its
        split into classes.
        """
        tiers = self._tiers_up_to(usage)
        return price_of(
            [
                (prompt_tokens(usage), max(tier.rates.dearest_prompt for tier in tiers)),
                (answer_tokens(usage), max(tier.rates.dearest_answer for tier in tiers)),
            ]
        )

    def holds_at(self, moment: datetime) -> bool:
        """Tells whether it is in force."""
        return self.start <= moment and (self.end is None or moment < self.end)

    def _tiers_up_to(self, usage: Usage) -> tuple[Tier, ...]:
        if len(self.tiers) == 1:
            return self.tiers
        size = prompt_tokens(usage)
        return tuple(tier for tier in self.tiers if tier.min_prompt_tokens <= size)


def prompt_tokens(usage: Usage) -> int:
    """Counts the tokens that went in."""
    return usage.input + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h + usage.audio_in + usage.image


def answer_tokens(usage: Usage) -> int:
    """Counts the tokens that came out."""
    return usage.output + usage.reasoning + usage.audio_out


def free_price(provider: str) -> Price:
    """Makes the price of a provider that charges nothing, such as a model on this machine."""
    return Price(provider=provider, model=ANY_MODEL, tiers=(Tier(0, Rates()),), source="free by settings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What a new price list changes in the table. Nothing is ever deleted."""

    added: tuple[Price, ...]
    #: Ends of prices that are in the table, by digest; None: it holds still.
    ends: dict[bytes, datetime | None]


def renewal(known: Sequence[Price], listed: Sequence[Price], *, now: datetime) -> Renewal:
    """Compares the table with a new list of prices.

    A model that is new to the table is taken as listed, its past included. For a known model the past stays as it is: a
    price that differs holds from now on. Models that are no longer listed keep their price, for holds may name it, and
    models whose price an operator imported keep that.
    """
    table: dict[tuple[str, str], list[Price]] = {}
    for price in known:
        table.setdefault((price.provider, price.model), []).append(price)
    added: list[Price] = []
    ends: dict[bytes, datetime | None] = {}
    for price in listed:
        before = table.get((price.provider, price.model))
        if before is None:
            added.append(price)
        elif (price.end is None or price.end > now) and not any(one.imported for one in before):
            _renew(before, price, now, added, ends)
    return Renewal(added=tuple(added), ends=ends)


def _renew(
    before: list[Price], listed: Price, now: datetime, added: list[Price], ends: dict[bytes, datetime | None]
) -> None:
    start = max(listed.start, now)
    current = next((price for price in before if price.holds_at(start)), None)
    if current is not None and (current.tiers, set(current.aliases)) == (listed.tiers, set(listed.aliases)):
        if listed.end is not None and listed.end != current.end:
            ends[current.digest] = listed.end
        return
    if current is not None:
        ends[current.digest] = start
    added.append(replace(listed, start=start))


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """What a list changes about one model from one moment on."""

    #: The price that held then; None: there was none.
    before: Price | None
    after: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Supersession:
    """What an imported list changes in the table. Nothing is ever deleted."""

    renewal: Renewal
    changes: tuple[PriceChange, ...]
    #: Prices that the table had already.
    unchanged: int


def supersession(known: Sequence[Price], listed: Sequence[Price]) -> Supersession:
    """Compares the table with a list that is right for its models from the first moment it names, past or future.

    Prices that it takes the place of end there; one that begins later ends as it begins: only its digest finds it.
    Harmless to repeat.
    """
    table = {price.digest: price for price in known}
    starts: dict[tuple[str, str], datetime] = {}
    for price in listed:
        name = (price.provider, price.model)
        starts[name] = min(starts.get(name, price.start), price.start)
    wanted = {price.digest: price.end for price in listed}
    ends: dict[bytes, datetime | None] = {}
    for price in known:
        first = starts.get((price.provider, price.model))
        if first is None or (price.end is not None and price.end <= first and price.digest not in wanted):
            continue
        end = wanted[price.digest] if price.digest in wanted else max(first, price.start)
        if end != price.end:
            ends[price.digest] = end
    changes = tuple(
        PriceChange(before=before, after=price)
        for price in listed
        if (before := _holding(known, price)) is None or (before.tiers, before.aliases) != (price.tiers, price.aliases)
    )
    added = tuple(price for price in listed if price.digest not in table)
    return Supersession(renewal=Renewal(added=added, ends=ends), changes=changes, unchanged=len(listed) - len(changes))


def _holding(known: Sequence[Price], price: Price) -> Price | None:
    named = (one for one in known if (one.provider, one.model) == (price.provider, price.model))
    return next((one for one in named if one.holds_at(price.start)), None)


def without_overlap(prices: Iterable[Price]) -> bool:
    """Tells whether at any moment each name has at most one price."""
    spans: dict[tuple[str, str], list[tuple[datetime, datetime | None]]] = {}
    for price in prices:
        for name in {price.model, *price.aliases}:
            spans.setdefault((price.provider, name), []).append((price.start, price.end))
    for intervals in spans.values():
        intervals.sort(key=lambda interval: interval[0])
        for (_, end), (start, _) in pairwise(intervals):
            if end is None or end > start:
                return False
    return True
