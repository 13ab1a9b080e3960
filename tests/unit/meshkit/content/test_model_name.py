"""The one rule by which the price of a model is found."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meshkit.content.model_name import ANY_MODEL, name_key, price_keys, priced

#: Names that end in something like a date, and names that do not.
families = st.from_regex(r"[a-zA-Z][a-zA-Z.]{0,8}(-[a-zA-Z0-9]{1,3}){0,2}", fullmatch=True)
days = st.dates(min_value=date(1000, 1, 1))
releases = days.map(lambda day: f"-{day.isoformat()}") | days.map(lambda day: f"@{day:%Y%m%d}")
tails = st.sampled_from(("", "-latest", "@latest")) | releases
providers = st.sampled_from(("openai", "OpenAI", "anthropic"))


@given(providers, families, releases, st.sets(st.sampled_from(("own", "family", "all"))))
def test_the_own_name_comes_first_then_the_family_then_the_price_for_all(
    provider: str, family: str, release: str, known: set[str]
) -> None:
    names = {"own": family + release, "family": family, "all": ANY_MODEL}
    table = {name_key(provider, names[one]): one for one in known}
    assert priced(table, provider, family + release) == next((one for one in names if one in known), None)
    assert priced(table, provider, family) == next((one for one in ("family", "all") if one in known), None)
    assert priced(table, "another", family) is None


@given(providers, families, tails)
def test_how_a_name_is_written_changes_nothing(provider: str, family: str, tail: str) -> None:
    model = family + tail
    assert [*price_keys(provider.upper(), model.upper())] == [*price_keys(provider.lower(), model.lower())]
    assert next(price_keys(provider, model)) == name_key(provider, model)


@given(families, tails, st.sampled_from(("-tuned", "-2024-1-1", "-202407", "\n", "-latest1")))
def test_only_a_release_at_the_very_end_is_left_out(family: str, tail: str, more: str) -> None:
    own, without, _ = price_keys("openai", family + tail + more)
    assert own == without


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("Claude-3-5-Haiku-Latest", "claude-3-5-haiku"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-2024-07-18\n", "gpt-4o-2024-07-18\n"),
    ],
)
def test_the_family_of_a_release(model: str, family: str) -> None:
    assert [*price_keys("x", model)] == [("x", model.lower()), ("x", family), ("x", ANY_MODEL)]
