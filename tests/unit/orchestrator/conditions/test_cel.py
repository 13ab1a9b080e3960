"""CEL in workflows: checked against schemas, evaluated step by step, the same everywhere."""

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
from cel_expr_python import cel as library
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.conditions.budget import MAX_STEPS, Budget
from services.orchestrator.conditions.cel import CelCompiler, CelExpression
from services.orchestrator.conditions.errors import ExpressionFailed, ExpressionRefused, TooCostly
from services.orchestrator.conditions.shapes import ANY, Record, Scalar, shape_of

ORDER = {
    "type": "object",
    "properties": {
        "count": {"type": "integer"},
        "price": {"type": "number"},
        "title": {"type": "string"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "tags": {"type": "object", "additionalProperties": {"type": "integer"}},
        "grid": {"type": "array", "items": {"type": "array"}},
        "note": {"type": ["string", "null"]},
    },
    "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string"}, "pieces": {"type": "integer"}}}},
}
COMPILER = CelCompiler(
    {
        "input": shape_of(ORDER),
        "nodes": Record(
            {
                "read": Record({"output": Scalar.TEXT, "state": Scalar.TEXT, "reason": Scalar.TEXT}),
                "score": Record({"output": ANY, "state": Scalar.TEXT, "reason": Scalar.TEXT}),
            }
        ),
        "any": ANY,
    }
)
FACTS = {
    "input": {
        "count": 4,
        "price": 3,
        "title": "an order",
        "lines": [{"sku": "a", "pieces": 2}, {"sku": "b", "pieces": 5}],
        "tags": {"z": 1, "b": 2},
        "grid": [[1, 2], [3]],
        "note": None,
    },
    "nodes": {
        "read": {"output": "text", "state": "succeeded", "reason": ""},
        "score": {"output": {"value": 0.9, "parts": [1, 2, 3]}, "state": "succeeded", "reason": ""},
    },
    "any": {"b": 1, "a": [1, 2], "half": 0.5},
}


def compiled(text: str) -> CelExpression:
    return COMPILER.compile(text)


