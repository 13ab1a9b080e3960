from decimal import Decimal

import pytest

from comitia.orchestrator.v1.session_pb2 import SessionMode, SessionStrategy
from comitia_sdk.cli.output import dollars
from comitia_sdk.enums import number_of, short_name, short_names
from comitia_sdk.errors import InvalidRequest
from comitia_sdk.money import nano_usd, usd


def test_values_are_known_by_their_short_names() -> None:
    assert list(short_names(SessionMode)) == ["debate", "brainstorm", "consensus", "dialogue", "answer"]
    assert number_of(SessionStrategy, "Round-Robin", field="strategy") == SessionStrategy.Value(
        "SESSION_STRATEGY_ROUND_ROBIN"
    )
    assert short_name(SessionMode, SessionMode.Value("SESSION_MODE_DEBATE")) == "debate"


def test_a_value_that_is_unset_or_newer_than_this_client_has_a_name_too() -> None:
    assert short_name(SessionMode, 0) == "unspecified"
    assert short_name(SessionMode, 99) == "99"


@pytest.mark.parametrize(
    ("asked", "hint"), [("debat", "; did you mean debate?"), ("brain-storm", "; did you mean brainstorm?"), ("xyz", "")]
)
def test_an_unknown_value_is_refused_with_what_was_probably_meant(asked: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        number_of(SessionMode, asked, field="mode")

    assert refused.value.field == "mode"
    assert refused.value.message == f"mode: {asked!r} is none of debate, brainstorm, consensus, dialogue, answer{hint}"


def test_money_is_exact_both_ways() -> None:
    assert usd(123) == Decimal("0.000000123")
    assert nano_usd("0.50") == 500_000_000
    assert nano_usd(Decimal("4611686018.427387904")) == 2**62
    assert nano_usd(3) == 3_000_000_000


@pytest.mark.parametrize("amount", ["", "abc", "1,50", "NaN", "Infinity", "sNaN", "-1"])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="is no amount in dollars"):
        nano_usd(amount)


@pytest.mark.parametrize("amount", ["4611686018.4273879040000001", "99999999999", "1e40", "9" * 500])
def test_an_amount_that_is_too_large_is_told_the_most(amount: str) -> None:
    with pytest.raises(ValueError, match=r"is too large an amount: the most is 4611686018\.427387904 dollars"):
        nano_usd(amount)


@pytest.mark.parametrize("amount", ["1.0000000001", "0.00000000009", "1e-10", "1e-999999", f"1.{'0' * 50}1"])
def test_an_amount_finer_than_a_nano_usd_is_never_rounded(amount: str) -> None:
    with pytest.raises(ValueError, match="is too fine an amount: give at most 9 digits after the point"):
        nano_usd(amount)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "$0.00"), (123_000, "$0.000123"), (1, "$0.000000001"), (25 * 10**9, "$25.00"), (-5, "-$0.000000005")],
)
def test_money_is_shown_without_losing_digits(nano: int, text: str) -> None:
    assert dollars(nano) == text
