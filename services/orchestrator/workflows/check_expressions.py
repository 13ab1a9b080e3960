"""Compiles every expression of a workflow against its schemas, and looks at what each names."""

from collections.abc import Callable, Set
from dataclasses import replace
from typing import Final

from services.meshkit.documents.source import Path
from services.orchestrator.conditions.budget import Allowance
from services.orchestrator.conditions.errors import ExpressionFailed, ExpressionRefused
from services.orchestrator.conditions.expressions import Expression, Expressions, Scope
from services.orchestrator.conditions.shapes import ANY, ListOf, MapOf, Record, Scalar, Shape
from services.orchestrator.domain.workflow import (
    AgentNode,
    AggregateNode,
    Cel,
    Condition,
    JsonPath,
    Literal,
    MapNode,
    Node,
    NodeValue,
    Workflow,
)
from services.orchestrator.workflows.faults import Faults, Reason
from services.orchestrator.workflows.graph import Graph
from services.orchestrator.workflows.parse import Parsed

#: Every node may be named.
_ALL: Final = -1

Wanted = Callable[[Shape], bool]


def check_expressions(parsed: Parsed, graph: Graph, faults: Faults, *, without: Set[Path]) -> None:
    """Notes every expression that does not compile, does not fit, or names what does not come before it.

    Args:
        without: paths of schemas that do not compile; nothing is known from them.
    """
    workflow = parsed.workflow
    expressions = Expressions(_known(workflow, without) if without else workflow)
    whole = _Place(parsed, faults, expressions.top, _ALL, told=frozenset())
    for name, value in workflow.output.items():
        whole.value(value, ("output", name))
    # What is in a cycle or behind one has no order yet; it is told so, and not a second time for each expression.
    unordered = {*graph.behind, *(index for cycle in graph.cycles for index in cycle)}
    for index, node in enumerate(workflow.nodes):
        before = _ALL if index in unordered else graph.before[index]
        for number, edge in enumerate(node.depends_on):
            first = parsed.places.get(edge.node)
            if edge.when is not None and first is not None:
                seen = _ALL if first in unordered else graph.before[first] | 1 << first
                path = ("nodes", index, "depends_on", number, "when")
                at_edge = _Place(parsed, faults, expressions.top, seen, told=_told(node, parsed))
                at_edge.condition(edge.when, path, "the edge never holds")
        _check_node(node, ("nodes", index), before, expressions, parsed, faults)


def _known(workflow: Workflow, without: Set[Path]) -> Workflow:
    """Gives a workflow without the schemas at these paths."""

    def sound(node: Node, path: Path) -> Node:
        if isinstance(node.kind, MapNode):
            body = sound(node.kind.body, (*path, "map", "body"))
            node = replace(node, kind=replace(node.kind, body=body))
        if node.policy is not None and (*path, "policy", "output_schema") in without:
            node = replace(node, policy=replace(node.policy, output_schema=None))
        return node

    return replace(
        workflow,
        input_schema=None if ("input_schema",) in without else workflow.input_schema,
        nodes=tuple(sound(node, ("nodes", index)) for index, node in enumerate(workflow.nodes)),
    )


def _check_node(node: Node, path: Path, before: int, expressions: Expressions, parsed: Parsed, faults: Faults) -> None:
    told = _told(node, parsed)
    here = _Place(parsed, faults, expressions.top, before, told=told)
    if node.when is not None:
        here.condition(node.when, (*path, "when"), "the node never starts")
    here.work(node, path)
    match node.kind:
        case MapNode() as mapped:
            here.value(mapped.items, (*path, "map", "items"), wanted=_is_list, must="must be a list")
            inside = _Place(parsed, faults, expressions.body(node.id, mapped), before, told=told)
            inside.work(mapped.body, (*path, "map", "body"))
        case AggregateNode() as reduced:
            if reduced.items is not None:
                here.value(reduced.items, (*path, "aggregate", "items"), wanted=_is_list, must="must be a list")
            if reduced.cel:
                reduction = _Place(parsed, faults, expressions.reduction, before, told=told)
                reduction.value(Cel(reduced.cel), (*path, "aggregate"))
        case _:
            pass


