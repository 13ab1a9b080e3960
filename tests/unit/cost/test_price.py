"""Prices: exact integers, sound bounds, names that find their price."""

from datetime import UTC, datetime, timedelta

import pytest
from genai_prices import Usage as PublishedUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from services.cost.domain.errors import PriceUnknown
from services.cost.domain.price import (
    BEGINNING,
    Price,
    Rates,
    Tier,
    answer_tokens,
    free_price,
    prompt_tokens,
)
from services.cost.domain.price_book import PriceBook
from services.cost.domain.price_table import overlaps, renewal
from services.cost.prices.convert import next_edition
from services.cost.prices.snapshot import shipped_prices
from services.meshkit.content import Usage
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.money import NANO_PER_USD
from tests.support.money import NOON, a_price

SHIPPED = shipped_prices().prices
BOOK = PriceBook([*SHIPPED, free_price("local")])
NOW = datetime(2026, 11, 1, tzinfo=UTC)
counts = st.integers(0, 400_000)
usages = st.builds(Usage, **dict.fromkeys(USAGE_CLASSES, counts))


def test_a_charge_is_rounded_up_once() -> None:
    assert a_price().charge(Usage(input=1)) == 1
    thirds = a_price(tiers=(Tier(0, Rates(input=1, output=1)),))
    assert thirds.charge(Usage(input=1, output=1)) == 1
    assert thirds.charge(Usage(input=1_000_000, output=1)) == 2


@given(st.sampled_from(SHIPPED), usages, st.data())
def test_no_usage_within_the_bound_costs_more_than_the_bound(price: Price, used: Usage, data: st.DataObject) -> None:
    bound = Usage(
        input=prompt_tokens(used) + data.draw(st.integers(0, 1000)),
        output=answer_tokens(used) + data.draw(st.integers(0, 1000)),
    )
    assert price.charge(used) <= price.bound(bound)


def test_a_list_with_other_prices_is_a_later_edition() -> None:
    last = {"edition": 3, "prices": [{"digest": "aa"}, {"digest": "bb"}]}
    assert next_edition(last, [{"digest": "aa"}, {"digest": "bb"}]) == 3
    assert next_edition(last, [{"digest": "aa"}]) == next_edition(last, [{"digest": "aa"}, {"digest": "cc"}]) == 4
    assert shipped_prices().edition >= 1


@given(usages)
def test_what_runs_here_costs_nothing(used: Usage) -> None:
    price = BOOK.find("local", "smollm2-135m", at=NOW)
    assert price.charge(used) == price.bound(used) == 0


@pytest.mark.parametrize(
    ("provider", "model", "named"),
    [
        ("openai", "gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai", "GPT-4o-mini", "gpt-4o-mini"),
        ("openai", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai", "gpt-4.1-mini-2031-01-01", "gpt-4.1-mini"),
        ("openai", "text-embedding-3-small", "text-embedding-3-small"),
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic", "claude-3-5-haiku-latest", "claude-3-5-haiku-latest"),
        ("anthropic", "claude-sonnet-4@20250514", "claude-sonnet-4-0"),
        ("local", "anything", "*"),
    ],
)
def test_a_model_finds_its_price_by_the_names_in_use(provider: str, model: str, named: str) -> None:
    assert BOOK.find(provider, model, at=NOW).model == named


@pytest.mark.parametrize("model", ["gpt-4o-nano", "gpt-4o-mini-2024-07-18-tuned", "", "*", "gpt-4o-mini\n"])
def test_a_price_is_never_guessed(model: str) -> None:
    with pytest.raises(PriceUnknown):
        BOOK.find("openai", model, at=NOW)


@pytest.mark.parametrize("model", ["gpt-4o-audio-preview", "gpt-4o-mini-audio-preview", "gpt-realtime", "gpt-image-1"])
def test_a_model_with_a_class_that_nobody_could_charge_has_no_shipped_price(model: str) -> None:
    with pytest.raises(PriceUnknown):
        BOOK.find("openai", model, at=NOW)


def test_a_model_that_hears_and_speaks_costs_what_audio_costs() -> None:
    # OpenAI's page of the model: text 2.50 and 10 dollars a million, audio 32 and 64.
    assert BOOK.find("openai", "gpt-audio", at=NOW).charge(Usage(audio_in=1000, audio_out=1000)) == 96_000_000


def test_the_shipped_table_has_no_overlap_and_both_big_providers() -> None:
    assert not overlaps(SHIPPED)
    assert {"openai", "anthropic"} <= {price.provider for price in SHIPPED}


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "gpt-5"),
        ("openai", "gpt-5.4"),
        ("anthropic", "claude-sonnet-4-5"),
        ("anthropic", "claude-opus-4-6"),
    ],
)
@given(counts, counts, counts, counts)
def test_charges_equal_those_of_the_package_the_prices_come_from(
    provider: str, model: str, plain: int, cached: int, written: int, answer: int
) -> None:
    ours = BOOK.find(provider, model, at=NOW).charge(
        Usage(input=plain, cache_read=cached, cache_write_5m=written, output=answer)
    )
    usage = PublishedUsage(
        input_tokens=plain + cached + written,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=answer,
    )
    theirs = calc_price(usage, model, provider_id=provider, genai_request_timestamp=NOW).total_price
    assert ours - 1 < theirs * NANO_PER_USD <= ours


