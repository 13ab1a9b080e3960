"""Computes arithmetic expressions: integers exactly, fractions in decimal with 34 digits.

    sum      = product (("+" | "-") product)*
    product  = signed (("*" | "/" | "//" | "%") signed)*
    signed   = ("+" | "-")* power
    power    = atom ("**" signed)?
    atom     = number | constant | function "(" sum ("," sum)* ")" | "(" sum ")"

Precedence and rounding downwards of `//` and `%` are Python's. Text, nesting, digits and exponents are bounded, so that
no expression takes longer than a few milliseconds. Nothing is ever evaluated as code.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, DecimalException, DivisionByZero, InvalidOperation, Overflow
from math import isqrt
from typing import Final

Number = int | Decimal

MAX_CHARACTERS: Final = 1_000
MAX_DEPTH: Final = 50
MAX_DIGITS: Final = 2_000
_MAX_BITS: Final = int(MAX_DIGITS / 0.30103)
PRECISION: Final = 34
_MAX_EXPONENT: Final = 6_000
_CONTEXT: Final = Context(
    prec=PRECISION,
    rounding=ROUND_HALF_EVEN,
    Emin=-_MAX_EXPONENT,
    Emax=_MAX_EXPONENT,
    traps=[DivisionByZero, InvalidOperation, Overflow],
)
_TOKEN: Final = re.compile(
    r"[ \t\r\n]*(?:(?P<number>(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>\*\*|//|[-+*/%(),])|(?P<end>$)|(?P<other>.))",
    re.DOTALL,
)
_CONSTANTS: Final = {
    "pi": Decimal("3.141592653589793238462643383279503"),
    "e": Decimal("2.718281828459045235360287471352662"),
}


class NotComputable(ValueError):
    """An expression has no result. The sentence says why, for the model to read."""


def compute(expression: str) -> str:
    """Gives the result as text: an integer, or a decimal without needless zeros.

    Raises: NotComputable.
    """
    if len(expression) > MAX_CHARACTERS:
        raise NotComputable(f"the expression has more than {MAX_CHARACTERS} characters")
    return _written(evaluate(expression))


def evaluate(expression: str) -> Number:
    """Gives the result as a number. Raises: NotComputable."""
    try:
        return _Parser(_tokens(expression)).whole()
    except DivisionByZero as cause:
        raise NotComputable("division by zero") from cause
    except Overflow as cause:
        raise NotComputable("the result is too large") from cause
    except DecimalException as cause:
        raise NotComputable("the result is no real number, or needs more digits than are kept") from cause


@dataclass(frozen=True, slots=True)
class _Token:
    #: `number`, `name`, `end`, or the sign itself.
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while True:
        match = _TOKEN.match(text, position)
        kind = match.lastgroup if match is not None else None
        if match is None or kind is None or kind == "other":
            raise NotComputable(_unknown(text, match.start("other") if match is not None else position))
        token = _Token(match[kind] if kind == "sign" else kind, match[kind], match.start(kind))
        tokens.append(token)
        if kind == "end":
            return tokens
        position = match.end()


def _unknown(text: str, position: int) -> str:
    sign = text[position]
    hint = "; write ** for a power" if sign == "^" else "; write * for a product" if sign in "\u00d7\u00b7" else ""
    return f"cannot read {sign!r} at character {position + 1}{hint}"


class _Parser:
    """Reads and computes in one pass."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def whole(self) -> Number:
        value = self._sum()
        token = self._tokens[self._next]
        if token.kind != "end":
            raise NotComputable(f"cannot read {token.text!r} at character {token.at + 1}")
        return value

    def _take(self, *kinds: str) -> _Token | None:
        token = self._tokens[self._next]
        if token.kind not in kinds:
            return None
        self._next += 1
        return token

    def _expect(self, kind: str) -> None:
        if self._take(kind) is None:
            token = self._tokens[self._next]
            found = "the end" if token.kind == "end" else repr(token.text)
            raise NotComputable(f"expected {kind!r} at character {token.at + 1}, found {found}")

    def _sum(self) -> Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotComputable(f"the expression is nested deeper than {MAX_DEPTH}")
        value = self._product()
        while sign := self._take("+", "-"):
            value = _SIGNS[sign.kind](value, self._product())
        self._depth -= 1
        return value

    def _product(self) -> Number:
        value = self._signed()
        while sign := self._take("*", "/", "//", "%"):
            value = _SIGNS[sign.kind](value, self._signed())
        return value

    def _signed(self) -> Number:
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign.kind == "-"
        value = self._power()
        return _negative(value) if negative else value

    def _power(self) -> Number:
        base = self._atom()
        if self._take("**") is None:
            return base
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotComputable(f"the expression is nested deeper than {MAX_DEPTH}")
        exponent = self._signed()
        self._depth -= 1
        return _power(base, exponent)

    def _atom(self) -> Number:
        if number := self._take("number"):
            return _number(number.text)
        if name := self._take("name"):
            return self._named(name)
        if self._take("("):
            value = self._sum()
            self._expect(")")
            return value
        token = self._tokens[self._next]
        found = "the end" if token.kind == "end" else repr(token.text)
        raise NotComputable(f"expected a number at character {token.at + 1}, found {found}")

    def _named(self, name: _Token) -> Number:
        constant = _CONSTANTS.get(name.text)
        if constant is not None:
            return constant
        function = _FUNCTIONS.get(name.text)
        if function is None:
            raise NotComputable(f"{name.text[:40]!r} is not known; there are {', '.join((*_FUNCTIONS, *_CONSTANTS))}")
        self._expect("(")
        arguments = [self._sum()]
        while self._take(","):
            arguments.append(self._sum())
        self._expect(")")
        if not function.least <= len(arguments) <= function.most:
            raise NotComputable(f"{name.text} does not take {len(arguments)} values")
        return _bounded(function.of(arguments))


