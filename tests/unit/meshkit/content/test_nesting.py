"""How deep a value nests is told without nesting calls."""

import pytest

from services.meshkit.content import nests_deeper


@pytest.mark.parametrize(
    ("value", "levels"),
    [
        ("text", 0),
        ({}, 1),
        ([[], 1], 2),
        ({"a": 1, "b": {"c": [{"d": None}]}}, 4),
        (({"a": ()},), 3),
    ],
)
def test_objects_and_lists_are_levels(value: object, levels: int) -> None:
    assert not nests_deeper(value, levels)
    assert levels == 0 or nests_deeper(value, levels - 1)


def test_no_value_is_too_deep_to_be_told_so() -> None:
    value: object = None
    for _ in range(100_000):
        value = [value]
    assert nests_deeper(value, 24)
    assert not nests_deeper(value, 100_000)