def test_a_long_prompt_costs_its_own_rates_and_the_bound_reckons_with_them() -> None:
    tiers = (Tier(0, Rates(input=1_000_000)), Tier(201, Rates(input=2_000_000)))
    price = a_price(tiers=tiers)
    assert price.charge(Usage(input=200)) == 200
    assert price.charge(Usage(input=201)) == 402
    assert price.bound(Usage(input=201)) == 402


@pytest.mark.parametrize(
    "tiers", [(), (Tier(1, Rates()),), (Tier(0, Rates()), Tier(0, Rates())), (Tier(0, Rates(input=-1)),)]
)
def test_tiers_that_make_no_sense_are_refused(tiers: tuple[Tier, ...]) -> None:
    with pytest.raises(ValueError, match="gpt-test"):
        a_price(tiers=tiers)


def test_a_dearer_list_ends_the_old_price_and_holds_from_now_on() -> None:
    old, dearer = a_price(), a_price(tiers=(Tier(0, Rates(input=9)),), source="a newer list")
    change = renewal([old], [dearer], now=NOON)
    assert change.ends == {old.digest: NOON}
    assert [(price.start, price.tiers) for price in change.added] == [(NOON, dearer.tiers)]


def test_the_same_list_from_a_newer_release_changes_nothing() -> None:
    change = renewal([a_price()], [a_price(source="a newer list")], now=NOON)
    assert (change.added, change.ends) == ((), {})


def test_a_price_announced_for_later_ends_the_present_one_then() -> None:
    later = NOON + timedelta(days=30)
    now_price = a_price()
    listed = [a_price(end=later), a_price(start=later, tiers=(Tier(0, Rates(input=5)),))]
    change = renewal([now_price], listed, now=NOON)
    assert change.ends == {now_price.digest: later}
    assert [price.start for price in change.added] == [later]


def test_a_model_new_to_the_table_brings_its_past() -> None:
    listed = [a_price(end=NOON), a_price(start=NOON, tiers=(Tier(0, Rates(input=5)),))]
    assert renewal([], listed, now=NOON + timedelta(days=1)).added == tuple(listed)
    assert listed[0].start == BEGINNING


def test_history_keeps_the_price_of_its_time() -> None:
    book = PriceBook([a_price(end=NOON), a_price(start=NOON, tiers=(Tier(0, Rates(input=5)),))])
    assert book.find("openai", "gpt-test", at=NOON - timedelta(seconds=1)).tiers[0].rates.input == 1_000_000
    assert book.find("openai", "gpt-test", at=NOON).tiers[0].rates.input == 5


spans = st.tuples(st.integers(0, 20), st.none() | st.integers(1, 20))
tables = st.lists(st.tuples(st.sampled_from(("gpt-test", "gpt-test-2024-07-18", "*")), spans), max_size=6)


@given(tables, st.integers(0, 5), st.sampled_from(("gpt-test", "GPT-Test-2024-07-18", "other")))
def test_a_book_tells_when_calls_have_another_price(
    table: list[tuple[str, tuple[int, int | None]]], place: int, model: str
) -> None:
    prices = [
        a_price(
            model=name,
            source=f"row {number}",
            start=NOON + timedelta(days=start),
            end=None if length is None else NOON + timedelta(days=start + length),
        )
        for number, (name, (start, length)) in enumerate(table)
    ]
    book, digest = PriceBook(prices), prices[place].digest if place < len(prices) else None
    others = book.differs(digest, "openai", model)
    for half_day in range(-1, 90):
        moment = NOON + timedelta(hours=12 * half_day)
        try:
            differs = book.find("openai", model, at=moment).digest != digest
        except PriceUnknown:
            differs = False
        inside = [one for one in others if one.start and one.start <= moment and (one.end is None or moment < one.end)]
        assert len(inside) == differs
