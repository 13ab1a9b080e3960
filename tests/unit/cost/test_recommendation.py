"""Ways to spend less: computed on the tenant's own calls, with an interval, and never pretended."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cost.domain.hold import CostKind
from services.cost.domain.price import Price, Rates, Tier
from services.cost.domain.recommendation import Advice, Recommendation, recommend
from services.cost.domain.use_history import DailyUse, Use
from services.meshkit.content import Usage
from services.meshkit.core.money import NanoUsd

FIRST = date(2026, 1, 1)
LAST = FIRST + timedelta(days=29)
#: Nano-USD per million tokens: 1 dollar in, 10 cents from the cache, 4 dollars out.
BIG = Rates(input=10**9, cache_read=10**8, cache_write_5m=125 * 10**7, output=4 * 10**9)
SMALL = Rates(input=10**8, cache_read=10**7, output=4 * 10**8)
PRICES = {
    ("openai", "big"): Price(provider="openai", model="big", tiers=(Tier(0, BIG),), source="a test"),
    ("openai", "small"): Price(provider="openai", model="small", tiers=(Tier(0, SMALL),), source="a test"),
    ("local", "tiny"): Price(provider="local", model="tiny", tiers=(Tier(0, Rates()),), source="a test"),
}


def a_use(*, model: str = "big", days: int = 30, each: Any = None, **changes: Any) -> Use:
    values: dict[str, Any] = {"calls": 10, "usage": Usage(input=10**6, output=10**5), "cost": NanoUsd(1_400_000_000)}
    listed = tuple(DailyUse(day=FIRST + timedelta(days=at), **{**values, **(each or {})}) for at in range(days))
    fields: dict[str, Any] = {
        "kind": CostKind.GENERATE,
        "provider": "openai",
        "model": model,
        "agent": "Athena",
        "short_prompt_tokens": 500,
        "days": listed,
    }
    return Use(**{**fields, **changes})


def advised(*uses: Use, last: date = LAST) -> list[Recommendation]:
    return recommend(uses, lambda provider, model: PRICES.get((provider, model)), last_day=last)


def test_a_cheaper_model_that_the_tenant_uses_is_advised_and_its_quality_said_to_be_unknown() -> None:
    (one,) = advised(a_use(), a_use(model="small", agent="Hermes"))
    assert (one.advice, one.agent, one.model, one.other_model) == (Advice.CHEAPER_MODEL, "Athena", "big", "small")
    # 1.40 dollars a day against 0.14.
    assert one.saving.expected == 30 * 1_260_000_000
    assert one.saving.low == one.saving.expected == one.saving.high
    assert (one.calls, one.first_day, one.last_day) == (300, FIRST, LAST)
    assert one.assumption.startswith("quality unknown")


def test_models_of_this_machine_and_those_without_a_price_are_not_advised() -> None:
    assert advised(a_use(), a_use(model="tiny", provider="local"), a_use(model="strange")) == []


def test_repeated_prompts_could_be_cached() -> None:
    use = a_use(short_prompt_tokens=20_000, each={"calls": 100, "warm_calls": 90})
    (one,) = advised(use)
    assert one.advice is Advice.PROMPT_CACHING
    # 10,000 shared tokens: 90 calls a day save 0.90 dollars a million, 10 pay 0.25 more to write them.
    assert one.saving.expected == 30 * 10_000 * (90 * 900 - 10 * 250)
    assert "10000 tokens" in one.assumption


@pytest.mark.parametrize(
    "changes",
    [
        {"short_prompt_tokens": 1023},
        {"each": {"calls": 100, "warm_calls": 0}},
        {"each": {"calls": 100, "warm_calls": 90, "usage": Usage(input=9 * 10**5, cache_read=10**5 + 1)}},
        {"provider": "unknown"},
    ],
)
def test_caching_is_not_advised_where_it_does_not_pay(changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {"short_prompt_tokens": 20_000, "each": {"calls": 100, "warm_calls": 90}, **changes}
    assert advised(a_use(**values)) == []


def test_prompts_far_longer_than_usual_could_be_trimmed() -> None:
    (one,) = advised(a_use(each={"long_calls": 2, "long_tokens": 400_000}))
    assert one.advice is Advice.PROMPT_TRIMMING
    assert one.saving.expected == 30 * 400_000 * 1000
    assert one.assumption.startswith("60 prompts")


def test_embeddings_may_wait_for_the_batch_class() -> None:
    (one,) = advised(a_use(kind=CostKind.EMBED))
    assert (one.advice, one.saving.expected) == (Advice.BATCH_CLASS, 30 * 700_000_000)


@pytest.mark.parametrize("provider", ["mistral", "anthropic", "google", "openai_compatible", "local"])
def test_no_batch_class_is_advised_that_the_provider_does_not_show(provider: str) -> None:
    prices = {(provider, "big"): replace(PRICES["openai", "big"], provider=provider)}
    use = a_use(kind=CostKind.EMBED, provider=provider)
    assert recommend([use], lambda *name: prices.get(name), last_day=LAST) == []


def test_too_few_days_or_calls_or_cents_are_no_ground() -> None:
    assert advised(a_use(days=6, kind=CostKind.EMBED), last=FIRST + timedelta(days=5)) == []
    assert advised(a_use(days=4, kind=CostKind.EMBED)) == []
    assert advised(a_use(kind=CostKind.EMBED, each={"cost": NanoUsd(1_000_000)})) == []


def test_days_that_differ_widen_the_interval() -> None:
    even = a_use(kind=CostKind.EMBED)
    days = tuple(
        DailyUse(day=day.day, calls=10, usage=day.usage, cost=NanoUsd(day.cost * (at % 3)))
        for at, day in enumerate(even.days)
    )
    (steady,) = advised(even)
    (shaky,) = advised(replace(even, days=days))
    assert steady.saving.low == steady.saving.high
    assert shaky.saving.low < shaky.saving.expected < shaky.saving.high


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.integers(0, 10**12), min_size=30, max_size=30),
    warm=st.integers(0, 100),
    long_tokens=st.integers(0, 10**6),
    short=st.integers(0, 10**5),
)
def test_savings_are_sorted_and_their_intervals_in_order(
    costs: list[int], warm: int, long_tokens: int, short: int
) -> None:
    days = tuple(
        DailyUse(
            day=FIRST + timedelta(days=at),
            calls=100,
            usage=Usage(input=10**7, output=10**5),
            cost=NanoUsd(cost),
            warm_calls=warm,
            long_calls=1,
            long_tokens=long_tokens,
        )
        for at, cost in enumerate(costs)
    )
    listed = advised(
        replace(a_use(short_prompt_tokens=short), days=days), replace(a_use(kind=CostKind.EMBED), days=days)
    )
    assert [one.saving.expected for one in listed] == sorted((one.saving.expected for one in listed), reverse=True)
    for one in listed:
        assert 0 < one.saving.low <= one.saving.high
        assert one.calls == 3000