def value(text: str, facts: dict[str, Any] = FACTS) -> Any:
    return compiled(text).evaluate(facts, Budget())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input.count > 3 && nodes.score.output.value >= 0.5", True),
        ("input.count + 1", 5),
        ("input.count / 3", 1),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("input.price / 2.0", 1.5),
        ("any.b / 2", 0.5),
        ("(any.b / 2) / 2", 0.25),
        ("any.half * 2", 1),
        ("any.b * 1.5", 1.5),
        ("input.lines.map(line, line.pieces * 2)", [4, 10]),
        ("input.lines.filter(line, line.pieces > 2)", [{"sku": "b", "pieces": 5}]),
        ("input.lines.exists(line, line.sku == 'b')", True),
        ("input.lines.exists_one(line, line.pieces > 1)", False),
        ("input.lines.all(line, line.pieces > 1)", True),
        ("input.lines[1].sku + '!'", "b!"),
        ("input.grid.map(row, row.map(cell, cell + 1))", [[2, 3], [4]]),
        ("input.grid.map(row, size(row)) + [0]", [2, 1, 0]),
        ("[1, 2].map(x, x > 1, x * 10)", [20]),
        ("input.tags.map(key, key)", ["b", "z"]),
        ("any.map(key, key)", ["a", "b", "half"]),
        ("{'b': 1, 'a': 2, 'c': 3}.map(key, key)", ["a", "b", "c"]),
        ("{'count': input.count, 'all': [any.b]}", {"count": 4, "all": [1]}),
        ("has(input.note)", False),
        ("has(input.title)", True),
        ("has(nodes.score.output.absent)", False),
        ("any.a.exists(x, x.absent == 1 || x == 2)", True),
        ("any.absent == 1 || true", True),
        ("any.absent == 1 && false", False),
        ("'b' in any", True),
        ("2 in any.a", True),
        ("'title' in any", False),
        ("dyn(1) == 1.0", True),
        ("dyn(true) == 1", False),
        ("dyn('1') == 1", False),
        ("any == {'half': 0.5, 'a': [1, 2], 'b': 1}", True),
        ("any.a != [1, 2]", False),
        ("'a' < 'b' && 1 < 2 && false < true", True),
        ("input.title.startsWith('an') && input.title.endsWith('er') && input.title.contains('ord')", True),
        ("input.title.matches('^an? [a-z]+$')", True),
        ("size(input.title) + size(any.a) + size(any)", 13),
        ("string(2.5) + string(input.count) + string(true)", "2.54true"),
        ("int('12') + int(3.9)", 15),
        ("double('1.5') + double(1)", 2.5),
        ("input.count > 3 ? 'many' : 'few'", "many"),
        ("[1, 2, 3].map(nodes, nodes + 1)", [2, 3, 4]),
        ("[3, 4].map(input, input)[1] + input.count", 8),
        ("null", None),
    ],
)
def test_an_expression_has_this_value(text: str, expected: object) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "said", "at"),
    [
        ("input.count + 'a'", "no matching overload", 13),
        ("input.title > 3", "no matching overload", 13),
        ("input.titel", "names `titel`, which its schema does not have", 6),
        ("input.lines.map(line, line.piece)", "names `piece`, which its schema does not have", 27),
        ("nodes.raed.output", "names `raed`, which is no node", 6),
        ("nodes.read.result", "names `result`", 11),
        ("nodes.read.output.score", "asks a value of type string for a field", 18),
        ("input.tags.z + 'a'", "no matching overload", 14),
    ],
)
def test_what_does_not_fit_the_schemas_is_refused_with_its_place(text: str, said: str, at: int) -> None:
    with pytest.raises(ExpressionRefused, match=said) as refusal:
        compiled(text)
    assert (refusal.value.at, refusal.value.typed) == (at, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("input.count +", "is no CEL"),
        ("(1", "is no CEL"),
        ("ünput.count", "is no CEL"),
        ("nodes", "must name the node"),
        ("dyn(nodes) == 1", "must name the node"),
        ("[1].exists(x, [nodes, x] == [])", "must name the node"),
        ("timestamp('2026-01-01T00:00:00Z') > timestamp(input.title)", "uses `timestamp`"),
        ("duration('1h') > duration('2h')", "uses `duration`"),
        ("b'bytes' == b'bytes'", "literal that JSON does not know"),
        ("1u + 2u", "literal that JSON does not know"),
        ("type(1) == int", "not available here"),
        ("int == int", "compares types"),
        ("google.protobuf.Struct{}", "makes a message"),
        ("input.title.matches(input.title)", "no literal"),
        ("input.title.matches('a{1000}{1000}')", "RE2 refuses"),
        ("input.title.matches('(?=a)')", "RE2 refuses"),
        (f"input.title.matches('{'a' * 201}')", "more than 200"),
        ("1" + " + 1" * 1_000, "2000 are taken"),
        ("1" + "+1" * 500, "nests deeper"),
        ("(" * 100 + "1" + ")" * 100, "nests deeper"),
        ("[" * 100 + "1" + "]" * 100, "nests deeper"),
        ("any" + ".a" * 100, "nests deeper"),
        ("[1].map(a, [1].map(b, [1].map(c, [1].map(d, d))))", "loops deeper than 3"),
        ("now() > 1", "names `now`, which is neither"),
        ("random()", "names `random`, which is neither"),
        ("stepz.read", "names `stepz.read`, which is neither"),
    ],
)
def test_what_cannot_be_bounded_or_repeated_is_refused_when_it_is_written(text: str, said: str) -> None:
    with pytest.raises(ExpressionRefused, match=said):
        compiled(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "divides by zero"),
        ("1 % 0", "divides by zero"),
        ("any.half / 0", "divides by zero"),
        ("9223372036854775807 + 1", "more than 64 bits"),
        ("-9223372036854775807 - 2", "more than 64 bits"),
        ("1.0e308 * 10.0", "too large"),
        ("any.absent", "there is no `absent`; ask with has"),
        ("any.a[2]", "item 2 of a list of 2"),
        ("any.a[-1]", "item -1 of a list of 2"),
        ("any.b.c", "asks a number for `c`"),
        ("any.b && true", "takes a number for true or false"),
        ("any.b + 'x'", "takes a text for a number"),
        ("any.b < 'x'", "takes a number for a text|takes a text for a number"),
        ("int('1_000')", "takes a text for a whole number"),
        ("double('nan')", "takes a text for a number"),
        ("string(any)", "takes an object for a text"),
        ("{'a': 1, input.title: 2, 'an order': 3}", "comes twice"),
        ("any.b.map(x, x)", "walks a number"),
        ("'x' in any.b", "looks into a number"),
        ("size(any.b)", "for its size"),
        ("[1, 2].all(x, any.absent == x)", "there is no `absent`"),
    ],
)
def test_what_has_no_value_fails_with_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ExpressionFailed, match=said):
        value(text)


