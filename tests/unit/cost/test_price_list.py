"""Price lists that operators import: every fault has its line and field, and what they say is what holds."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cost.domain.errors import PriceListWrong
from services.cost.domain.price import Price, Rates, Tier
from services.cost.domain.price_book import PriceBook
from services.cost.domain.price_list import read_list
from services.cost.domain.price_rows import ListFormat
from services.cost.domain.price_table import Renewal, overlaps, renewal, supersession
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


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    assert read("openai,gpt-test,2025-07-01,,1,4", head=f"\ufeff{HEAD}")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_is_the_one_fault_that_is_told(separator: str) -> None:
    content = f"{HEAD}\nopenai,gpt-test,2025-07-01,,1,4\n".replace(",", separator)
    with pytest.raises(PriceListWrong) as refusal:
        read_list(content, ListFormat.CSV, source="imported: a test", known=(), now=NOON)
    wanted = f"line 1, row: is divided by {separator!r}: divide cells by commas, and amounts by points"
    assert refusal.value.sentence == wanted


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (f"{HEAD},price", "line 1, price: is none of provider, model, "),
        (f"{HEAD},model", "line 1, model: stands there twice"),
        (f"{HEAD},price,rate", "line 1, price, rate: is none of provider, model, "),
        ("provider,model,start_time,input_usd_per_million", "line 1, output_usd_per_million: is missing"),
        ("provider,model", "line 1, start_time, input_usd_per_million, output_usd_per_million: are missing"),
        ("", "line 1, provider, model, start_time, input_usd_per_million, output_usd_per_million: are missing"),
    ],
)
def test_columns_that_nobody_knows_are_refused_once(head: str, said: str) -> None:
    (fault,) = faults(head=head)
    assert fault.startswith(said)


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
    assert said[0].startswith("line 2, input_usd_per_million: is more than 200 times off the price that 'gpt-test' has")
    assert read("openai,gpt-test,2025-07-01,,0,1", known=(known,))


def test_an_imported_price_takes_the_place_of_others_and_shipped_ones_leave_it_alone() -> None:
    old, later = a_price(), a_price(start=SEPTEMBER, source="later")
    known = [replace(old, end=SEPTEMBER), later]
    (price,) = read("openai,gpt-test,2025-08-01,,1,4")
    change = supersession(known, [price])
    assert change.renewal.ends == {old.digest: AUGUST, later.digest: SEPTEMBER}
    assert change.renewal.added == (price,)
    assert [(one.before, one.after) for one in change.changes] == [((known[0],), price)]
    table = change.renewal.of(known)
    assert not overlaps(table)
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
        table = change.of(table)
    moment = JULY + timedelta(days=day)
    wanted = next((rate * 10**9 for start, rate in reversed(imports) if start <= day), 1_000_000)
    found = PriceBook(table).find("openai", "gpt-test", at=moment)
    assert found.tiers[0].rates.input == wanted
    assert found.charge(Usage(input=1_000_000)) == wanted
    assert sum(one.holds_at(moment) for one in table) == 1


def a_row(
    model: str, *, aliases: str = "", start: str = "2025-07-01", rate: str = "0.001", provider: str = "openai"
) -> str:
    return f"{aliases},{provider},{model},{start},,{rate},{rate}"


def read_aliased(*rows: str, known: tuple[Price, ...] = ()) -> list[Price]:
    return read(*rows, head=f"aliases,{HEAD}", known=known)


def aliased_faults(*rows: str, known: tuple[Price, ...] = ()) -> list[str]:
    return faults(*rows, head=f"aliases,{HEAD}", known=known)


@pytest.mark.parametrize("name", ["text-ada-001", "Text-Ada-001", "ada"])
def test_no_name_is_taken_from_a_model_that_the_list_leaves_out(name: str) -> None:
    ada = a_price(model="text-ada-001", aliases=("ADA",))
    (said,) = aliased_faults(a_row("zzz", aliases=name), known=(ada,))
    assert said.startswith(f"line 2, aliases: {name!r} is a name of 'text-ada-001', which costs something else then")
    if name == "ada":
        (said,) = aliased_faults(a_row(name), known=(ada,))
        assert said.startswith("line 2, model: 'ada' is a name of 'text-ada-001'")


def test_a_name_is_free_once_its_model_is_listed_without_it_or_has_ended() -> None:
    ada = a_price(model="text-ada-001", aliases=("ada",))
    listed = read_aliased(a_row("text-ada-001"), a_row("ada", rate="0.003"), known=(ada,))
    table = supersession([ada], listed).renewal.of([ada])
    assert not overlaps(table)
    assert PriceBook(table).find("openai", "Ada", at=AUGUST).tiers[0].rates.input == 3_000_000
    assert read_aliased(a_row("zzz", aliases="ada"), known=(replace(ada, end=JULY),))
    later = aliased_faults(a_row("text-ada-001", start="2025-08-01"), a_row("ada", rate="0.003"), known=(ada,))
    assert later[0].startswith("line 3, model: 'ada' is a name of 'text-ada-001'")


def test_no_row_gives_a_model_the_name_that_stands_for_all() -> None:
    assert aliased_faults(a_row("zzz", aliases="*"))[0].startswith("line 2, aliases: must not be '*'")


def test_a_wrong_import_can_be_corrected_since_what_is_shipped_tells_the_unit() -> None:
    shipped = a_price(tiers=(Tier(0, Rates(input=10**9, output=10**9)),), end=JULY)
    wrong = a_price(tiers=(Tier(0, Rates(input=10**6, output=10**6)),), start=JULY, imported=True)
    assert read("openai,gpt-test,2025-07-01,,1,1", known=(shipped, wrong))
    assert len(faults("openai,gpt-test,2025-07-01,,0.001,0.001", known=(shipped, wrong))) == 2
    (said, _) = faults("openai,gpt-test,2025-07-01,,1,1", known=(wrong,))
    assert "--confirm-unit" in said, "nothing else tells which of the two is right"
    content = f"{HEAD}\nopenai,gpt-test,2025-07-01,,1,1"
    assert read_list(content, ListFormat.CSV, source="imported: a test", known=(wrong,), now=NOON, unit_confirmed=True)


@pytest.mark.parametrize("model", ["gpt-test-2024-07-18", "gpt-test@latest", "anything"])
def test_another_unit_is_noticed_whatever_price_a_name_had_before(model: str) -> None:
    family, every = (a_price(model=name, tiers=(Tier(0, Rates(10**9, output=10**9)),)) for name in ("gpt-test", "*"))
    for row in (a_row(model), a_row("zzz", aliases=model)):
        said = aliased_faults(row, known=(family, every))
        assert said[0].startswith("line 2, input_usd_per_million: is more than 200 times off the price that ")


def test_what_an_import_changes_is_told_by_every_name() -> None:
    family, every = a_price(), a_price(model="*")
    listed = read_aliased(a_row("zzz", aliases="gpt-test-2024-07-18"), known=(family, every))
    (change,) = supersession([family, every], listed).changes
    assert change.before == (every, family)


def test_a_name_means_the_same_however_it_is_written() -> None:
    shipped = a_price(model="gpt-4o-mini", aliases=("mini",))
    (imported,) = read("OpenAI,GPT-4o-Mini,2025-08-01,,0.002,0.004", known=(shipped,))
    table = supersession([shipped], [imported]).renewal.of([shipped])
    assert not overlaps(table)
    for provider, model in (("openai", "gpt-4o-mini"), ("OPENAI", "GPT-4O-MINI")):
        assert PriceBook(table).find(provider, model, at=NOON) == imported
    dearer = a_price(model="gpt-4o-mini", tiers=(Tier(0, Rates(input=9)),), source="a newer release")
    assert renewal(table, [dearer], now=NOON) == renewal(table, [], now=NOON)
    assert faults("openai,zzz,2025-08-01,,1,4", "openai,ZZZ,2025-08-01,,2,4")[0].startswith("line 3, min_prompt_tokens")


def test_a_shipped_list_takes_no_name_from_what_was_imported() -> None:
    (imported,) = read_aliased(a_row("mine", aliases="nick"))
    listed = [a_price(model="theirs", aliases=("Nick", "own")), a_price(model="MINE"), a_price(model="nick")]
    (added,) = renewal([imported], listed, now=NOON).added
    assert (added.model, added.aliases) == ("theirs", ("own",))


def test_a_model_that_is_not_listed_any_more_gives_its_name_to_one_that_is() -> None:
    old = a_price(model="old", aliases=("nick", "more"))
    change = renewal([old], [a_price(model="new", aliases=("nick",))], now=NOON)
    assert change.ends == {old.digest: NOON}
    assert {(one.model, one.aliases, one.start) for one in change.added} == {
        ("old", ("more",), NOON),
        ("new", ("nick",), NOON),
    }
    table = change.of([old])
    assert not overlaps(table)
    assert renewal(table, [a_price(model="new", aliases=("nick",))], now=NOON + timedelta(days=1)).ends == {}


Listed = tuple[str, list[str], int, int, int]
names = st.sampled_from(("a", "A", "b", "B", "c"))
#: Models of a list with their other names and rates; each with the days, from July on, that its two prices begin at.
models = st.lists(
    st.tuples(names, st.lists(names, max_size=2), st.integers(1, 3), st.integers(0, 40), st.integers(1, 40)), max_size=4
)
steps = st.lists(st.tuples(st.booleans(), models), min_size=1, max_size=6)


@given(steps)
def test_no_lists_whatever_leave_two_prices_for_one_name(lists: list[tuple[bool, list[Listed]]]) -> None:
    table: list[Price] = []
    for place, (shipped, drawn) in enumerate(lists):
        listed = _apart(drawn)
        now = JULY + timedelta(days=20 * place)
        change = _shipped(table, listed, now, place) if shipped else _imported(table, listed, now, place)
        if change is None:
            continue
        after = change.of(table)
        assert not overlaps(after)
        assert len({price.digest for price in after}) == len(after) >= len(table)
        table = after


def _apart(drawn: list[Listed]) -> list[Listed]:
    """Leaves out models that share a name with one before, which no list may hold."""
    taken: set[str] = set()
    kept: list[Listed] = []
    for one in drawn:
        names = {name.lower() for name in (one[0], *one[1])}
        if not names & taken:
            taken |= names
            kept.append(one)
    return kept


def _shipped(table: list[Price], listed: list[Listed], now: datetime, place: int) -> Renewal | None:
    prices = [
        a_price(
            model=model, aliases=tuple(dict.fromkeys(aliases)), tiers=(Tier(0, Rates(input=rate + number)),),
            start=start, end=end, source=f"list {place}",
        )
        for model, aliases, rate, first, length in listed
        for number, (start, end) in enumerate(_halves(first, length))
    ]  # fmt: skip
    if overlaps(prices) or len({(one.key, one.start) for one in prices}) < len(prices):
        return None
    change = renewal(table, prices, now=now)
    again = renewal(change.of(table), prices, now=now)
    assert (again.added, again.ends) == ((), {})
    return change


def _halves(first: int, length: int) -> list[tuple[datetime, datetime | None]]:
    start, turn = (JULY + timedelta(days=day) for day in (first, first + length))
    return [(start, turn), (turn, None)]


def _imported(table: list[Price], listed: list[Listed], now: datetime, place: int) -> Renewal | None:
    rows = [
        a_row(model, aliases=";".join(aliases), rate=str(rate), start=f"{JULY + timedelta(days=first):%F}")
        for model, aliases, rate, first, _ in listed
    ]
    content = "\r\n".join((f"aliases,{HEAD}", *rows))
    try:
        prices = read_list(content, ListFormat.CSV, source=f"list {place}", known=table, now=now)
    except PriceListWrong:
        return None
    change = supersession(table, prices).renewal
    again = supersession(change.of(table), prices)
    assert (again.renewal.added, again.renewal.ends, again.changes) == ((), {}, ())
    return change
