"""A workflow made ready to be decided on: places for ids, dependents of each node, expressions and schemas compiled.

The same for every run of the workflow, never changed, and kept by the digest of the definition.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from google.protobuf.duration_pb2 import Duration

from comitia.orchestrator.v1 import journal_pb2, workflow_pb2
from services.meshkit.content import Confidentiality, Integrity, Label
from services.meshkit.content.label import BOTTOM
from services.orchestrator.conditions.budget import Allowance
from services.orchestrator.programs.commands import encoded
from services.orchestrator.programs.output_schema import OutputSchema
from services.orchestrator.programs.retries import Retries
from services.orchestrator.programs.values import Json, ValueTooLarge, from_struct, from_value, to_struct

_TIMEOUT_MS: Final = 600_000
_HEARTBEAT_MS: Final = 30_000
_MAX_PARALLEL: Final = 16
_MAX_ITEMS: Final = 1_000
#: What whoever wrote a workflow put into it.
OPERATOR: Final = Label(
    integrity=Integrity.TRUSTED, confidentiality=Confidentiality.TENANT, sources=frozenset({"operator:workflow"})
)
#: The variable that holds what the run was started with.
_INPUT: Final = "input"
_FALLING_BACK: Final = (workflow_pb2.ON_FAILURE_UNSPECIFIED, workflow_pb2.ON_FAILURE_FALLBACK)

Facts = Mapping[str, Json]


class Expression(Protocol):
    """A compiled expression."""

    @property
    def names(self) -> frozenset[str]:
        """Variables that it reads."""
        ...

    @property
    def nodes(self) -> frozenset[str]:
        """Ids of the nodes that it reads."""
        ...

    def value(self, facts: Facts, allowance: Allowance) -> Json:
        """Gives its value. Raises: ExpressionFailed."""
        ...

    def holds(self, facts: Facts, allowance: Allowance) -> bool:
        """Answers it as a condition. Raises: ExpressionFailed."""
        ...


class Language(Protocol):
    """Compiles the expressions of one workflow."""

    def value(self, value: workflow_pb2.NodeValue, *, body_of: str) -> Expression:
        """Compiles what is no literal.

        Args:
            body_of: id of the map in whose body it stands, which sees `item` and `index`; empty elsewhere.
        """
        ...

    def condition(self, condition: workflow_pb2.Condition) -> Expression:
        """Compiles a condition."""
        ...

    def reduction(self, cel: str) -> Expression:
        """Compiles CEL that sees a list as `items`."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from: a literal, or an expression."""

    literal: Json
    expression: Expression | None

    def value(self, facts: Facts, allowance: Allowance) -> Json:
        """Gives the value. Raises: ExpressionFailed."""
        return self.literal if self.expression is None else self.expression.value(facts, allowance)


@dataclass(frozen=True, slots=True)
class Edge:
    """What a node needs of one that comes before it."""

    #: Place of the node that comes before.
    before: int
    #: None: that it succeeds.
    when: Expression | None
    #: Nodes that the condition reads.
    reads: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class NodePlan:
    """One node, or the body of a map."""

    place: int
    id: str
    #: Where its step lies; of a body, what the items' numbers are added to.
    path: str
    node: workflow_pb2.Node
    #: Name of its field: `agent`, `step`, ….
    kind: str
    #: By name, in order.
    input: tuple[tuple[str, Source], ...]
    #: Prompt of an agent, items of a map or an aggregate.
    main: Source | None
    when: Expression | None
    edges: tuple[Edge, ...]
    #: The same, by the node that comes before.
    edge_after: Mapping[int, Edge]
    #: Edges that must hold for it to start.
    needed: int
    #: True when it starts once all that comes before it has succeeded, and is skipped as soon as one has not.
    plain: bool
    #: True when edges with conditions wait until everything before has ended: what they see does not depend on order.
    patient: bool
    #: Nodes that its values read, that its own condition reads, and that its conditions and those of its edges read.
    reads: tuple[int, ...] = ()
    when_reads: tuple[int, ...] = ()
    judges: tuple[int, ...] = ()
    reads_input: bool = False
    judges_input: bool = False
    #: Nodes that come after it, in order.
    dependents: list[int] = field(default_factory=list[int])
    retries: Retries
    timeout_ms: int
    output_schema: OutputSchema | None
    fallback: str
    #: What somebody outside has a say in: what a worker gives, and how any node fails that asks somebody.
    outside: Label
    #: The label of a worker's answer to a step that reads nothing but the workflow.
    answered: Label
    #: True when a failure of it does not end the run.
    goes_on: bool
    #: True when it is parked after its last attempt, if that may succeed another time.
    parks: bool
    body: "NodePlan | None" = None
    max_parallel: int = 0
    max_items: int = 0
    on_item_failure: workflow_pb2.ItemFailure.ValueType = workflow_pb2.ITEM_FAILURE_FAIL
    reduction: Expression | None = None
    #: The encoded request of a worker's step that is given literals only: the same in every run. None for any other.
    request: bytes | None = None
    #: SHA-256 of it.
    request_digest: bytes = b""

    def step_request(self, given: Mapping[str, Json]) -> bytes:
        """Encodes what a worker is asked. Raises: ValueTooLarge, NotJson."""
        task = journal_pb2.StepTask(name=self.node.step.name, pool=self.node.step.pool)
        task.input.struct_value.CopyFrom(to_struct(given))
        task.timeout.FromMilliseconds(self.timeout_ms)
        task.heartbeat.FromMilliseconds(_ms(self.node.policy.heartbeat, _HEARTBEAT_MS))
        return encoded(task)


