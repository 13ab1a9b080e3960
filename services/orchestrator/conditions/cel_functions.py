"""What expressions in CEL may call, over JSON values: each function pays for what it does."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# Values are JSON, which is open.

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from services.orchestrator.conditions.budget import Budget
from services.orchestrator.conditions.errors import ExpressionFailed
from services.orchestrator.conditions.values import equal, keys_in_order

_INT64: Final = 1 << 63
_WHOLE: Final = re.compile(r"[-+]?\d{1,19}")
_DECIMAL: Final = re.compile(r"[-+]?(\d{1,30}\.?\d{0,30}|\.\d{1,30})([eE][-+]?\d{1,3})?")
#: Greatest whole number that is written without an exponent.
_PLAIN: Final = 1e15

#: JSON values.
Value = Any


class Made(list[Value]):
    """A list that an expression made."""


class MadeMap(dict[str, Value]):
    """A map that an expression made."""


def _kind(value: Value) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


def has(value: Value, field: str) -> bool:
    """Says whether an object has a field that is not null. Raises: ExpressionFailed."""
    if value is None:
        return False
    if not isinstance(value, dict):
        raise ExpressionFailed(f"asks {_kind(value)} for `{field}`; only objects have fields")
    return value.get(field) is not None


def field_of(value: Value, field: str) -> Value:
    """Gives a field of an object. Raises: ExpressionFailed."""
    if not isinstance(value, dict):
        raise ExpressionFailed(f"asks {_kind(value)} for `{field}`; only objects have fields")
    try:
        return value[field]
    except KeyError:
        raise ExpressionFailed(f"there is no `{field[:64]}`; ask with has() first") from None


def items_of(value: Value, budget: Budget) -> list[Value]:
    """Gives what a loop over a value walks: a list's items, an object's keys in order. Raises: ExpressionFailed."""
    match value:
        case list():
            # A list that grows while it is walked is one that the expression builds, never this one.
            return value
        case dict():
            return keys_in_order(value, budget)
        case _:
            raise ExpressionFailed(f"walks {_kind(value)}; only lists and objects have items")


def truth(value: Value) -> bool:
    """Gives a truth value. Raises: ExpressionFailed."""
    if not isinstance(value, bool):
        raise ExpressionFailed(f"takes {_kind(value)} for true or false")
    return value


def text_of(value: Value) -> str:
    """Gives a text. Raises: ExpressionFailed."""
    if not isinstance(value, str):
        raise ExpressionFailed(f"takes {_kind(value)} for a text")
    return value


def _number(value: Value) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionFailed(f"takes {_kind(value)} for a number")
    return value


def _whole(value: Value) -> int:
    number = _number(value)
    if isinstance(number, float):
        if not number.is_integer():
            raise ExpressionFailed("takes a fraction for a whole number")
        return int(number)
    return number


def _bounded(number: int | float) -> int | float:
    if isinstance(number, int):
        if not -_INT64 <= number < _INT64:
            raise ExpressionFailed("gives a whole number of more than 64 bits")
    elif not math.isfinite(number):
        raise ExpressionFailed("gives a number that is too large")
    return number


def _add(left: Value, right: Value, budget: Budget) -> Value:
    if isinstance(left, str) and isinstance(right, str):
        budget.spend_text(len(left) + len(right))
        return left + right
    if isinstance(left, list) and isinstance(right, list):
        budget.spend(len(left) + len(right))
        return Made([*left, *right])
    if isinstance(left, str | list):
        raise ExpressionFailed(f"adds {_kind(right)} to {_kind(left)}")
    return _bounded(_number(left) + _number(right))


def _subtract(left: Value, right: Value, _: Budget) -> Value:
    return _bounded(_number(left) - _number(right))


def _multiply(left: Value, right: Value, _: Budget) -> Value:
    return _bounded(_number(left) * _number(right))


def _divide(left: Value, right: Value, _: Budget) -> Value:
    divisor = _number(right)
    if divisor == 0:
        raise ExpressionFailed("divides by zero")
    try:
        return _bounded(_number(left) / divisor)
    except OverflowError:
        raise ExpressionFailed("gives a number that is too large") from None


def _divide_whole(left: Value, right: Value, _: Budget) -> int | float:
    dividend, divisor = _whole(left), _whole(right)
    if divisor == 0:
        raise ExpressionFailed("divides by zero")
    quotient = abs(dividend) // abs(divisor)
    return _bounded(quotient if (dividend < 0) == (divisor < 0) else -quotient)


def _modulo(left: Value, right: Value, _: Budget) -> int | float:
    dividend, divisor = _whole(left), _whole(right)
    if divisor == 0:
        raise ExpressionFailed("divides by zero")
    remainder = abs(dividend) % abs(divisor)
    return -remainder if dividend < 0 else remainder


def _negate(value: Value, _: Budget) -> Value:
    return _bounded(-_number(value))


def _not(value: Value, _: Budget) -> bool:
    return not truth(value)


def _differ(left: Value, right: Value, budget: Budget) -> bool:
    return not equal(left, right, budget)


def _order(left: Value, right: Value, budget: Budget) -> int:
    """Gives -1, 0 or 1."""
    if isinstance(left, str) and isinstance(right, str):
        budget.spend_text(min(len(left), len(right)))
        return (left > right) - (left < right)
    if isinstance(left, bool) and isinstance(right, bool):
        return left - right
    one, other = _number(left), _number(right)
    return (one > other) - (one < other)


def _less(left: Value, right: Value, budget: Budget) -> bool:
    return _order(left, right, budget) < 0


def _at_most(left: Value, right: Value, budget: Budget) -> bool:
    return _order(left, right, budget) <= 0


def _more(left: Value, right: Value, budget: Budget) -> bool:
    return _order(left, right, budget) > 0


def _at_least(left: Value, right: Value, budget: Budget) -> bool:
    return _order(left, right, budget) >= 0


def _in(item: Value, container: Value, budget: Budget) -> bool:
    match container:
        case list():
            for one in container:
                budget.spend(1)
                if equal(one, item, budget):
                    return True
            return False
        case dict():
            return isinstance(item, str) and item in container
        case _:
            raise ExpressionFailed(f"looks into {_kind(container)}; only lists and objects have items")


def _index(container: Value, key: Value, _: Budget) -> Value:
    if isinstance(container, list):
        place = _whole(key)
        if not 0 <= place < len(container):
            raise ExpressionFailed(f"asks for item {place} of a list of {len(container)}")
        return container[place]
    return field_of(container, text_of(key))


def _size(value: Value, _: Budget) -> int:
    if not isinstance(value, str | list | dict):
        raise ExpressionFailed(f"asks {_kind(value)} for its size")
    return len(value)


def _contains(text: Value, part: Value, budget: Budget) -> bool:
    budget.spend_text(len(text_of(text)) + len(text_of(part)))
    return part in text


def _starts_with(text: Value, part: Value, budget: Budget) -> bool:
    budget.spend_text(len(text_of(part)))
    return text_of(text).startswith(part)


def _ends_with(text: Value, part: Value, budget: Budget) -> bool:
    budget.spend_text(len(text_of(part)))
    return text_of(text).endswith(part)


def _to_int(value: Value, _: Budget) -> int | float:
    if isinstance(value, str):
        if _WHOLE.fullmatch(value) is None:
            raise ExpressionFailed("takes a text for a whole number that is none")
        return _bounded(int(value))
    return _bounded(math.trunc(_number(value)))


def _to_double(value: Value, _: Budget) -> int | float:
    if isinstance(value, str):
        if _DECIMAL.fullmatch(value) is None:
            raise ExpressionFailed("takes a text for a number that is none")
        return _bounded(float(value))
    return float(_number(value))


def _to_string(value: Value, budget: Budget) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < _PLAIN else repr(value)
        case _:
            raise ExpressionFailed(f"takes {_kind(value)} for a text; only texts, numbers and truth values have one")


def _same(value: Value, _: Budget) -> Value:
    return value


#: What an expression may call, by name and number of arguments.
FUNCTIONS: Final[Mapping[tuple[str, int], Callable[..., Value]]] = {
    ("_+_", 2): _add,
    ("_-_", 2): _subtract,
    ("_*_", 2): _multiply,
    ("_/_", 2): _divide,
    ("_//_", 2): _divide_whole,
    ("_%_", 2): _modulo,
    ("-_", 1): _negate,
    ("!_", 1): _not,
    ("_==_", 2): equal,
    ("_!=_", 2): _differ,
    ("_<_", 2): _less,
    ("_<=_", 2): _at_most,
    ("_>_", 2): _more,
    ("_>=_", 2): _at_least,
    ("@in", 2): _in,
    ("_[_]", 2): _index,
    ("size", 1): _size,
    ("contains", 2): _contains,
    ("startsWith", 2): _starts_with,
    ("endsWith", 2): _ends_with,
    ("int", 1): _to_int,
    ("double", 1): _to_double,
    ("string", 1): _to_string,
    ("dyn", 1): _same,
}
