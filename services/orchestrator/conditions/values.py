"""When two JSON values are equal, and in which order objects are walked, in CEL and in JSONPath alike."""

from typing import Any

from services.orchestrator.conditions.budget import Budget


def keys_in_order(value: dict[str, Any], budget: Budget) -> list[str]:
    """Gives the keys of an object in the order in which all expressions walk them. Raises: TooCostly."""
    # Sorting costs about as much as two looks at each key, and is paid before it is done.
    budget.spend(2 * len(value))
    return sorted(value)


def equal(left: Any, right: Any, budget: Budget) -> bool:
    """Compares values of any kind; those of different kinds differ. Raises: TooCostly."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, str) and isinstance(right, str):
        budget.spend_text(min(len(left), len(right)))
        return left == right
    if isinstance(left, list) and isinstance(right, list):
        return _equal_lists(left, right, budget)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(left, dict) and isinstance(right, dict):
        return _equal_objects(left, right, budget)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    return left is right


def _equal_lists(left: list[Any], right: list[Any], budget: Budget) -> bool:
    if len(left) != len(right):
        return False
    budget.spend(1 + len(left))
    return all(equal(one, other, budget) for one, other in zip(left, right, strict=True))


def _equal_objects(left: dict[str, Any], right: dict[str, Any], budget: Budget) -> bool:
    budget.spend(1 + min(len(left), len(right)))
    if left.keys() != right.keys():
        return False
    return all(equal(left[key], right[key], budget) for key in keys_in_order(left, budget))