@pytest.mark.parametrize(
    "text",
    [
        "['a']" + ".map(x, x + x)" * 20,
        "[[1]]" + ".map(x, x + x)" * 20,
        "[1]" + ".map(x, [x, x])" * 20,
        "[1]" + ".map(x, {'l': x, 'r': x})" * 20,
        "many.map(x, many)",
        "many.map(x, [many, many])",
        "many.all(x, many.all(y, many.all(z, z >= 0)))",
        "many.exists(x, many == many && x < 0)",
        "many.filter(x, long.contains('b') || x < 0)",
        "many.map(x, long.matches('(a+)+$'))",
        "many.map(x, long + long)",
        "many.exists(x, long == long && x < 0)",
        "many.map(x, x in many)",
        "many.exists(x, keyed.exists(k, true) && false)",
    ],
)
def test_what_would_never_end_or_explode_is_stopped_after_the_same_number_of_steps(text: str) -> None:
    compiler = CelCompiler({"many": ANY, "keyed": ANY, "long": Scalar.TEXT})
    keyed = {str(number): number for number in range(1_000)}
    facts = {"many": list(range(2_000)), "keyed": keyed, "long": "a" * 60_000}
    budgets = (Budget(), Budget())
    for budget in budgets:
        with pytest.raises(TooCostly, match=str(MAX_STEPS)):
            compiler.compile(text).evaluate(facts, budget)
    assert budgets[0].used == budgets[1].used


def test_a_pattern_costs_more_for_each_character_the_bigger_its_automaton_is() -> None:
    compiler, used = CelCompiler({"text": Scalar.TEXT}), list[int]()
    for pattern in ("q", "([a-z]*q[a-z]{60}){3}z"):
        budget = Budget()
        compiler.compile(f"text.matches('{pattern}')").evaluate({"text": "qaz" * 1_000}, budget)
        used.append(budget.used)
    assert used[1] > 2 * used[0]


def test_a_cost_that_is_spent_is_no_failure_that_another_side_could_undo() -> None:
    compiler = CelCompiler({"many": ANY})
    with pytest.raises(TooCostly):
        compiler.compile("many.all(x, many.all(y, y >= 0)) || true").evaluate({"many": list(range(2_000))}, Budget())


def test_ten_thousand_items_are_passed_on_for_nothing_and_looked_at_within_the_budget() -> None:
    compiler = CelCompiler({"many": ANY})
    facts = {"many": [{"id": number, "text": "x" * 100} for number in range(10_000)]}
    passed = Budget()
    assert compiler.compile("many").evaluate(facts, passed) is facts["many"]
    assert passed.used < 5
    assert compiler.compile("size(many) > 9000").evaluate(facts, Budget()) is True


def test_the_names_and_nodes_that_an_expression_reads_are_known() -> None:
    expression = compiled("input.count > 1 && nodes.read.state == nodes.score.state && [1].all(any, any > 0)")
    assert expression.names == {"input", "nodes"}
    assert expression.nodes == {"read", "score"}