def _number(text: str) -> Number:
    digits = text.replace("_", "")
    if len(digits) > MAX_DIGITS:
        raise NotComputable(f"a number has more than {MAX_DIGITS} digits")
    if digits.isdecimal():
        return int(digits)
    return _CONTEXT.create_decimal(digits)


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise NotComputable(f"the result has more than {MAX_DIGITS} digits")
    return value


def _decimal(value: Number) -> Decimal:
    return _CONTEXT.create_decimal(value)


def _negative(value: Number) -> Number:
    return -value if isinstance(value, int) else value.copy_negate()


def _add(one: Number, other: Number) -> Number:
    if isinstance(one, int) and isinstance(other, int):
        return _bounded(one + other)
    return _CONTEXT.add(_decimal(one), _decimal(other))


def _subtract(one: Number, other: Number) -> Number:
    return _add(one, _negative(other))


def _multiply(one: Number, other: Number) -> Number:
    if isinstance(one, int) and isinstance(other, int):
        return _bounded(one * other)
    return _CONTEXT.multiply(_decimal(one), _decimal(other))


def _divide(one: Number, other: Number) -> Number:
    _refuse_zero(other)
    if isinstance(one, int) and isinstance(other, int) and one % other == 0:
        return one // other
    return _CONTEXT.divide(_decimal(one), _decimal(other))


def _floor_divide(one: Number, other: Number) -> Number:
    _refuse_zero(other)
    if isinstance(one, int) and isinstance(other, int):
        return one // other
    dividend, divisor = _decimal(one), _decimal(other)
    quotient = _CONTEXT.divide_int(dividend, divisor)
    rest = _CONTEXT.remainder(dividend, divisor)
    return _CONTEXT.subtract(quotient, Decimal(1)) if rest and (rest < 0) != (divisor < 0) else quotient


