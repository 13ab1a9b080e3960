"""Makes `snapshot.json` from the prices that the `genai-prices` package ships.

    python -m services.cost.prices.convert

Only prices per token are taken, as integers of nano-USD per million tokens. A class without a price of its own costs
what the class costs that providers bill it as: cached and other prompt tokens as input, reasoning and audio as output.
Models that are billed by the hour, page or character are left out: nothing can be held for them. So are models with a
price for a class that usage does not have, such as cached audio, and models that hear or speak without a price for it:
their calls would be charged too little.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Provider, StartDateConstraint, TieredPrices

from services.cost.domain.price import BEGINNING, Price, Rates, Tier
from services.cost.domain.price_table import overlaps
from services.meshkit.core.money import NANO_PER_USD

SNAPSHOT: Final = Path(__file__).with_name("snapshot.json")
#: Providers whose prices are shipped.
PROVIDERS: Final = ("anthropic", "cohere", "groq", "mistral", "openai", "x-ai")
_UNBOUNDED_UNITS: Final = ("audio_hours", "input_audio_hours", "input_mchars", "input_document_kpages")
#: Prices of classes that usage has.
_KNOWN_CLASSES: Final = frozenset(
    {
        "input_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "cache_write_1h_mtok",
        "output_mtok",
        "output_reasoning_mtok",
        "input_audio_mtok",
        "output_audio_mtok",
        "input_image_mtok",
    }
)


def main() -> None:
    """Writes the file anew."""
    prices = [price for provider in get_snapshot().providers for price in _prices_of(provider)]
    if names := overlaps(prices):
        raise SystemExit(f"the snapshot has two prices for {sorted(names)}; nothing was written")
    prices.sort(key=lambda price: (price.provider, price.model, price.start))
    rows = [_to_json(price) for price in prices]
    header = {
        "edition": next_edition(json.loads(SNAPSHOT.read_text()), rows),
        "source": f"genai-prices {version('genai-prices')}",
        "classes": [item.name for item in fields(Rates)],
    }
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    SNAPSHOT.write_text(f'{json.dumps(header)[:-1]}, "prices": [\n{lines}\n]}}\n')


def next_edition(last: Mapping[str, Any], rows: Sequence[Mapping[str, object]]) -> int:
    """Numbers a list: one more than the last, or the same if it has the same prices.

    Where replicas of several releases start, the highest number is imported and the others are left out.
    """
    same = [row["digest"] for row in rows] == [row["digest"] for row in last["prices"]]
    return int(last["edition"]) + (not same)


def _prices_of(provider: Provider) -> Iterator[Price]:
    if provider.id not in PROVIDERS:
        return
    for model in provider.models:
        intervals = _intervals(model)
        names = _names(provider, model)
        for index, (start, prices) in enumerate(intervals):
            tiers = _tiers(prices, embeds="embed" in model.id, hears="audio" in model.id)
            if tiers is not None:
                yield Price(
                    provider=provider.id,
                    model=model.id,
                    aliases=names,
                    tiers=tiers,
                    start=start,
                    end=intervals[index + 1][0] if index + 1 < len(intervals) else None,
                    source=f"genai-prices {version('genai-prices')}",
                )


def _intervals(model: ModelInfo) -> list[tuple[datetime, ModelPrice]]:
    """Lists the prices of a model by the moment each begins; none where a price depends on the hour of the day."""
    if not isinstance(model.prices, list):
        return [(BEGINNING, model.prices)]
    found: dict[datetime, ModelPrice] = {}
    for conditional in model.prices:
        start = _start(conditional)
        if start is None:
            return []
        found[start] = conditional.prices
    return sorted(found.items(), key=lambda pair: pair[0])


def _start(conditional: ConditionalPrice) -> datetime | None:
    if conditional.constraint is None:
        return BEGINNING
    if isinstance(conditional.constraint, StartDateConstraint):
        return datetime.combine(conditional.constraint.start_date, time(), UTC)
    return None


def _names(provider: Provider, model: ModelInfo) -> tuple[str, ...]:
    """Lists the names under which the package finds the model: whole names, and the stems of its prefixes."""
    wanted = {text.rstrip("-@.") for text in _literals(model.match)} - {model.id}
    return tuple(sorted(name for name in wanted if _found(provider, name) == model.id))


def _found(provider: Provider, name: str) -> str | None:
    found = provider.find_model(name, all_providers=[])
    return None if found is None else found.id


def _literals(clause: Any) -> Iterator[str]:
    """Walks a matching rule, whose classes the package does not share a base for."""
    for part in getattr(clause, "or_", ()):
        yield from _literals(part)
    for kind in ("equals", "starts_with"):
        text = getattr(clause, kind, None)
        if isinstance(text, str):
            yield text


def _tiers(prices: ModelPrice, *, embeds: bool, hears: bool) -> tuple[Tier, ...] | None:
    if prices.input_mtok is None or (prices.output_mtok is None and not embeds):
        return None
    if not _KNOWN_CLASSES.issuperset(_per_million(prices)) or (hears and prices.input_audio_mtok is None):
        return None
    if any(getattr(prices, unit, None) is not None for unit in _UNBOUNDED_UNITS):
        return None
    starts = {0}
    for name in _per_million(prices):
        value = getattr(prices, name)
        if isinstance(value, TieredPrices):
            starts |= {tier.start + 1 for tier in value.tiers}
    return tuple(Tier(start, _rates(prices, start)) for start in sorted(starts))


def _per_million(prices: ModelPrice) -> Iterable[str]:
    return [name for name, value in vars(prices).items() if name.endswith("_mtok") and value is not None]


def _rates(prices: ModelPrice, prompt_tokens: int) -> Rates:
    def rate(name: str, otherwise: int) -> int:
        value: Any = getattr(prices, name, None)
        if isinstance(value, TieredPrices):
            passed = [tier.price for tier in value.tiers if prompt_tokens > tier.start]
            value = passed[-1] if passed else value.base
        return otherwise if value is None else _nano(value)

    prompt, answer = rate("input_mtok", 0), rate("output_mtok", 0)
    written = rate("cache_write_mtok", prompt)
    return Rates(
        input=prompt,
        cache_read=rate("cache_read_mtok", prompt),
        cache_write_5m=written,
        cache_write_1h=rate("cache_write_1h_mtok", written),
        output=answer,
        reasoning=rate("output_reasoning_mtok", answer),
        audio_in=rate("input_audio_mtok", prompt),
        audio_out=rate("output_audio_mtok", answer),
        image=rate("input_image_mtok", prompt),
    )


def _nano(usd: Decimal) -> int:
    amount = usd * NANO_PER_USD
    if amount != amount.to_integral_value():
        raise SystemExit(f"{usd} is no whole number of nano-USD per million tokens")
    return int(amount)


def _to_json(price: Price) -> dict[str, object]:
    return {
        "provider": price.provider,
        "model": price.model,
        "aliases": price.aliases,
        "start": price.start.isoformat(),
        "end": None if price.end is None else price.end.isoformat(),
        "tiers": [[tier.min_prompt_tokens, *tier.rates.each] for tier in price.tiers],
        "digest": price.digest.hex(),
    }


if __name__ == "__main__":
    main()
