"""The calculator against Python's own integers and decimals."""

import re
import time
from contextlib import suppress
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tools.builtins.expression import MAX_DIGITS, PRECISION, NotComputable, compute, evaluate

INTEGERS = st.integers(min_value=-(10**12), max_value=10**12)
DECIMALS = st.decimals(min_value=-(10**9), max_value=10**9, allow_nan=False, allow_infinity=False, places=6)


def test_results_are_written_as_people_expect() -> None:
    table = {
        "1 + 2 * 3": "7",
        "(1 + 2) * 3": "9",
        "0.1 + 0.2": "0.3",
        "6 / 3": "2",
        "1 / 4": "0.25",
        "1/3": "0." + "3" * PRECISION,
        "-2 ** 2": "-4",
        "2 ** -1": "0.5",
        "2 ** 3 ** 2": "512",
        "-7 // 2": "-4",
        "-7 % 3": "2",
        "-7.5 // 2": "-4",
        "-7.5 % 2": "0.5",
        "--3": "3",
        "1_000 * 1e3": "1000000",
        "5. + .5": "5.5",
        "sqrt(16)": "4",
        "round(2.5)": "2",
        "round(2.675, 2)": "2.68",
        "round(1234, -2)": "1200",
        "round(1250.5, -2)": "1300",
        "floor(-1.5) + ceil(1.2)": "0",
        "max(1, 2.5, 2) - min(3, 4)": "-0.5",
        "abs(-3) + abs(-0.5)": "3.5",
        "log10(1000)": "3",
        "0 ** 0": "1",
        "exp(0)": "1",
        " \n1\t": "1",
        "1e-40": "1E-40",
    }
    assert {text: compute(text) for text in table} == table


@given(one=INTEGERS, other=INTEGERS)
def test_integers_are_exact(one: int, other: int) -> None:
    for sign in ("+", "-", "*"):
        assert evaluate(f"{one} {sign} ({other})") == eval(f"({one}) {sign} ({other})")
    if other:
        assert evaluate(f"({one}) // ({other})") == one // other
        assert evaluate(f"({one}) % ({other})") == one % other


@given(base=st.integers(-50, 50), exponent=st.integers(0, 60))
def test_powers_of_integers_are_exact(base: int, exponent: int) -> None:
    assert evaluate(f"({base}) ** {exponent}") == base**exponent


@given(one=DECIMALS, other=DECIMALS)
def test_decimals_round_as_the_standard_says(one: Decimal, other: Decimal) -> None:
    with localcontext(prec=PRECISION):
        assert evaluate(f"({one:f}) + ({other:f})") == one + other
        assert evaluate(f"({one:f}) * ({other:f})") == one * other
        if other:
            assert evaluate(f"({one:f}) / ({other:f})") == one / other


@given(one=DECIMALS, other=DECIMALS.filter(bool))
def test_the_rest_has_the_sign_of_the_divisor_and_fits_the_quotient(one: Decimal, other: Decimal) -> None:
    rest = evaluate(f"({one:f}) % ({other:f})")
    quotient = evaluate(f"({one:f}) // ({other:f})")
    assert rest == 0 or (rest > 0) == (other > 0)
    assert abs(rest) < abs(other)
    assert quotient * other + rest == one


@st.composite
def expressions(draw: st.DrawFn, depth: int = 4) -> str:
    if depth == 0 or draw(st.booleans()):
        return str(draw(st.integers(0, 99)))
    left, right = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    sign = draw(st.sampled_from(["+", "-", "*"]))
    bare = f"{left} {sign} {right}"
    return draw(st.sampled_from([bare, f"({bare})", f"-({bare})", f"+{left}"]))


@given(expressions())
def test_precedence_is_pythons(text: str) -> None:
    assert evaluate(text) == eval(text)


@given(st.text(alphabet="0123456789.+-*/%()eE_, absqrtminx", max_size=60) | st.text(max_size=30))
def test_any_text_has_a_result_or_a_sentence(text: str) -> None:
    began = time.process_time()
    with suppress(NotComputable):
        assert compute(text)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a number at character 1, found the end"),
        ("1 +", "found the end"),
        ("1 2", "cannot read '2' at character 3"),
        ("(1", "expected ')'"),
        ("1 / 0", "division by zero"),
        ("1 // 0", "division by zero"),
        ("1.5 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("0.0 ** -1", "division by zero"),
        ("2 ^ 3", "write ** for a power"),
        ("__import__(1)", "is not known"),
        ("x", "is not known"),
        ("abs", "expected '('"),
        ("abs(1, 2)", "does not take 2 values"),
        ("9 ** 9 ** 9", "digits"),
        ("9 ** 99999 ** 2", "digits"),
        ("99999 ** 99999", "digits"),
        ("1e9999 * 1e9999", "too large"),
        ("1e6000 * 10", "too large"),
        ("exp(1e9)", "too large"),
        ("(" * 60 + "1" + ")" * 60, "nested deeper"),
        ("2" + "**2" * 60, "nested deeper"),
        ("1+" * 600 + "1", "more than 1000 characters"),
        ("sqrt(-1)", "no real number"),
        ("(-8) ** 0.5", "no real number"),
        ("ln(0)", "above 0"),
        ("round(1, 99)", "round takes"),
        ("1e40 // 0.001", "digits"),
        ("\u0661 + 1", "cannot read"),
        ("1; 2", "cannot read ';'"),
        ("a.b", "cannot read '.'"),
    ],
)
def test_what_has_no_result_says_why(text: str, said: str) -> None:
    with pytest.raises(NotComputable, match=re.escape(said)):
        compute(text)


def test_large_integers_stay_exact_up_to_the_bound() -> None:
    assert compute("2 ** 6000") == str(2**6000)
    with pytest.raises(NotComputable):
        compute("10 ** 1999 * 10 ** 10")
    assert len(compute("10 ** 1999")) == MAX_DIGITS


@pytest.mark.parametrize(
    "text", ["1.0000001 ** 999999999", "9999 ** -99999", "(2 ** 6000) ** 0.5", "exp(ln(2)) ** 1000"]
)
def test_dear_looking_expressions_are_cheap(text: str) -> None:
    began = time.process_time()
    with suppress(NotComputable):
        compute(text)
    assert time.process_time() - began < 0.5
