"""JSONPath in workflows: RFC 9535 without patterns, checked against schemas, stopped where it costs too much."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonpath import JSONPathEnvironment
from jsonpath.exceptions import JSONPathError

from services.orchestrator.conditions.budget import Budget
from services.orchestrator.conditions.errors import ExpressionFailed, ExpressionRefused, TooCostly
from services.orchestrator.conditions.jsonpath import JsonPathCompiler
from services.orchestrator.conditions.shapes import ANY, Record, Scalar, shape_of

SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer"},
        "lines": {
            "type": "array",
            "items": {"type": "object", "properties": {"sku": {"type": "string"}, "pieces": {"type": "integer"}}},
        },
    },
}
COMPILER = JsonPathCompiler(
    {"input": shape_of(SCHEMA), "nodes": Record({"score": Record({"output": ANY, "state": Scalar.TEXT})})}
)
FACTS = {
    "input": {"count": 4, "lines": [{"sku": "a", "pieces": 2}, {"sku": "b", "pieces": 5}]},
    "nodes": {"score": {"output": {"z": [1, 2, 3], "b": {"c": 7}}, "state": "succeeded"}},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$.input.count", 4),
        ("$['input']['count']", 4),
        ("$.input.lines[-1].sku", "b"),
        ("$.input.lines[*].sku", ["a", "b"]),
        ("$.input.lines[0:1].sku", ["a"]),
        ("$.input.lines[::-1].sku", ["b", "a"]),
        ("$.input.lines[?@.pieces > 2].sku", ["b"]),
        ("$.input.lines[?@.pieces > $.input.count].sku", ["b"]),
        ("$.input.lines[?@.pieces == 2 || @.sku == 'b'].sku", ["a", "b"]),
        ("$.input.lines[?@.pieces >= 2 && !(@.sku == 'b')].sku", ["a"]),
        ("$.input.lines[?length(@.sku) == 1].pieces", [2, 5]),
        ("$.input.lines[?count(@.*) == 2].pieces", [2, 5]),
        ("$.input.lines[?value(@..pieces) == 5].sku", ["b"]),
        ("$.nodes.score.output.*", [{"c": 7}, [1, 2, 3]]),
        ("$.nodes.score.output..*", [{"c": 7}, [1, 2, 3], 7, 1, 2, 3]),
        ("$.nodes.score.output.z[0, 2]", [1, 3]),
        ("$.nodes.score.output.absent[*]", []),
        ("$.nodes.score.state", "succeeded"),
    ],
)
def test_a_path_selects_this(text: str, expected: object) -> None:
    assert COMPILER.compile(text).evaluate(FACTS, Budget()) == expected


def test_a_path_to_one_value_that_is_not_there_fails() -> None:
    with pytest.raises(ExpressionFailed, match=r"nothing at \$\.nodes\.score\.output\.absent"):
        COMPILER.compile("$.nodes.score.output.absent").evaluate(FACTS, Budget())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$.input.cuont", "names `cuont`, which its schema does not have"),
        ("$.input.lines[*].skuu", "names `skuu`"),
        ("$.input.lines[?@.pieces > $.input.cuont]", "names `cuont`"),
        ("$.input.count.more", "type integer, which has no parts"),
        ("$.nodes.socre.output", "names `socre`, which is no node"),
        ("$.nodes.*.output", "must name the node"),
        ("$.nodes", "must name the node"),
        ("$.steps.score", r"must begin with one of \$.input, \$.nodes"),
        ("$..count", "must begin with"),
        ("$", "must begin with"),
        ("$.*", "must begin with"),
        ("input.count", "is no JSONPath"),
        ("$.input.lines[?match(@.sku, '(a+)+')]", "function 'match' is not defined"),
        ("$.input.lines[?search(@.sku, 'a')]", "function 'search' is not defined"),
        ("$.input.lines[?@.sku =~ /a/]", "is no JSONPath"),
        ("$.input.lines[?@.* == 1]", "is no JSONPath"),
        ("$.input | $.nodes", "is no JSONPath"),
        ("$.input.lines[", "is no JSONPath"),
        ("$.input" + "[?@" * 300, "is no JSONPath|nests too deep"),
        ("$.input." + "a" * 2_000, "2000 are taken"),
    ],
)
def test_what_does_not_fit_or_is_no_path_is_refused_when_it_is_written(text: str, said: str) -> None:
    with pytest.raises(ExpressionRefused, match=said):
        COMPILER.compile(text)


@pytest.mark.parametrize(
    "text",
    [
        "$.input..*..*..*",
        "$.input.many[?count($.input..*) > 1]",
        "$.input.many[?@ == $.input.many[0] || count($.input.many[*]) > 9999999]",
        "$.input.many[" + "*," * 200 + "*]",
        "$.input.many[" + "0:," * 200 + "0:]",
        "$.input.same[?@ == $.input.long]",
        "$.input.many[?" + "1<2&&" * 30 + "2<1]",
        "$.input.many[?@" + ".x" * 30 + "]",
        "$.input.many[?!(1<2)||" + "!(1<2)||" * 10 + "length(@)==1]",
    ],
)
def test_a_path_that_would_take_too_long_is_stopped(text: str) -> None:
    compiler = JsonPathCompiler({"input": ANY})
    nested: Any = []
    for _ in range(20):
        nested = [nested, nested]
    long = "a" * 60_000
    facts = {"input": {"many": list(range(3_000)), "nested": nested, "long": long, "same": [long] * 20}}
    budgets = (Budget(), Budget())
    for budget in budgets:
        with pytest.raises(TooCostly):
            compiler.compile(text).select(facts, budget)
    assert budgets[0].used == budgets[1].used


SELECTORS = st.sampled_from(
    [
        ".a",
        ".b",
        "['c']",
        "[0]",
        "[-1]",
        "[*]",
        ".*",
        "[0:2]",
        "[::-1]",
        "..a",
        "..*",
        "['a', 'b']",
        "[?@.a]",
        "[?@.a == 1]",
        "[?@.a > @.b]",
        "[?count(@.*) > 1]",
        "[?length(@.a) == 1]",
        "[?!@.b || @.a == 'x']",
        "[?@ == 1]",
        "[?value(@..a) == 1]",
        "[?@.a != null]",
        "[?@[0] <= 2]",
        "[?$.input.a == @.a]",
    ]
)
VALUES = st.recursive(
    # The library orders truth values among numbers and slices texts; RFC 9535 does neither.
    st.none() | st.integers(-3, 3) | st.just(""),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=15,
)
OURS = JsonPathCompiler({"input": ANY})
THEIRS = JSONPathEnvironment(strict=True)


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {key: _sorted(value[key]) for key in sorted(value)}
        case list():
            return [_sorted(item) for item in value]
        case _:
            return value


@given(parts=st.lists(SELECTORS, max_size=4), value=VALUES)
def test_the_library_selects_the_same(parts: list[str], value: object) -> None:
    text = "$.input" + "".join(parts)
    facts = {"input": _sorted(value)}
    try:
        expected = THEIRS.findall(text, facts)
    except JSONPathError:
        return
    selected = OURS.compile(text).select(facts, Budget())
    if ".." in text:
        # Both orders are allowed: descendants of each child, or each level in turn.
        assert sorted(map(json.dumps, selected)) == sorted(map(json.dumps, expected))
    else:
        assert json.dumps(selected) == json.dumps(expected)
