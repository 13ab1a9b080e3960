"""What a JSONPath asks of values: what they hold, in which order, and how two of them compare (RFC 9535)."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# Values are JSON, which is open.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from services.orchestrator.conditions.budget import Budget
from services.orchestrator.conditions.values import equal, keys_in_order

#: JSON values.
Value = Any


class Nothing:
    """What a query gives that selects nothing: less than null."""


NOTHING: Final = Nothing()


@dataclass(slots=True)
class Scope:
    """What a query looks at."""

    root: Mapping[str, Value]
    budget: Budget


def children(value: Value, scope: Scope) -> list[Value]:
    """Gives what a value holds, the fields of an object by their names."""
    match value:
        case dict():
            return [value[key] for key in keys_in_order(cast(dict[str, Value], value), scope.budget)]
        case list():
            scope.budget.spend(len(value))
            return cast(list[Value], value)
        case _:
            return []


def descendants(value: Value, scope: Scope) -> list[Value]:
    """Gives a value and all below it, each before what it holds."""
    found: list[Value] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting.extend(reversed(children(one, scope)))
    return found


def length(value: Value) -> Value:
    """Gives the characters, items or fields of a value; NOTHING for one that has none."""
    return len(value) if isinstance(value, str | list | dict) else NOTHING


def compare(left: Value, operator: str, right: Value, budget: Budget) -> bool:
    """Compares two values; of different types, or of types without an order, none is less."""
    match operator:
        case "==":
            return equal(left, right, budget)
        case "!=":
            return not equal(left, right, budget)
        case "<":
            return _less(left, right, budget)
        case ">":
            return _less(right, left, budget)
        case "<=":
            return _less(left, right, budget) or equal(left, right, budget)
        case _:
            return _less(right, left, budget) or equal(left, right, budget)


def _less(left: Value, right: Value, budget: Budget) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        budget.spend_text(min(len(left), len(right)))
        return left < right
    return _is_number(left) and _is_number(right) and left < right


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
