"""The expressions of one workflow: compiled when they are first needed, against what its schemas say of the facts.

Facts are JSON values by the names that expressions know: `input`, `nodes` (by id, each with `output`, `state` and
`reason`), and where they apply `item`, `index` and `items`. The same workflow and the same facts always give the same
answer.
"""

from collections.abc import Mapping
from typing import Final

from services.orchestrator.conditions.budget import Allowance, Budget
from services.orchestrator.conditions.cel import CelCompiler, CelExpression
from services.orchestrator.conditions.errors import ExpressionFailed, ExpressionRefused
from services.orchestrator.conditions.jsonpath import JsonPathCompiler, JsonPathExpression
from services.orchestrator.conditions.shapes import ANY, ListOf, MapOf, Record, Scalar, Shape, shape_of
from services.orchestrator.domain.workflow import (
    AgentNode,
    AggregateNode,
    Cel,
    ItemFailure,
    Json,
    JsonPath,
    Literal,
    MapNode,
    Node,
    Reducer,
    ToolNode,
    Workflow,
)

#: Maps whose items are known by type to their bodies; for the type checker each costs as much as a workflow.
_MOST_TYPED_MAPS: Final = 32
_REDUCED: Final = {
    Reducer.COLLECT: ListOf(ANY),
    Reducer.COUNT: Scalar.WHOLE,
    Reducer.SUM: Scalar.NUMBER,
    Reducer.MIN: Scalar.NUMBER,
    Reducer.MAX: Scalar.NUMBER,
    Reducer.MERGE: MapOf(ANY),
}

Facts = Mapping[str, Json]


class Expression:
    """A compiled expression."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: CelExpression | JsonPathExpression) -> None:
        self._compiled = compiled

    @property
    def names(self) -> frozenset[str]:
        """Variables that it reads."""
        return self._compiled.names

    @property
    def nodes(self) -> frozenset[str]:
        """Ids of the nodes that it reads."""
        return self._compiled.nodes

    @property
    def shape(self) -> Shape:
        """What its value is; ANY where only the facts say."""
        return self._compiled.shape

    @property
    def answers(self) -> bool:
        """True when it can be a condition: a path always, CEL when its value can be true or false."""
        return isinstance(self._compiled, JsonPathExpression) or self.shape in (Scalar.TRUTH, ANY)

    def value(self, facts: Facts, allowance: Allowance) -> Json:
        """Gives its value. Raises: ExpressionFailed."""
        budget = allowance.budget()
        try:
            return self._compiled.evaluate(facts, budget)
        finally:
            allowance.settle(budget)

    def holds(self, facts: Facts, allowance: Allowance) -> bool:
        """Answers it as a condition. Raises: ExpressionFailed."""
        budget = allowance.budget()
        try:
            return self._holds(facts, budget)
        finally:
            allowance.settle(budget)

    def _holds(self, facts: Facts, budget: Budget) -> bool:
        if isinstance(self._compiled, JsonPathExpression):
            selected = self._compiled.select(facts, budget)
            return any(value is not None and value is not False for value in selected)
        answer = self._compiled.evaluate(facts, budget)
        if not isinstance(answer, bool):
            raise ExpressionFailed("gives neither true nor false")
        return answer


class Scope:
    """Compiles expressions that know the same variables, each once."""

    def __init__(self, variables: Mapping[str, Shape]) -> None:
        self._variables = variables
        self._cel: CelCompiler | None = None
        self._paths = JsonPathCompiler(variables)
        self._compiled: dict[Cel | JsonPath, Expression] = {}

    def compile(self, expression: Cel | JsonPath) -> Expression:
        """Compiles an expression. Raises: ExpressionRefused."""
        known = self._compiled.get(expression)
        if known is None:
            known = self._compiled[expression] = Expression(self._compile(expression))
        return known

    def _compile(self, expression: Cel | JsonPath) -> CelExpression | JsonPathExpression:
        if isinstance(expression, JsonPath):
            return self._paths.compile(expression.text)
        if self._cel is None:
            self._cel = CelCompiler(self._variables)
        return self._cel.compile(expression.text)


class Expressions:
    """The scopes of a workflow."""

    def __init__(self, workflow: Workflow) -> None:
        # One without an id cannot be named; it is told so elsewhere.
        nodes = {node.id: _node_shape(node) for node in workflow.nodes if node.id}
        given = MapOf(ANY) if workflow.input_schema is None else shape_of(workflow.input_schema)
        self._variables: dict[str, Shape] = {"input": given, "nodes": Record(nodes)}
        #: For edges, conditions, inputs and the output of the workflow.
        self.top = Scope(self._variables)
        #: For the CEL of aggregates, which sees the list as `items`.
        self.reduction = Scope({**self._variables, "items": ListOf(ANY)})
        self._bodies: dict[str, Scope] = {}
        self._any_body = Scope({**self._variables, "item": ANY, "index": Scalar.WHOLE})

    def body(self, node_id: str, mapped: MapNode) -> Scope:
        """Gives the scope of a map's body, which sees `item` and `index`."""
        known = self._bodies.get(node_id)
        if known is None:
            item = self._item(mapped)
            if item is ANY or len(self._bodies) >= _MOST_TYPED_MAPS:
                return self._any_body
            known = self._bodies[node_id] = Scope({**self._variables, "item": item, "index": Scalar.WHOLE})
        return known

    def _item(self, mapped: MapNode) -> Shape:
        if isinstance(mapped.items, Literal):
            return ANY
        try:
            shape = self.top.compile(mapped.items).shape
        except ExpressionRefused:
            return ANY
        return shape.item if isinstance(shape, ListOf) else ANY


def _node_shape(node: Node) -> Shape:
    return Record({"output": _output_shape(node), "state": Scalar.TEXT, "reason": Scalar.TEXT})


def _output_shape(node: Node) -> Shape:
    if node.output_schema is not None:
        return shape_of(node.output_schema)
    match node.kind:
        case AgentNode() | ToolNode():
            return Scalar.TEXT
        case MapNode(body=body, on_item_failure=on_failure):
            return ListOf(ANY if on_failure is ItemFailure.NULL else _output_shape(body))
        case AggregateNode(reducer=reducer) if reducer is not None:
            return _REDUCED.get(reducer, ANY)
        case _:
            return ANY
