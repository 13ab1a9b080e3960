"""JSONPath (RFC 9535): parsed by `python-jsonpath`, evaluated here step by step.

The library's own evaluator is not used: it cannot be stopped, and `match` and `search` run patterns by `re`; both
functions are left out. Objects are walked in the order of their keys, so that the same facts always give the same list.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# Values are JSON, which is open.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from jsonpath import JSONPathEnvironment
from jsonpath.exceptions import JSONPathError
from jsonpath.filter import (
    BaseExpression,
    FilterExpressionLiteral,
    FilterQuery,
    FunctionExtension,
    InfixExpression,
    Nil,
    PrefixExpression,
    RelativeFilterQuery,
    RootFilterQuery,
)
from jsonpath.path import JSONPath
from jsonpath.segments import JSONPathRecursiveDescentSegment, JSONPathSegment
from jsonpath.selectors import (
    Filter,
    IndexSelector,
    JSONPathSelector,
    NameSelector,
    SliceSelector,
    WildcardSelector,
)

from services.orchestrator.conditions.budget import Budget
from services.orchestrator.conditions.errors import ExpressionFailed, ExpressionRefused, unknown_node
from services.orchestrator.conditions.jsonpath_values import (
    NOTHING,
    Scope,
    Value,
    children,
    compare,
    descendants,
    length,
)
from services.orchestrator.conditions.shapes import ANY, ListOf, MapOf, Record, Scalar, Shape

MAX_CHARACTERS: Final = 2_000
_COMPARE: Final = frozenset({"==", "!=", "<", "<=", ">", ">="})

Select = Callable[[list[Value], Scope], list[Value]]
Test = Callable[[Value, Scope], bool]
Give = Callable[[Value, Scope], Value]


class _Environment(JSONPathEnvironment):
    """RFC 9535 to the letter, without regular expressions."""

    def setup_function_extensions(self) -> None:
        """Leaves out what runs patterns of users by `re`."""
        super().setup_function_extensions()
        for name in ("match", "search"):
            del self.function_extensions[name]


_ENVIRONMENT: Final = _Environment(strict=True, filter_caching=False)


@dataclass(frozen=True, slots=True)
class JsonPathExpression:
    """A path that compiled."""

    text: str
    _select: Select
    #: True when it can select one value only.
    singular: bool
    #: Variables that it reads, and ids of nodes.
    names: frozenset[str]
    nodes: frozenset[str]
    #: What its value is; ANY where only the facts say.
    shape: Shape

    def select(self, facts: Mapping[str, Value], budget: Budget) -> list[Value]:
        """Gives the values that it selects, in order. Raises: ExpressionFailed."""
        return self._select([facts], Scope(facts, budget))

    def evaluate(self, facts: Mapping[str, Value], budget: Budget) -> Value:
        """Gives the one value of a path that can select one only, else the list. Raises: ExpressionFailed."""
        selected = self.select(facts, budget)
        if not self.singular:
            for value in selected:
                budget.spend_value(value)
            return selected
        if not selected:
            raise ExpressionFailed(f"there is nothing at {self.text[:200]}")
        return selected[0]


class JsonPathCompiler:
    """Compiles paths over some variables."""

    def __init__(self, variables: Mapping[str, Shape]) -> None:
        self._variables = variables

    def compile(self, text: str) -> JsonPathExpression:
        """Compiles a path. Raises: ExpressionRefused."""
        if len(text) > MAX_CHARACTERS:
            raise ExpressionRefused(f"has {len(text)} characters; at most {MAX_CHARACTERS} are taken")
        try:
            path = _ENVIRONMENT.compile(text)
        except JSONPathError as error:
            token = error.token
            at = 0 if token is None or token.index < 0 else token.index + 1
            raise ExpressionRefused(f"is no JSONPath: {_words(error)}", at=at) from None
        except RecursionError:
            raise ExpressionRefused("nests too deep") from None
        if not isinstance(path, JSONPath):
            raise ExpressionRefused("joins several paths; write one")
        translator = _Translator(self._variables)
        shape = translator.check(path.segments)
        select = translator.query(path.segments)
        names, nodes = frozenset(translator.names), frozenset(translator.nodes)
        return JsonPathExpression(text, select, _singular(path.segments), names, nodes, shape)


def _words(error: JSONPathError) -> str:
    return str(error.args[0]) if error.args else "cannot be read"


def _singular(segments: Sequence[JSONPathSegment]) -> bool:
    return all(_step(segment) is not None for segment in segments)


def _step(segment: JSONPathSegment) -> str | int | None:
    """Gives the one name or index that a segment selects; None for any other segment."""
    if isinstance(segment, JSONPathRecursiveDescentSegment) or len(segment.selectors) != 1:
        return None
    match segment.selectors[0]:
        case NameSelector() as selector:
            return selector.name
        case IndexSelector() as selector:
            return selector.index
        case _:
            return None


class _Translator:
    def __init__(self, variables: Mapping[str, Shape]) -> None:
        self._variables = variables
        self.names: set[str] = set()
        self.nodes: set[str] = set()

    def check(self, segments: Sequence[JSONPathSegment]) -> Shape:
        """Follows a path from the root through what is known of the facts. Raises: ExpressionRefused."""
        first = _step(segments[0]) if segments else None
        if not isinstance(first, str) or first not in self._variables:
            known = ", ".join(f"$.{name}" for name in sorted(self._variables))
            raise ExpressionRefused(f"must begin with one of {known}", typed=True)
        self.names.add(first)
        shape = self._variables[first]
        if first == "nodes":
            node = _step(segments[1]) if len(segments) > 1 else None
            if not isinstance(node, str):
                raise ExpressionRefused("must name the node, as in $.nodes.analyse.output", typed=True)
            if isinstance(shape, Record) and node not in shape.fields:
                raise unknown_node(node, at=segments[1].token.index + 1)
            self.nodes.add(node)
        if not _singular(segments):
            _followed(shape, segments[1:])
            return ListOf(ANY)
        return _followed(shape, segments[1:])

    def query(self, segments: Sequence[JSONPathSegment]) -> Select:
        """Makes what selects along a path, from the values that it is given."""
        parts = [self._segment(segment) for segment in segments]

        def select(values: list[Value], scope: Scope) -> list[Value]:
            scope.budget.spend(len(parts))
            for part in parts:
                values = part(values, scope)
            return values

        return select

    def _segment(self, segment: JSONPathSegment) -> Select:
        selectors = [self._selector(selector) for selector in segment.selectors]
        descends = isinstance(segment, JSONPathRecursiveDescentSegment)

        def select(values: list[Value], scope: Scope) -> list[Value]:
            if descends:
                values = [below for value in values for below in descendants(value, scope)]
            selected: list[Value] = []
            for value in values:
                for selector in selectors:
                    chosen = selector([value], scope)
                    scope.budget.spend(1 + len(chosen))
                    selected.extend(chosen)
            return selected

        return select

    def _selector(self, selector: JSONPathSelector) -> Select:
        match selector:
            case NameSelector():
                name = selector.name
                return lambda values, _: [one[name] for one in values if isinstance(one, dict) and name in one]
            case IndexSelector():
                index = selector.index
                return lambda values, _: [
                    one[index] for one in values if isinstance(one, list) and -len(one) <= index < len(one)
                ]
            case SliceSelector():
                part = selector.slice
                if part.step == 0:
                    return lambda values, _: []
                return lambda values, _: [item for one in values if isinstance(one, list) for item in one[part]]
            case WildcardSelector():
                return lambda values, scope: [child for one in values for child in children(one, scope)]
            case Filter():
                test = self._test(selector.expression.expression)
                steps = _steps(selector.expression.expression)

                def taken(values: list[Value], scope: Scope) -> list[Value]:
                    held = [child for one in values for child in children(one, scope)]
                    scope.budget.spend(steps * len(held))
                    return [child for child in held if test(child, scope)]

                return taken
            case _:
                raise ExpressionRefused("has a selector that is not available here")

    def _test(self, expression: BaseExpression) -> Test:
        """Makes what says of a value whether a filter takes it."""
        match expression:
            case InfixExpression(operator="&&"):
                left, right = self._test(expression.left), self._test(expression.right)
                return lambda value, scope: left(value, scope) and right(value, scope)
            case InfixExpression(operator="||"):
                left, right = self._test(expression.left), self._test(expression.right)
                return lambda value, scope: left(value, scope) or right(value, scope)
            case InfixExpression() if expression.operator in _COMPARE:
                one, other = self._value(expression.left), self._value(expression.right)
                operator = expression.operator
                return lambda value, scope: compare(one(value, scope), operator, other(value, scope), scope.budget)
            case PrefixExpression():
                inner = self._test(expression.right)
                return lambda value, scope: not inner(value, scope)
            case FilterQuery():
                query = self._query_of(expression)
                return lambda value, scope: bool(query(value, scope))
            case _:
                raise ExpressionRefused("has a filter that is not available here; compare, or name a path")

    def _value(self, expression: BaseExpression) -> Give:
        match expression:
            case Nil():
                return lambda _value, _scope: None
            case FilterExpressionLiteral():
                literal = cast("FilterExpressionLiteral[Any]", expression).value
                if not isinstance(literal, str | int | float):
                    raise ExpressionRefused("has a literal that is not available here")
                return lambda _value, _scope: literal
            case FilterQuery():
                if not _singular(expression.path.segments):
                    raise ExpressionRefused("compares a path that can select several values; use value() or count()")
                query = self._query_of(expression)
                return lambda value, scope: next(iter(query(value, scope)), NOTHING)
            case FunctionExtension():
                return self._function(expression)
            case _:
                raise ExpressionRefused("has a filter that is not available here; compare values")

    def _function(self, expression: FunctionExtension) -> Give:
        argument = expression.args[0]
        if expression.name == "length":
            of = self._value(argument)
            return lambda value, scope: length(of(value, scope))
        if not isinstance(argument, FilterQuery) or expression.name not in ("count", "value"):
            raise ExpressionRefused(f"uses `{expression.name}`, which is not available here")
        query = self._query_of(argument)
        if expression.name == "count":
            return lambda value, scope: len(query(value, scope))

        def only(value: Value, scope: Scope) -> Value:
            selected = query(value, scope)
            return selected[0] if len(selected) == 1 else NOTHING

        return only

    def _query_of(self, query: FilterQuery) -> Callable[[Value, Scope], list[Value]]:
        segments = query.path.segments
        select = self.query(segments)
        match query:
            case RelativeFilterQuery():
                return lambda value, scope: select([value], scope)
            case RootFilterQuery():
                self.check(segments)
                return lambda _, scope: select([scope.root], scope)
            case _:
                raise ExpressionRefused("has a path that begins with neither $ nor @")


def _steps(expression: BaseExpression) -> int:
    """Gives how many steps one test of a filter takes at most, besides those of the paths in it."""
    match expression:
        case InfixExpression():
            return 1 + _steps(expression.left) + _steps(expression.right)
        case PrefixExpression():
            return 1 + _steps(expression.right)
        case FunctionExtension():
            return 1 + sum(_steps(argument) for argument in expression.args)
        case _:
            return 1


def _followed(shape: Shape, segments: Sequence[JSONPathSegment]) -> Shape:
    """Gives what is known of the value at a path below a value of this shape. Raises: ExpressionRefused."""
    for segment in segments:
        if isinstance(segment, JSONPathRecursiveDescentSegment) or len(segment.selectors) != 1:
            return ANY
        match segment.selectors[0], shape:
            case NameSelector() as selector, Record(fields):
                if selector.name not in fields:
                    sentence = f"names `{selector.name[:64]}`, which its schema does not have"
                    raise ExpressionRefused(sentence, at=segment.token.index + 1, typed=True)
                shape = fields[selector.name]
            case NameSelector(), MapOf(value):
                shape = value
            case ((IndexSelector() | SliceSelector() | WildcardSelector() | Filter()), ListOf(item)):
                shape = item
            case _, Scalar() if shape is not ANY:
                sentence = f"looks into a value of type {shape.value}, which has no parts"
                raise ExpressionRefused(sentence, at=segment.token.index + 1, typed=True)
            case _:
                return ANY
    return shape
