"""Price lists that operators import: every fault has its line and field, and what they say is what holds."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cost.domain.errors import PriceListWrong
from services.cost.domain.price import Price, Rates, Tier, renewal, supersession, without_overlap
from services.cost.domain.price_book import PriceBook
from services.cost.domain.price_list import ListFormat, read_list
from services.meshkit.content import Usage
from tests.support.money import NOON, a_price

HEAD = "provider,model,start_time,end_time,input_usd_per_million,output_usd_per_million"
JULY, AUGUST, SEPTEMBER = (datetime(2025, month, 1, tzinfo=UTC) for month in (7, 8, 9))


def read(*rows: str, head: str = HEAD, known: tuple[Price, ...] = ()) -> list[Price]:
    content = "\r\n".join((head, *rows))
    return read_list(content, ListFormat.CSV, source="imported: a test", known=known, now=NOON)


def faults(*rows: str, head: str = HEAD, known: tuple[Price, ...] = ()) -> list[str]:
    with pytest.raises(PriceListWrong) as refusal:
        read(*rows, head=head, known=known)
    return refusal.value.sentence.split("; ")


def test_a_list_is_read_to_the_last_digit() -> None:
    (price,) = read("openai,gpt-test,2025-07-01,,0.123456789,4")
    assert price.tiers == (
        Tier(
            0, Rates(123456789, 123456789, 123456789, 123456789, 4 * 10**9, 4 * 10**9, 123456789, 4 * 10**9, 123456789)
        ),
    )
    assert (price.start, price.end, price.imported) == (JULY, None, True)


def test_json_says_the_same_as_csv() -> None:
    rows = [
        {
            "provider": "openai",
            "model": "gpt-test",
            "aliases": ["gpt-t"],
            "start_time": "2025-07-01",
            "end_time": None,
            "min_prompt_tokens": tokens,
            "input_usd_per_million": rate,
            "output_usd_per_million": "4",
            "cache_read_usd_per_million": 0.1,
        }
        for tokens, rate in ((200001, 2.5), (0, 1.1))
    ]
    listed = read_list(json.dumps(rows), ListFormat.JSON, source="imported: a test", known=(), now=NOON)
    head = f"aliases,min_prompt_tokens,cache_read_usd_per_million,{HEAD}"
    assert listed == read(
        "gpt-t,0,0.1,openai,gpt-test,2025-07-01,,1.1,4", "gpt-t,200001,0.1,openai,gpt-test,2025-07-01,,2.5,4", head=head
    )
    assert [tier.min_prompt_tokens for tier in listed[0].tiers] == [0, 200001]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["openai,gpt-test,2025-07-01,,-1,4"], "line 2, input_usd_per_million: must not be negative"),
        (["openai,gpt-test,2025-07-01,,1e3,4"], "line 2, input_usd_per_million: must be an amount in dollars"),
        (["openai,gpt-test,2025-07-01,,nan,4"], "line 2, input_usd_per_million: must be an amount in dollars"),
        (["openai,gpt-test,2025-07-01,,1,10001"], "line 2, output_usd_per_million: is above 10000 dollars"),
        (["openai,gpt-test,2025-07-01,,0.0000000001,4"], "line 2, input_usd_per_million: must have at most 9 digits"),
        (["openai,gpt-test,2025-07-01,,,4"], "line 2, input_usd_per_million: is required, with 0 for free"),
        ([",gpt-test,2025-07-01,,1,4"], "line 2, provider: is required"),
        (["openai,g\x1b[31m,2025-07-01,,1,4"], "line 2, model: must have at most 200 characters, all of them visible"),
        (["openai,gpt-test,,,1,4"], "line 2, start_time: is required"),
        (["openai,gpt-test,2025-07-01T12:00,,1,4"], "line 2, start_time: must be a date such as"),
        (["openai,gpt-test,2045-07-01,,1,4"], "line 2, start_time: must lie between 2020-01-01 and a year from now"),
        (["openai,gpt-test,2025-07-01,2025-07-01,1,4"], "line 2, end_time: must be after start_time"),
        (["openai,gpt-test,2025-07-01,,1"], "line 2, row: has 5 cells instead of 6"),
        (
            ["openai,a,2025-07-01,,1,4", "openai,a,2025-08-01,,1,4"],
            "line 3, start_time: lies within the price of line 2: they overlap",
        ),
        (
            ["openai,a,2025-07-01,2025-08-01,1,4", "openai,a,2025-09-01,,1,4"],
            "line 3, start_time: leaves a gap after the price of line 2",
        ),
        (["openai,a,2025-07-01,,1,4", "openai,a,2025-07-01,,2,4"], "line 3, min_prompt_tokens: is that of line 2"),
        ([], "content: holds no prices"),
    ],
)
def test_a_fault_is_named_by_line_and_field(rows: list[str], said: str) -> None:
    assert faults(*rows)[0].removeprefix("content: ").startswith(said.removeprefix("content: "))


def test_all_faults_are_told_at_once() -> None:
    said = faults("openai,a,2025-07-01,,-1,4", "openai,b,never,,1,4", "openai,c,2025-07-01,,1,")
    assert [one.split(":")[0] for one in said] == [
        "line 2, input_usd_per_million",
        "line 3, start_time",
        "line 4, output_usd_per_million",
    ]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (f"{HEAD},price", "line 1, price: is none of provider, model, "),
        (f"{HEAD},model", "line 1, model: stands there twice"),
        ("provider,model", "line 1, input_usd_per_million: is missing"),
        ("", "line 1, input_usd_per_million: is missing"),
    ],
)
def test_columns_that_nobody_knows_are_refused(head: str, said: str) -> None:
    assert faults(head=head)[0].startswith(said)


@pytest.mark.parametrize("content", ["{}", "[1]", "[", '[{"model": {}}]', "[" * 100_000, '[{"provider": [1]}]'])
def test_json_of_another_shape_is_refused(content: str) -> None:
    with pytest.raises(PriceListWrong):
        read_list(content, ListFormat.JSON, source="imported: a test", known=(), now=NOON)


def test_one_name_for_two_models_is_refused() -> None:
    said = faults("a,openai,gpt-1,2025-07-01,,1,4", "a,openai,gpt-2,2025-07-01,,1,4", head=f"aliases,{HEAD}")
    assert said == ["line 3, aliases: 'a' is a name of 'gpt-1' too: the prices overlap"]


@pytest.mark.parametrize("rate", ["0.001", "1000"])
def test_a_price_in_another_unit_is_refused(rate: str) -> None:
    known = a_price(tiers=(Tier(0, Rates(input=10**9, output=10**9)),))
    said = faults(f"openai,gpt-test,2025-07-01,,{rate},1", known=(known,))
    assert said[0].startswith("line 2, input_usd_per_million: is more than 200 times off the price that holds")
    assert read("openai,gpt-test,2025-07-01,,0,1", known=(known,))


def test_an_imported_price_takes_the_place_of_others_and_shipped_ones_leave_it_alone() -> None:
    old, later = a_price(), a_price(start=SEPTEMBER, source="later")
    known = [replace(old, end=SEPTEMBER), later]
    (price,) = read("openai,gpt-test,2025-08-01,,1,4")
    change = supersession(known, [price])
    assert change.renewal.ends == {old.digest: AUGUST, later.digest: SEPTEMBER}
    assert change.renewal.added == (price,)
    assert [(one.before, one.after) for one in change.changes] == [(known[0], price)]
    table = _after(known, change.renewal.ends, [price])
    assert without_overlap([one for one in table if one.start != one.end])
    again = supersession(table, [price])
    assert (again.renewal.added, again.renewal.ends, again.changes, again.unchanged) == ((), {}, (), 1)
    assert renewal(table, [a_price(source="shipped anew")], now=NOON).added == ()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=6), st.integers(0, 70))
def test_after_any_imports_the_last_one_holds_from_where_it_begins(imports: list[tuple[int, int]], day: int) -> None:
    table: list[Price] = [a_price()]
    for start, rate in imports:
        begins = (JULY + timedelta(days=start)).date().isoformat()
        listed = read(f"openai,gpt-test,{begins},,{rate},{rate}")
        change = supersession(table, listed).renewal
        table = _after(table, change.ends, list(change.added))
    moment = JULY + timedelta(days=day)
    wanted = next((rate * 10**9 for start, rate in reversed(imports) if start <= day), 1_000_000)
    found = PriceBook(table).find("openai", "gpt-test", at=moment)
    assert found.tiers[0].rates.input == wanted
    assert found.charge(Usage(input=1_000_000)) == wanted
    assert sum(one.holds_at(moment) for one in table) == 1


def _after(table: list[Price], ends: dict[bytes, datetime | None], added: list[Price]) -> list[Price]:
    return [replace(one, end=ends.get(one.digest, one.end)) for one in table] + added