@dataclass(slots=True, kw_only=True)
class Plan:
    """A workflow."""

    nodes: Sequence[NodePlan]
    #: Places of the nodes that nothing comes before.
    first: tuple[int, ...]
    #: Edges of each node.
    edge_counts: tuple[int, ...]
    #: What the run gives, by name in order; or the places of its last nodes.
    output: tuple[tuple[str, Source], ...]
    output_reads: tuple[int, ...]
    output_reads_input: bool
    last: tuple[int, ...]
    #: True when some condition is asked: which steps there are then depends on what was read.
    conditional: bool
    #: Waits for each signal, by name.
    signals: Mapping[str, Sequence[int]]


def plan_of(workflow: workflow_pb2.Workflow, language: Language) -> Plan:
    """Makes a workflow ready."""
    return _Planner(workflow, language).plan()


class _Planner:
    def __init__(self, workflow: workflow_pb2.Workflow, language: Language) -> None:
        self._workflow = workflow
        self._language = language
        self._places = {node.id: place for place, node in enumerate(workflow.nodes)}

    def plan(self) -> Plan:
        nodes = [self._node(place, node) for place, node in enumerate(self._workflow.nodes)]
        signals: dict[str, list[int]] = {}
        for node in nodes:
            for edge in node.edges:
                nodes[edge.before].dependents.append(node.place)
            if node.node.wait.signal:
                signals.setdefault(node.node.wait.signal, []).append(node.place)
        output = self._sources(self._workflow.output, "")
        expressions = [source.expression for _, source in output]
        return Plan(
            nodes=nodes,
            first=tuple(node.place for node in nodes if not node.edges),
            edge_counts=tuple(len(node.edges) for node in nodes),
            output=output,
            output_reads=self._reads(expressions),
            output_reads_input=_reads_input(expressions),
            last=tuple(node.place for node in nodes if not node.dependents),
            conditional=any(node.when is not None or any(edge.when for edge in node.edges) for node in nodes),
            signals=signals,
        )

    def _node(self, place: int, node: workflow_pb2.Node, above: workflow_pb2.Node | None = None) -> NodePlan:
        """Plans a node; `above` is the map whose body it is."""
        kind = node.WhichOneof("kind") or ""
        body_of = "" if above is None else above.id
        edges = tuple(self._edge(edge) for edge in node.depends_on)
        given, main = self._sources(node.input, body_of), self._main(node, body_of)
        when = self._language.condition(node.when) if node.HasField("when") else None
        values = [source.expression for _, source in given]
        values.append(None if main is None else main.expression)
        reduction = self._language.reduction(node.aggregate.cel) if node.aggregate.WhichOneof("by") == "cel" else None
        values.append(reduction)
        conditions = [when, *(edge.when for edge in edges)]
        needed, policy = _needed(node), node.policy
        path = f"nodes/{node.id if above is None else above.id}"
        unsaid = policy.on_failure == workflow_pb2.ON_FAILURE_UNSPECIFIED and not policy.fallback_agent
        outside = _outside(node, kind)
        planned = NodePlan(
            place=place,
            id=node.id or body_of,
            path=path,
            node=node,
            kind=kind,
            input=given,
            main=main,
            when=when,
            edges=edges,
            edge_after={edge.before: edge for edge in edges},
            needed=len(edges) if needed is None else min(needed, len(edges)),
            plain=needed is None and not any(edge.when for edge in edges),
            patient=needed is None,
            reads=self._reads(values),
            when_reads=self._reads([when]),
            judges=self._reads(conditions),
            reads_input=_reads_input(values),
            judges_input=_reads_input(conditions),
            retries=Retries.of(policy.retries),
            timeout_ms=_ms(policy.timeout, _TIMEOUT_MS),
            output_schema=OutputSchema(from_struct(policy.output_schema)) if policy.HasField("output_schema") else None,
            fallback=policy.fallback_agent if policy.on_failure in _FALLING_BACK else "",
            outside=outside,
            answered=OPERATOR.joined(outside),
            goes_on=policy.on_failure == workflow_pb2.ON_FAILURE_CONTINUE,
            parks=unsaid and (above is None or _says_nothing(above)),
            reduction=reduction,
        )
        if kind == "step" and all(source.expression is None for _, source in given):
            planned.request = _request_of_literals(planned)
            planned.request_digest = b"" if planned.request is None else hashlib.sha256(planned.request).digest()
        if kind == "map":
            self._plan_items(planned)
        return planned

    def _plan_items(self, planned: NodePlan) -> None:
        """Plans the body of a map, and how many of its items are made."""
        items = planned.node.map
        planned.body = self._node(planned.place, items.body, planned.node)
        planned.reads = tuple(sorted({*planned.reads, *planned.body.reads}))
        planned.reads_input = planned.reads_input or planned.body.reads_input
        planned.max_parallel = items.max_parallel or _MAX_PARALLEL
        planned.max_items = items.max_items or _MAX_ITEMS
        planned.on_item_failure = items.on_item_failure or workflow_pb2.ITEM_FAILURE_FAIL

    def _edge(self, edge: workflow_pb2.Dependency) -> Edge:
        when = self._language.condition(edge.when) if edge.HasField("when") else None
        return Edge(self._places[edge.node], when, self._reads([when]))

    def _main(self, node: workflow_pb2.Node, body_of: str) -> Source | None:
        match node.WhichOneof("kind"):
            case "agent":
                return self._source(node.agent.prompt, body_of)
            case "map":
                return self._source(node.map.items, body_of)
            case "aggregate" if node.aggregate.HasField("items"):
                return self._source(node.aggregate.items, body_of)
            case _:
                return None

    def _sources(self, values: Mapping[str, workflow_pb2.NodeValue], body_of: str) -> tuple[tuple[str, Source], ...]:
        return tuple((name, self._source(values[name], body_of)) for name in sorted(values))

    def _source(self, value: workflow_pb2.NodeValue, body_of: str) -> Source:
        if value.WhichOneof("source") == "literal":
            return Source(from_value(value.literal), None)
        return Source(None, self._language.value(value, body_of=body_of))

    def _reads(self, expressions: Sequence[Expression | None]) -> tuple[int, ...]:
        return tuple(sorted({self._places[node] for one in expressions if one is not None for node in one.nodes}))


