"""Prices: integers of nano-USD per million tokens, by class, rounded up once per call."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from services.meshkit.content import Usage
from services.meshkit.content.model_name import ANY_MODEL, NameKey, name_key
from services.meshkit.core.money import NanoUsd, price_of

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

    @property
    def each(self) -> tuple[int, ...]:
        """All of them, in this order."""
        return (
            self.input,
            self.cache_read,
            self.cache_write_5m,
            self.cache_write_1h,
            self.output,
            self.reasoning,
            self.audio_in,
            self.audio_out,
            self.image,
        )

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
        if any(rate < 0 for tier in self.tiers for rate in tier.rates.each):
            raise ValueError(f"a rate of {self.model!r} is negative")
        content = [
            self.provider,
            self.model,
            sorted(self.aliases),
            [[tier.min_prompt_tokens, *tier.rates.each] for tier in self.tiers],
            self.start.isoformat(),
            self.source,
        ]
        object.__setattr__(self, "digest", sha256(json.dumps(content, separators=(",", ":")).encode()).digest())

    @property
    def key(self) -> NameKey:
        """What the model's own name is compared by."""
        return name_key(self.provider, self.model)

    @property
    def keys(self) -> frozenset[NameKey]:
        """What all of its names are compared by."""
        return frozenset(name_key(self.provider, name) for name in (self.model, *self.aliases))

    @property
    def void(self) -> bool:
        """True when it ended as it began: only its digest finds it."""
        return self.end is not None and self.end <= self.start

    def same_as(self, other: "Price") -> bool:
        """True when it says the same of the same model, whenever it holds."""
        return (self.key, self.keys, self.tiers) == (other.key, other.keys, other.tiers)

    def meets(self, other: "Price") -> bool:
        """True when both hold at some moment."""
        return (
            not self.void
            and not other.void
            and (self.end is None or other.start < self.end)
            and (other.end is None or self.start < other.end)
        )

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
