"""From a document of mappings, lists and scalars to a workflow, or to what is wrong with it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from services.meshkit.documents.source import Path
from services.orchestrator.domain import workflow as domain
from services.orchestrator.domain.workflow import (
    AgentNode,
    AggregateNode,
    Dependency,
    FanIn,
    FanInMode,
    ItemFailure,
    Kind,
    Literal,
    MapNode,
    Node,
    NodePolicy,
    OnFailure,
    Preflight,
    QualityTier,
    Reducer,
    RetryPolicy,
    RunNode,
    StepNode,
    StepReads,
    ToolNode,
    WaitNode,
    Workflow,
    WorkflowPolicy,
)
from services.orchestrator.workflows.faults import Faults, Reason
from services.orchestrator.workflows.fields import Fields, kind_of

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_VERSION: Final = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")
_REFERENCE: Final = re.compile(rf"{_NAME.pattern}(@{_VERSION.pattern})?")
_TOOL: Final = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,62}}(@{_VERSION.pattern})?")
_DOTTED: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_MUST_NAME: Final = "must be 1 to 63 letters, digits, `_` and `-`, starting with a letter"
_MUST_ID: Final = "must be 1 to 63 letters, digits and `_`, starting with a letter"
_MUST_DOTTED: Final = "must be 1 to 63 letters, digits, `_`, `-` and `.`, starting with a letter"
_MUST_REFERENCE: Final = "must be a name such as Athena, or a name with a version such as Athena@1.0.0"
_MUST_TOOL: Final = "must be a tool such as calculator, or calculator@1.0.0"
#: Words of CEL, which no field can be named.
_WORDS: Final = frozenset({"in", "true", "false", "null"})
#: Stands for a kind that was refused, so that the rest of its node is looked at all the same.
_REFUSED: Final = ToolNode(tool="")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A workflow as far as it could be read; sound only when there are no faults."""

    workflow: Workflow
    #: Index in the document of each id that is read.
    places: Mapping[str, int]


def parse(document: object, faults: Faults) -> Parsed | None:
    """Reads a document. Gives None when there is nothing to look at any further."""
    fields = Fields(document, (), faults, what="the fields of a workflow")
    if not fields.sound or not _is_small(cast(Mapping[str, object], document), faults):
        return None
    nodes = tuple(_node(node) for node in fields.each("nodes", what="nodes", inside="a node"))
    workflow = Workflow(
        name=fields.text("name", required=True, pattern=_NAME, must=_MUST_NAME),
        version=fields.text(
            "version", required=True, pattern=_VERSION, must="must be a version such as 1.0.0, in quotes"
        ),
        description=fields.text("description", most=domain.MAX_DESCRIPTION),
        input_schema=fields.schema("input_schema"),
        output=fields.values("output"),
        deadline=fields.duration("deadline", low=domain.SECOND, high=domain.YEAR),
        policy=_workflow_policy(fields),
        nodes=nodes,
    )
    if not nodes:
        fields.missing("nodes")
    fields.done()
    return Parsed(workflow, _places(nodes, faults))


def _workflow_policy(fields: Fields) -> WorkflowPolicy | None:
    value = fields.raw("policy")
    if value is None:
        return None
    inside = Fields(value, fields.at("policy"), fields.faults, what="the fields of a policy")
    policy = WorkflowPolicy(preflight=inside.choice("preflight", Preflight))
    inside.done()
    return policy


def _is_small(document: Mapping[str, object], faults: Faults) -> bool:
    """Looks at the numbers of nodes and edges before anything else."""
    nodes = document.get("nodes")
    if not isinstance(nodes, list):
        return True
    count = len(cast(list[object], nodes))
    if count > domain.MAX_NODES:
        sentence = (
            f"has {count} nodes; at most {domain.MAX_NODES} are taken: map over a list, or split it into sub-runs"
        )
        faults.add(("nodes",), Reason.TOO_MANY_NODES, sentence)
        return False
    edges = sum(_edges_of(node) for node in cast(list[object], nodes))
    if edges > domain.MAX_EDGES:
        sentence = (
            f"has {edges} edges; at most {domain.MAX_EDGES} are taken: put a node between, or split it into sub-runs"
        )
        faults.add(("nodes",), Reason.TOO_MANY_EDGES, sentence)
        return False
    return True


def _edges_of(node: object) -> int:
    edges = cast(Mapping[str, object], node).get("depends_on") if isinstance(node, Mapping) else None
    return len(cast(list[object], edges)) if isinstance(edges, list) else 0


def _places(nodes: tuple[Node, ...], faults: Faults) -> dict[str, int]:
    places: dict[str, int] = {}
    for index, node in enumerate(nodes):
        if node.id and places.setdefault(node.id, index) != index:
            first = faults.line_of(("nodes", places[node.id], "id"))
            faults.add(
                ("nodes", index, "id"), Reason.DUPLICATE_ID, f"is the id of another node ({first}); ids are unique"
            )
    return places


