"""Ways to spend less, each with what it would have saved on the tenant's own calls.

A saving is computed for each day of the past and stated per 30 days: the mean, and an interval that nine in ten
resamplings of those days lie in. It says how the days differ, not whether the assumption holds, which stands beside it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import IntEnum
from functools import lru_cache
from operator import itemgetter
from random import Random
from typing import Final

from services.cost.domain.hold import CostKind
from services.cost.domain.price import Price, Rates, prompt_tokens
from services.cost.domain.use_history import DailyUse, Use
from services.meshkit.core.money import NanoUsd

#: Days that are looked back on.
MOST_DAYS: Final = 30
#: With fewer, a month cannot be told from a whim.
LEAST_DAYS: Final = 7
_LEAST_CALLS: Final = 50
#: Less per month, nano-USD, is not worth anybody's time: 10 cents.
_LEAST_SAVING: Final = 100_000_000
_MONTH: Final = 30
_DRAWS: Final = 400
_LOW, _HIGH = 0.05, 0.95
_SEED: Final = 7
_MILLION: Final = 1_000_000
#: What providers cache begins at so many tokens.
_LEAST_CACHED: Final = 1024
#: At most so many percent of prompt tokens come from a cache where caching is advised.
_MOST_CACHED_PERCENT: Final = 10
#: Another model is advised from so many percent on.
_LEAST_CHEAPER_PERCENT: Final = 10
#: What a provider's batch class takes off the price of embeddings that may wait for a day, percent. Who is missing has
#: none, or shows none on pages of its own, and is not advised. Source: "50% cost discount compared to synchronous
#: APIs", for embeddings as well, https://developers.openai.com/api/docs/guides/batch, read in November 2026.
BATCH_DISCOUNTS: Final = {"openai": 50}


class Advice(IntEnum):
    """What could be done."""

    CHEAPER_MODEL = 1
    PROMPT_CACHING = 2
    PROMPT_TRIMMING = 3
    BATCH_CLASS = 4


@dataclass(frozen=True, slots=True)
class Saving:
    """What it saves in 30 days, nano-USD."""

    expected: NanoUsd
    low: NanoUsd
    high: NanoUsd


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """One way to spend less."""

    advice: Advice
    provider: str
    model: str
    #: Empty for calls that name no agent.
    agent: str
    #: The model to take instead, for `CHEAPER_MODEL`.
    other_provider: str = ""
    other_model: str = ""
    saving: Saving
    #: Calls that it rests on, and the days that they were made on.
    calls: int
    first_day: date
    last_day: date
    #: What must hold for it to be right.
    assumption: str


#: Gives the price of a model that holds now, None if nobody told us.
FindPrice = Callable[[str, str], Price | None]


def recommend(uses: Sequence[Use], find: FindPrice, *, last_day: date) -> list[Recommendation]:
    """Lists ways to spend less, the largest saving first.

    Args:
        last_day: the last full day that the uses tell of.
    """
    first = min((day.day for use in uses for day in use.days), default=last_day)
    days = [first + timedelta(days=number) for number in range((last_day - first).days + 1)]
    if len(days) < LEAST_DAYS:
        return []
    found = [
        one
        for use in uses
        if use.calls >= _LEAST_CALLS
        for one in _advised(use, uses, find, days)
        if one.saving.expected >= _LEAST_SAVING and one.saving.low > 0
    ]
    return sorted(found, key=place_of)


def place_of(one: Recommendation) -> tuple[int, int, str, str, str]:
    """Gives where it stands in the list; no two stand at the same place."""
    return (-one.saving.expected, int(one.advice), one.provider, one.model, one.agent)


def _advised(use: Use, uses: Sequence[Use], find: FindPrice, days: Sequence[date]) -> Iterator[Recommendation]:
    price = find(use.provider, use.model)
    if price is None:
        return
    rates = _usual_rates(price, use)
    if use.kind is CostKind.GENERATE:
        yield from _cheaper(use, rates, uses, find, days)
        yield from _cached(use, rates, days)
        yield from _trimmed(use, rates, days)
    elif use.kind is CostKind.EMBED:
        yield from _batched(use, days)


def _cheaper(
    use: Use, rates: Rates, uses: Iterable[Use], find: FindPrice, days: Sequence[date]
) -> Iterator[Recommendation]:
    """Advises the cheapest of the other models that the tenant uses itself."""
    best: tuple[int, str, str, Rates] | None = None
    here = rates.price(use.usage)
    for provider, model in sorted({(one.provider, one.model) for one in uses if one.kind is use.kind}):
        other = find(provider, model)
        if other is None or (provider, model) == (use.provider, use.model):
            continue
        there = _usual_rates(other, use)
        cost = there.price(use.usage)
        # Models of this machine charge nothing here, and are not free.
        if cost and cost * 100 <= here * (100 - _LEAST_CHEAPER_PERCENT) and (best is None or cost < best[0]):
            best = (cost, provider, model, there)
    if best is None:
        return
    _, provider, model, there = best
    yield _recommendation(
        Advice.CHEAPER_MODEL,
        use,
        days,
        lambda day: rates.price(day.usage) - there.price(day.usage),
        assumption=f"quality unknown: nobody has measured whether {model} answers this agent's calls as well; it is"
        " compared at today's prices, as if it needed as many tokens",
        other=(provider, model),
    )


def _cached(use: Use, rates: Rates, days: Sequence[date]) -> Iterator[Recommendation]:
    """Advises to mark the begin of prompts for the provider's cache."""
    usage = use.usage
    gain = rates.input - rates.cache_read
    if use.short_prompt_tokens < _LEAST_CACHED or rates.cache_read == 0 or gain <= 0:
        return
    if usage.cache_read * 100 > prompt_tokens(usage) * _MOST_CACHED_PERCENT:
        return
    shared = use.short_prompt_tokens // 2
    extra = max(0, rates.cache_write_5m - rates.input)

    def saved(day: DailyUse) -> int:
        return shared * (day.warm_calls * gain - (day.calls - day.warm_calls) * extra) // _MILLION

    yield _recommendation(
        Advice.PROMPT_CACHING,
        use,
        days,
        saved,
        assumption=f"the first {shared} tokens, half of a short prompt of this agent, are the same in all its calls,"
        " and stay cached for five minutes",
    )


