"""What a workflow must be beyond the shape of each field: its graph, its schemas, its expressions."""

from collections.abc import Iterator, Sequence
from typing import Final

from services.meshkit.documents.schema import SchemaUnusable, compile_schema
from services.meshkit.documents.source import Path
from services.orchestrator.domain.workflow import (
    MAX_DEFINITION_BYTES,
    AgentNode,
    AggregateNode,
    FanInMode,
    Kind,
    MapNode,
    Node,
    NodePolicy,
    OnFailure,
    Schema,
    StepNode,
    ToolNode,
    WaitNode,
    Workflow,
)
from services.orchestrator.workflows.check_expressions import check_expressions
from services.orchestrator.workflows.document import canonical_bytes
from services.orchestrator.workflows.faults import Faults, Reason
from services.orchestrator.workflows.fields import canonical
from services.orchestrator.workflows.graph import Graph, graph_of
from services.orchestrator.workflows.parse import Parsed

#: Kinds that are given nothing by name.
_WITHOUT_INPUT: Final = (MapNode, WaitNode, AggregateNode)
#: Kinds whose attempts a worker makes.
_WORK: Final = (AgentNode, StepNode, ToolNode)
#: Names of a cycle that a sentence lists.
_MOST_NAMED: Final = 12


def check(parsed: Parsed, faults: Faults) -> None:
    """Notes what is wrong with a workflow that was read, soundly or not."""
    checker = _Checker(parsed, faults)
    checker.graph()
    checker.rules()
    checker.schemas()
    check_expressions(parsed, checker.order, faults, without=checker.unsound)
    if not faults:
        size = len(canonical_bytes(parsed.workflow))
        if size > MAX_DEFINITION_BYTES:
            sentence = f"has {size} bytes in all; at most {MAX_DEFINITION_BYTES} are taken: split it into sub-runs"
            faults.add((), Reason.TOO_LARGE, sentence)


def bodies(workflow: Workflow) -> Iterator[tuple[Node, Path]]:
    """Gives every node with its path, and the bodies of maps as well."""
    for index, node in enumerate(workflow.nodes):
        yield node, ("nodes", index)
        if isinstance(node.kind, MapNode):
            yield node.kind.body, ("nodes", index, "map", "body")