def _node(fields: Fields, *, body: bool = False) -> Node:
    identity = fields.text("id", required=fields.sound and not body, pattern=_ID, must=_MUST_ID)
    if identity in _WORDS:
        fields.fault(("id",), Reason.MALFORMED, f"`{identity}` is a word of CEL; choose another id")
    node = Node(
        id=identity,
        description=fields.text("description", most=domain.MAX_DESCRIPTION),
        kind=_kind(fields, body=body),
        input=fields.values("input"),
        depends_on=() if body else _dependencies(fields),
        fan_in=None if body else _fan_in(fields),
        when=None if body else fields.condition("when"),
        policy=_policy(fields),
    )
    if body:
        for name in ("depends_on", "fan_in", "when"):
            if fields.raw(name) is not None:
                fields.fault((name,), Reason.NOT_ALLOWED_HERE, "stands on the map, not on its body")
    fields.done()
    return node


def _kind(fields: Fields, *, body: bool) -> Kind:
    named = [name for name in domain.KINDS if fields.has(name)]
    kinds = [_READERS[name](fields, name) for name in domain.KINDS if fields.raw(name) is not None]
    known = ", ".join(domain.KINDS)
    if not named:
        if fields.sound:
            fields.fault((), Reason.REQUIRED, f"says not what it does; give it one of {known}")
        return _REFUSED
    for name in named[1:]:
        fields.fault((name,), Reason.NOT_ALLOWED_HERE, f"is a second thing to do beside `{named[0]}`; a node does one")
    if body and named[0] in ("map", "wait", "aggregate"):
        sentence = "is no body of a map; put it in a workflow of its own and use `run`"
        fields.fault((named[0],), Reason.NOT_ALLOWED_HERE, sentence)
    return kinds[0]


def _inside(fields: Fields, name: str, *, short: str = "") -> Fields:
    """Opens the mapping of a kind; a text alone stands for its one field `short`."""
    value = fields.raw(name)
    if short and isinstance(value, str):
        value = {short: value}
    return Fields(value, fields.at(name), fields.faults, what="fields")


def _agent(fields: Fields, name: str) -> Kind:
    inside = _inside(fields, name)
    prompt = inside.value("prompt", required=True)
    if isinstance(prompt, Literal):
        if not isinstance(prompt.value, str):
            sentence = f"must be a text or an expression, is {kind_of(prompt.value)}"
            inside.fault(("prompt",), Reason.WRONG_TYPE, sentence)
        elif not prompt.value.strip():
            inside.fault(("prompt",), Reason.REQUIRED, "is empty; say what the agent is asked")
        elif len(prompt.value) > domain.MAX_PROMPT:
            sentence = f"has {len(prompt.value)} characters; at most {domain.MAX_PROMPT} are taken"
            inside.fault(("prompt",), Reason.TOO_LARGE, sentence)
    agent = inside.text("agent", required=inside.sound, pattern=_REFERENCE, must=_MUST_REFERENCE)
    inside.done()
    return AgentNode(agent=agent, prompt=prompt or Literal(""))


def _step(fields: Fields, name: str) -> Kind:
    inside = _inside(fields, name, short="name")
    kind = StepNode(
        name=inside.text("name", required=inside.sound, pattern=_DOTTED, must=_MUST_DOTTED),
        pool=inside.text("pool", pattern=_NAME, must=_MUST_NAME),
        reads=inside.choice("reads", StepReads),
    )
    inside.done()
    return kind


def _tool(fields: Fields, name: str) -> Kind:
    inside = _inside(fields, name, short="tool")
    kind = ToolNode(tool=inside.text("tool", required=inside.sound, pattern=_TOOL, must=_MUST_TOOL))
    inside.done()
    return kind


def _run(fields: Fields, name: str) -> Kind:
    inside = _inside(fields, name, short="workflow")
    kind = RunNode(workflow=inside.text("workflow", required=inside.sound, pattern=_REFERENCE, must=_MUST_REFERENCE))
    inside.done()
    return kind


def _map(fields: Fields, name: str) -> Kind:
    inside = _inside(fields, name)
    items = inside.value("items", required=inside.sound)
    if isinstance(items, Literal) and not isinstance(items.value, list):
        inside.fault(("items",), Reason.WRONG_TYPE, f"must be a list or an expression, is {kind_of(items.value)}")
    if inside.sound and not inside.has("body"):
        inside.missing("body")
    body = Fields(inside.raw("body"), inside.at("body"), inside.faults, what="the fields of a node")
    kind = MapNode(
        items=items or Literal([]),
        body=_node(body, body=True) if body.sound else Node(id="", kind=_REFUSED),
        max_parallel=inside.whole("max_parallel", low=1, high=domain.MAX_PARALLEL),
        max_items=inside.whole("max_items", low=1, high=domain.MAX_ITEMS),
        on_item_failure=inside.choice("on_item_failure", ItemFailure),
    )
    inside.done()
    return kind