def _trimmed(use: Use, rates: Rates, days: Sequence[date]) -> Iterator[Recommendation]:
    """Advises to shorten the prompts that are far longer than is usual."""
    if not any(day.long_tokens for day in use.days):
        return
    calls = sum(day.long_calls for day in use.days)
    yield _recommendation(
        Advice.PROMPT_TRIMMING,
        use,
        days,
        lambda day: day.long_tokens * rates.input // _MILLION,
        assumption=f"{calls} prompts, over three times as long as is usual for this agent with answers that are no"
        " longer, can do with twice the usual length",
    )


def _batched(use: Use, days: Sequence[date]) -> Iterator[Recommendation]:
    """Advises the provider's batch class for calls that nobody waits for."""
    discount = BATCH_DISCOUNTS.get(use.provider)
    if discount is None:
        return
    yield _recommendation(
        Advice.BATCH_CLASS,
        use,
        days,
        lambda day: day.cost * discount // 100,
        assumption=f"these embeddings may come up to a day later, in the provider's batch class at {discount} % off",
    )


def _recommendation(
    advice: Advice,
    use: Use,
    days: Sequence[date],
    saved: Callable[[DailyUse], int],
    *,
    assumption: str,
    other: tuple[str, str] = ("", ""),
) -> Recommendation:
    by_day = {day.day: saved(day) for day in use.days}
    return Recommendation(
        advice=advice,
        provider=use.provider,
        model=use.model,
        agent=use.agent,
        other_provider=other[0],
        other_model=other[1],
        saving=_monthly([by_day.get(day, 0) for day in days]),
        calls=use.calls,
        first_day=days[0],
        last_day=days[-1],
        assumption=assumption,
    )


def _monthly(by_day: Sequence[int]) -> Saving:
    drawn = sorted(sum(draw(by_day)) for draw in _draws(len(by_day)))

    def month(amount: int) -> NanoUsd:
        return NanoUsd(amount * _MONTH // len(by_day))

    return Saving(month(sum(by_day)), month(drawn[int(_LOW * _DRAWS)]), month(drawn[int(_HIGH * _DRAWS)]))


@lru_cache(maxsize=MOST_DAYS)
def _draws(days: int) -> tuple[Callable[[Sequence[int]], tuple[int, ...]], ...]:
    """Gives resamplings of so many days, at least two: the same for all savings, so they are drawn once."""
    dice = Random(_SEED)
    return tuple(itemgetter(*dice.choices(range(days), k=days)) for _ in range(_DRAWS))


def _usual_rates(price: Price, use: Use) -> Rates:
    """Gives the rates of the tier that a prompt of mean length falls into."""
    size = prompt_tokens(use.usage) // max(1, use.calls)
    return [tier for tier in price.tiers if tier.min_prompt_tokens <= size][-1].rates