def _remainder(one: Number, other: Number) -> Number:
    _refuse_zero(other)
    if isinstance(one, int) and isinstance(other, int):
        return one % other
    divisor = _decimal(other)
    rest = _CONTEXT.remainder(_decimal(one), divisor)
    return _CONTEXT.add(rest, divisor) if rest and (rest < 0) != (divisor < 0) else rest


def _power(base: Number, exponent: Number) -> Number:
    if base == 0 and exponent < 0:
        raise NotComputable("division by zero")
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if exponent * (abs(base).bit_length() - 1) > _MAX_BITS:
            raise NotComputable(f"the result has more than {MAX_DIGITS} digits")
        if abs(base) <= 1:
            return base if exponent % 2 or (base == 0 and exponent) else 1
        return _bounded(base**exponent)
    if base == 0 and exponent == 0:
        return 1
    return _CONTEXT.power(_decimal(base), _decimal(exponent))


def _refuse_zero(divisor: Number) -> None:
    if not divisor:
        raise NotComputable("division by zero")


_SIGNS: Final[dict[str, Callable[[Number, Number], Number]]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "//": _floor_divide,
    "%": _remainder,
}


@dataclass(frozen=True, slots=True)
class _Function:
    of: Callable[[list[Number]], Number]
    least: int = 1
    most: int = 1


def _whole(value: Number, rounding: str) -> int:
    if isinstance(value, int):
        return value
    if value.adjusted() > MAX_DIGITS:
        raise NotComputable(f"the result has more than {MAX_DIGITS} digits")
    return int(value.to_integral_value(rounding=rounding))


def _round(values: list[Number]) -> Number:
    value, digits = values[0], values[1] if len(values) > 1 else 0
    if not isinstance(digits, int) or abs(digits) > PRECISION:
        raise NotComputable(f"round takes a whole number of digits from -{PRECISION} to {PRECISION}")
    if isinstance(value, int):
        return round(value, digits)
    if digits <= 0:
        return round(_whole(value, ROUND_HALF_EVEN), digits) if digits == 0 else _round_left(value, digits)
    return _CONTEXT.quantize(value, Decimal(1).scaleb(-digits)) if value.adjusted() + digits < PRECISION else value


def _round_left(value: Decimal, digits: int) -> int:
    unit = Decimal(1).scaleb(-digits)
    return _whole(_CONTEXT.divide(value, unit), ROUND_HALF_EVEN) * 10**-digits


def _square_root(values: list[Number]) -> Number:
    value = values[0]
    if value < 0:
        raise NotComputable("the square root of a negative number is no real number")
    if isinstance(value, int) and isqrt(value) ** 2 == value:
        return isqrt(value)
    return _CONTEXT.sqrt(_decimal(value))


def _logarithm(of: Callable[[Decimal], Decimal]) -> Callable[[list[Number]], Number]:
    def logarithm(values: list[Number]) -> Number:
        if values[0] <= 0:
            raise NotComputable("only numbers above 0 have a logarithm")
        return of(_decimal(values[0]))

    return logarithm


_MANY: Final = 100
_FUNCTIONS: Final = {
    "abs": _Function(lambda values: abs(values[0]) if isinstance(values[0], int) else values[0].copy_abs()),
    "min": _Function(lambda values: min(values), most=_MANY),
    "max": _Function(lambda values: max(values), most=_MANY),
    "round": _Function(_round, most=2),
    "floor": _Function(lambda values: _whole(values[0], "ROUND_FLOOR")),
    "ceil": _Function(lambda values: _whole(values[0], "ROUND_CEILING")),
    "sqrt": _Function(_square_root),
    "exp": _Function(lambda values: _CONTEXT.exp(_decimal(values[0]))),
    "ln": _Function(_logarithm(_CONTEXT.ln)),
    "log10": _Function(_logarithm(_CONTEXT.log10)),
}


def _written(value: Number) -> str:
    if isinstance(value, int):
        return str(value)
    if not value:
        return "0"
    short = value.normalize(_CONTEXT)
    return format(short, "f") if -30 <= short.adjusted() <= 60 else str(short)