def _told(node: Node, parsed: Parsed) -> frozenset[str]:
    """Gives the nodes that do not exist and that its edges name."""
    return frozenset(edge.node for edge in node.depends_on if edge.node and edge.node not in parsed.places)


class _Place:
    """Checks the expressions that stand at one place.

    Args:
        told: nodes that do not exist, of which its edges were told already.
    """

    def __init__(self, parsed: Parsed, faults: Faults, scope: Scope, seen: int, *, told: frozenset[str]) -> None:
        self._told = told
        self._places = parsed.places
        self._faults = faults
        self._scope = scope
        #: Nodes that may be named, as bits.
        self._seen = seen

    def work(self, node: Node, path: Path) -> None:
        """Checks what a node is given."""
        for name, value in node.input.items():
            self.value(value, (*path, "input", name))
        if isinstance(node.kind, AgentNode):
            self.value(node.kind.prompt, (*path, "agent", "prompt"), wanted=_is_text, must="must be a text")

    def value(self, value: NodeValue, path: Path, *, wanted: Wanted | None = None, must: str = "") -> None:
        """Checks a value, and that it can be what is wanted."""
        if isinstance(value, Literal):
            return
        compiled = self._compile(value, path)
        if compiled is not None and wanted is not None and not wanted(compiled.shape):
            sentence = f"{must}, is {_spoken(compiled.shape)}"
            self._faults.add(_below(path, value), Reason.EXPRESSION_TYPE, sentence)

    def condition(self, condition: Condition, path: Path, never: str) -> None:
        """Checks a condition.

        Args:
            never: what it means when the condition is always false.
        """
        compiled = self._compile(condition, path)
        if compiled is None:
            return
        below = _below(path, condition)
        if not compiled.answers:
            sentence = f"must be true or false, is {_spoken(compiled.shape)}"
            self._faults.add(below, Reason.EXPRESSION_TYPE, sentence)
        elif not compiled.names:
            self._constant(compiled, below, never)

    def _constant(self, compiled: Expression, path: Path, never: str) -> None:
        try:
            holds = compiled.holds({}, Allowance())
        except ExpressionFailed as failure:
            self._faults.add(path, Reason.EXPRESSION_INVALID, f"always fails: {failure.sentence}")
            return
        if not holds:
            self._faults.add(path, Reason.UNREACHABLE, f"is never true, so {never}")

    def _compile(self, expression: Cel | JsonPath, path: Path) -> Expression | None:
        below = _below(path, expression)
        try:
            compiled = self._scope.compile(expression)
        except ExpressionRefused as refusal:
            place = f" (character {refusal.at})" if refusal.at else ""
            if refusal.node not in self._told:
                self._faults.add(below, _reason(refusal), f"{refusal.sentence}{place}")
            return None
        for name in sorted(compiled.nodes):
            place = self._places.get(name)
            if place is not None and not self._seen >> place & 1:
                sentence = f"names `{name}`, which does not come before it; add an edge to it, or leave it out"
                self._faults.add(below, Reason.NOT_BEFORE, sentence)
        return compiled


def _reason(refusal: ExpressionRefused) -> Reason:
    if refusal.node:
        return Reason.UNKNOWN_NODE
    return Reason.EXPRESSION_TYPE if refusal.typed else Reason.EXPRESSION_INVALID


def _below(path: Path, expression: Cel | JsonPath) -> Path:
    return (*path, "cel" if isinstance(expression, Cel) else "jsonpath")


def _is_list(shape: Shape) -> bool:
    return shape is ANY or isinstance(shape, ListOf)


def _is_text(shape: Shape) -> bool:
    return shape in (ANY, Scalar.TEXT)


def _spoken(shape: Shape) -> str:
    match shape:
        case ListOf():
            return "a list"
        case MapOf() | Record():
            return "an object"
        case _:
            return f"of type {shape.value}"