def _wait(fields: Fields, name: str) -> Kind:
    inside = _inside(fields, name)
    kind = WaitNode(
        signal=inside.text("signal", pattern=_DOTTED, must=_MUST_DOTTED),
        timer=inside.duration("timer", low=domain.MILLISECOND, high=domain.YEAR),
        timeout=inside.duration("timeout", low=domain.MILLISECOND, high=domain.YEAR),
    )
    if inside.sound and inside.has("signal") == inside.has("timer"):
        inside.fault((), Reason.REQUIRED, "waits for either a `signal` or a `timer`")
    if inside.has("timer") and inside.has("timeout"):
        inside.fault(("timeout",), Reason.NOT_ALLOWED_HERE, "is for signals; a timer ends by itself")
    inside.done()
    return kind


def _aggregate(fields: Fields, name: str) -> Kind:
    inside = _inside(fields, name, short="reducer")
    items = inside.value("items")
    if isinstance(items, Literal) and not isinstance(items.value, list):
        inside.fault(("items",), Reason.WRONG_TYPE, f"must be a list or an expression, is {kind_of(items.value)}")
    kind = AggregateNode(items=items, reducer=inside.choice("reducer", Reducer), cel=inside.text("cel"))
    if inside.sound and inside.has("reducer") == inside.has("cel"):
        inside.fault((), Reason.REQUIRED, "reduces either by a `reducer` or by `cel`")
    inside.done()
    return kind


_READERS: Final[Mapping[str, Callable[[Fields, str], Kind]]] = {
    "agent": _agent,
    "step": _step,
    "tool": _tool,
    "map": _map,
    "run": _run,
    "wait": _wait,
    "aggregate": _aggregate,
}


def _dependencies(fields: Fields) -> tuple[Dependency, ...]:
    items = fields.items("depends_on", what="ids of nodes")
    if len(items) > domain.MAX_EDGES_OF_A_NODE:
        sentence = f"has {len(items)} edges; at most {domain.MAX_EDGES_OF_A_NODE} are taken at one node"
        fields.fault(("depends_on",), Reason.TOO_MANY_EDGES, sentence)
        return ()
    return tuple(
        _dependency(item, (*fields.at("depends_on"), index), fields.faults) for index, item in enumerate(items)
    )


def _dependency(item: object, path: Path, faults: Faults) -> Dependency:
    if isinstance(item, str):
        return Dependency(node=item)
    fields = Fields(0 if item is None else item, path, faults, what="an edge, or the id of a node")
    edge = Dependency(node=fields.text("node", required=fields.sound), when=fields.condition("when"))
    fields.done()
    return edge


def _fan_in(fields: Fields) -> FanIn | None:
    value = fields.raw("fan_in")
    if value is None:
        return None
    if isinstance(value, str):
        return FanIn(mode=fields.one_of(value, ("fan_in",), FanInMode))
    inside = Fields(value, fields.at("fan_in"), fields.faults, what="`mode` and `quorum`")
    fan_in = FanIn(
        mode=inside.choice("mode", FanInMode),
        quorum=inside.whole("quorum", low=1, high=domain.MAX_EDGES_OF_A_NODE),
    )
    inside.done()
    return fan_in


def _policy(fields: Fields) -> NodePolicy | None:
    value = fields.raw("policy")
    if value is None:
        return None
    inside = Fields(value, fields.at("policy"), fields.faults, what="a policy")
    policy = NodePolicy(
        tier=inside.choice("tier", QualityTier),
        sla_ms=inside.whole("sla_ms", low=1, high=domain.MAX_SLA_MS),
        retries=_retries(inside),
        timeout=inside.duration("timeout", low=100 * domain.MILLISECOND, high=domain.DAY),
        heartbeat=inside.duration("heartbeat", low=domain.SECOND, high=domain.HOUR),
        fallback_agent=inside.text("fallback_agent", pattern=_REFERENCE, must=_MUST_REFERENCE),
        on_failure=inside.choice("on_failure", OnFailure),
        output_schema=inside.schema("output_schema"),
    )
    inside.done()
    return policy


def _retries(fields: Fields) -> RetryPolicy | None:
    value = fields.raw("retries")
    if value is None:
        return None
    inside = Fields(value, fields.at("retries"), fields.faults, what="a retry policy")
    retries = RetryPolicy(
        max_attempts=inside.whole("max_attempts", low=1, high=domain.MAX_ATTEMPTS),
        first_backoff=inside.duration("first_backoff", low=domain.MILLISECOND, high=domain.HOUR),
        factor=inside.number("factor", low=1, high=domain.MAX_FACTOR, zero=True) or 0,
        max_backoff=inside.duration("max_backoff", low=domain.MILLISECOND, high=domain.DAY),
        jitter=inside.number("jitter", low=0, high=1),
    )
    if retries.max_backoff is not None and retries.max_backoff < (retries.first_backoff or domain.FIRST_BACKOFF):
        inside.fault(
            ("max_backoff",), Reason.OUT_OF_RANGE, "must be at least first_backoff, which is 1s unless it is given"
        )
    inside.done()
    return retries