def test_another_process_gives_the_same_answer_whatever_its_hashes_are() -> None:
    texts = [
        "any.map(key, key)",
        "{'q': 1, 'w': 2, 'e': 3, 'r': 4, 't': 5}.map(key, key)",
        "{'q': any, 'w': any.map(key, key + 'x')}",
        "any.filter(key, key != 'b')",
    ]
    program = (
        "import json, sys\n"
        "from services.orchestrator.conditions.budget import Budget\n"
        "from services.orchestrator.conditions.cel import CelCompiler\n"
        "from services.orchestrator.conditions.shapes import ANY\n"
        "texts, facts = json.load(sys.stdin)\n"
        "compiler = CelCompiler({'any': ANY})\n"
        "print(json.dumps([compiler.compile(text).evaluate(facts, Budget()) for text in texts]))\n"
    )
    facts = {"any": {"b": 1, "a": [1, 2], "half": 0.5}}
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps([texts, facts]),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    compiler = CelCompiler({"any": ANY})
    assert [json.loads(answer) for answer in answers] == [
        [compiler.compile(text).evaluate(facts, Budget()) for text in texts]
    ]


#: JSON, with numbers of every kind.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text("abß\U0001f600 ", max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
LITERALS = ["1", "0", "-3", "2.5", "'a'", "'ab'", "true", "false", "null", "[]", "[1, 2]", "{'a': 1}", "['a', 'b']"]
LEAVES = st.sampled_from([*LITERALS, "x", "y", "x.a", "y.b", "x[0]", "y['a']"])


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in"])
    return st.one_of(
        st.tuples(inner, binary, inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda part: f"!({part})"),
        inner.map(lambda part: f"size({part})"),
        inner.map(lambda part: f"string({part})"),
        inner.map(lambda part: f"int({part})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"(({parts[0]}) ? ({parts[1]}) : ({parts[2]}))"),
        st.tuples(
            inner, st.sampled_from(["all", "exists", "exists_one", "map", "filter"]), inner, st.sampled_from("xyz")
        ).map(lambda parts: f"({parts[0]}).{parts[1]}({parts[3]}, {parts[2]})"),
        st.tuples(inner, st.sampled_from(["contains", "startsWith", "endsWith"]), inner).map(
            lambda parts: f"({parts[0]}).{parts[1]}({parts[2]})"
        ),
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
    )


TEXTS = st.recursive(LEAVES, _grown, max_leaves=6)
OURS = CelCompiler({"x": ANY, "y": ANY})
THEIRS = library.NewEnv(variables={"x": library.Type.DYN, "y": library.Type.DYN})


@given(text=TEXTS, x=VALUES, y=VALUES)
def test_the_same_facts_always_give_the_same_answer_and_never_another_error(text: str, x: object, y: object) -> None:
    def answer() -> str:
        budget = Budget()
        try:
            given = CelCompiler({"x": ANY, "y": ANY}).compile(text).evaluate({"x": x, "y": y}, budget)
        except (ExpressionRefused, ExpressionFailed) as error:
            return f"{type(error).__name__}: {error} {budget.used}"
        return f"{json.dumps(given, allow_nan=False, sort_keys=True)} {budget.used}"

    assert answer() == answer()


def _plain(value: Any) -> Any:
    """JSON knows one kind of number."""
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            return float(value)
        case list():
            return [_plain(item) for item in value]
        case _:
            return {key: _plain(item) for key, item in value.items()}


def _ordered(value: Any) -> Any:
    return sorted(value, key=repr) if isinstance(value, list) else value


@given(text=TEXTS, x=VALUES, y=VALUES)
def test_where_the_library_has_an_answer_ours_is_the_same(text: str, x: object, y: object) -> None:
    try:
        theirs = THEIRS.compile(text).eval(data={"x": x, "y": y})
        if theirs.type().name() == "ERROR":
            return
        expected = theirs.plain_value()
    except RuntimeError:
        return
    if isinstance(expected, float) and not math.isfinite(expected):
        return
    try:
        given = OURS.compile(text).evaluate({"x": x, "y": y}, Budget())
    except (ExpressionRefused, ExpressionFailed) as error:
        raise AssertionError(f"{text} with {x!r}, {y!r}: {expected!r} there, {error} here") from error
    # Objects are walked in no order there.
    assert _plain(given) == _plain(expected) or _ordered(_plain(given)) == _ordered(_plain(expected))