class _Checker:
    def __init__(self, parsed: Parsed, faults: Faults) -> None:
        self._workflow = parsed.workflow
        self._places = parsed.places
        self._faults = faults
        self.order = Graph((), {}, ())
        self._schemas: dict[bytes, str | None] = {}
        #: Paths of the schemas that do not compile.
        self.unsound: set[Path] = set()

    def graph(self) -> None:
        """Looks at edges, cycles, and what cannot be reached."""
        nodes = self._workflow.nodes
        edges = [self._edges(index, node) for index, node in enumerate(nodes)]
        self.order = graph_of(edges)
        for cycle in self.order.cycles:
            path = ("nodes", cycle[0], "depends_on")
            self._faults.add(path, Reason.CYCLE, f"makes a cycle: {self._named(cycle)}; take one of these edges away")
        for index, cycle in self.order.behind.items():
            sentence = f"`{nodes[index].id}` can never start: it comes after the cycle {self._named(cycle)}"
            self._faults.add(("nodes", index), Reason.UNREACHABLE, sentence)

    def _edges(self, index: int, node: Node) -> list[int]:
        found: dict[int, None] = {}
        for number, edge in enumerate(node.depends_on):
            path: Path = ("nodes", index, "depends_on", number)
            first = self._places.get(edge.node)
            if not edge.node:
                continue
            if first is None:
                self._faults.add(
                    path, Reason.UNKNOWN_NODE, f"names `{edge.node[:64]}`, which is no node{self._near(edge.node)}"
                )
            elif first == index:
                self._faults.add(path, Reason.CYCLE, f"makes `{node.id}` come after itself")
            elif first in found:
                self._faults.add(path, Reason.DUPLICATE_EDGE, f"names `{edge.node}` a second time; join the conditions")
            else:
                found[first] = None
        return list(found)

    def _near(self, name: str) -> str:
        same = [known for known in self._places if known.lower() == name.lower()]
        return f"; did you mean `{same[0]}`?" if same else ""

    def _named(self, cycle: Sequence[int]) -> str:
        names = [self._workflow.nodes[index].id for index in cycle]
        shown = [*names[: _MOST_NAMED - 1], "…", names[-1]] if len(names) > _MOST_NAMED else names
        return " → ".join((*shown, names[0]))

    def rules(self) -> None:
        """Looks at what fits together."""
        for node, path in bodies(self._workflow):
            if node.input and isinstance(node.kind, _WITHOUT_INPUT):
                sentence = "is given nothing by name; its own fields say what it works on"
                self._faults.add((*path, "input"), Reason.NOT_ALLOWED_HERE, sentence)
            if isinstance(node.kind, AggregateNode) and node.kind.items is None and not node.depends_on:
                sentence = "reduces nothing; give it `items`, or `depends_on`"
                self._faults.add((*path, "aggregate"), Reason.REQUIRED, sentence)
            self._fan_in(node, path)
            if node.policy is not None:
                self._policy(node.policy, node.kind, (*path, "policy"))

    def _fan_in(self, node: Node, path: Path) -> None:
        fan_in = node.fan_in
        if fan_in is None:
            return
        if fan_in.mode is FanInMode.QUORUM:
            if not 1 <= fan_in.quorum <= len(node.depends_on):
                sentence = f"must be 1 to the number of edges, {len(node.depends_on)}, is {fan_in.quorum}"
                self._faults.add((*path, "fan_in", "quorum"), Reason.OUT_OF_RANGE, sentence)
        elif fan_in.quorum:
            self._faults.add((*path, "fan_in", "quorum"), Reason.NOT_ALLOWED_HERE, "is for the mode quorum")
        if fan_in.mode is FanInMode.ANY and not node.depends_on:
            sentence = "waits for any of no edges; give it `depends_on`, or leave it out"
            self._faults.add((*path, "fan_in"), Reason.NOT_ALLOWED_HERE, sentence)

    def _policy(self, policy: NodePolicy, kind: Kind, path: Path) -> None:
        worked = kind.body.kind if isinstance(kind, MapNode) else kind
        refusals = (
            ("tier", policy.tier is not None, isinstance(worked, AgentNode), "is for agents, and maps of them"),
            ("retries", policy.retries is not None, not isinstance(kind, WaitNode | AggregateNode), "is for work"),
            ("timeout", policy.timeout is not None, isinstance(kind, _WORK), "is for agents, steps and tools"),
            ("heartbeat", policy.heartbeat is not None, isinstance(kind, _WORK), "is for agents, steps and tools"),
            ("fallback_agent", bool(policy.fallback_agent), isinstance(kind, AgentNode), "is for agents"),
        )
        for name, given, fits, sentence in refusals:
            if given and not fits:
                self._faults.add((*path, name), Reason.NOT_ALLOWED_HERE, sentence)
        if policy.on_failure is OnFailure.FALLBACK and not policy.fallback_agent:
            self._faults.add((*path, "on_failure"), Reason.REQUIRED, "needs a `fallback_agent`")
        if policy.fallback_agent and policy.on_failure in (OnFailure.FAIL_RUN, OnFailure.CONTINUE):
            sentence = "must be fallback, or left out, where there is a `fallback_agent`"
            self._faults.add((*path, "on_failure"), Reason.NOT_ALLOWED_HERE, sentence)

    def schemas(self) -> None:
        """Looks whether the schemas compile."""
        self._schema(self._workflow.input_schema, ("input_schema",), object_only=True)
        for node, path in bodies(self._workflow):
            self._schema(node.output_schema, (*path, "policy", "output_schema"), object_only=False)

    def _schema(self, schema: Schema | None, path: Path, *, object_only: bool) -> None:
        if schema is None:
            return
        # The same schema often stands at many nodes.
        key = canonical(schema) + bytes([object_only])
        if key not in self._schemas:
            self._schemas[key] = _schema_problem(schema, object_only=object_only)
        problem = self._schemas[key]
        if problem is not None:
            self.unsound.add(path)
            self._faults.add(path, Reason.SCHEMA_INVALID, problem)


def _schema_problem(schema: Schema, *, object_only: bool) -> str | None:
    try:
        compile_schema(schema, object_only=object_only)
    except SchemaUnusable as error:
        return f"at {error.path}: {error.sentence}" if error.path else error.sentence
    return None