def _request_of_literals(planned: NodePlan) -> bytes | None:
    try:
        return planned.step_request({name: source.literal for name, source in planned.input})
    except ValueTooLarge:
        return None  # every run that comes to it says so


def _needed(node: workflow_pb2.Node) -> int | None:
    """Says how many edges of a node must hold for it to start; None for all of them."""
    match node.fan_in.mode:
        case workflow_pb2.FAN_IN_MODE_ANY:
            return 1
        case workflow_pb2.FAN_IN_MODE_QUORUM:
            return node.fan_in.quorum
        case _:
            return None


def _outside(node: workflow_pb2.Node, kind: str) -> Label:
    match kind:
        case "step" if node.step.reads != workflow_pb2.STEP_READS_INPUT:
            source = f"worker:{node.step.name}"
        case "tool":
            source = f"tool:{_name_of(node.tool.tool)}"
        case "agent":
            source = f"agent:{_name_of(node.agent.agent)}"
        case "run":
            source = f"run:{_name_of(node.run.workflow)}"
        case _:
            return BOTTOM
    return Label(sources=frozenset({source}))


def _name_of(reference: str) -> str:
    return reference.partition("@")[0]


def _says_nothing(mapped: workflow_pb2.Node) -> bool:
    return not (mapped.map.on_item_failure or mapped.policy.on_failure)


def _reads_input(expressions: Sequence[Expression | None]) -> bool:
    return any(_INPUT in one.names for one in expressions if one is not None)


def _ms(duration: Duration, default: int) -> int:
    return duration.ToMilliseconds() or default
