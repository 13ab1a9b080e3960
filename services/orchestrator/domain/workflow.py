"""Workflows as they are defined: immutable versions of nodes and the edges between them.

What each field means stands in `comitia/orchestrator/v1/workflow.proto`; the limits stand here. How a definition is
read and checked is in `workflows/`, what its expressions mean in `conditions/`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

MAX_NODES: Final = 2_000
MAX_EDGES: Final = 10_000
MAX_EDGES_OF_A_NODE: Final = 1_000
#: How deep runs may start runs.
MAX_DEPTH: Final = 8
MAX_DESCRIPTION: Final = 500
#: Names in the input of a node, and in the output of a workflow.
MAX_VALUES: Final = 100
MAX_VALUE_NAME: Final = 63
MAX_LITERAL_BYTES: Final = 64 * 1024
MAX_DEFINITION_BYTES: Final = 2 * 1024 * 1024
MAX_PROMPT: Final = 16_000
MAX_PARALLEL: Final = 1_000
MAX_ITEMS: Final = 10_000
MAX_ATTEMPTS: Final = 20
MAX_FACTOR: Final = 10.0
MAX_SLA_MS: Final = 86_400_000
MILLISECOND: Final = timedelta(milliseconds=1)
SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
YEAR: Final = timedelta(days=366)
#: What `retries` means where it says nothing.
FIRST_BACKOFF: Final = SECOND

#: JSON is open by nature.
Json = object
Schema = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Literal:
    """A value itself."""

    value: Json


@dataclass(frozen=True, slots=True)
class Cel:
    """An expression in CEL."""

    text: str


@dataclass(frozen=True, slots=True)
class JsonPath:
    """An expression in JSONPath."""

    text: str


NodeValue = Literal | Cel | JsonPath
Condition = Cel | JsonPath


class FanInMode(Enum):
    """How many edges of a node must hold for it to start."""

    ALL = "all"
    ANY = "any"
    QUORUM = "quorum"


class StepReads(Enum):
    """What workers read to make a step."""

    ANYTHING = "anything"
    INPUT = "input"


class ItemFailure(Enum):
    """What one failed item means for a map."""

    FAIL = "fail"
    NULL = "null"
    OMIT = "omit"


class Reducer(Enum):
    """How values become one."""

    COLLECT = "collect"
    CONCAT = "concat"
    MERGE = "merge"
    FIRST = "first"
    LAST = "last"
    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    MAJORITY = "majority"


class QualityTier(Enum):
    """How good an answer has to be."""

    GOLD = "gold"
    SILVER = "silver"
    BRONZE = "bronze"


class OnFailure(Enum):
    """What becomes of the run when a node has failed for good."""

    FAIL_RUN = "fail_run"
    CONTINUE = "continue"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentNode:
    """A turn of an agent."""

    agent: str
    prompt: NodeValue


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNode:
    """A step that workers of a pool offer by its name."""

    name: str
    pool: str = ""
    reads: StepReads | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolNode:
    """A call of a tool."""

    tool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MapNode:
    """The same body for each item of a list."""

    items: NodeValue
    body: "Node"
    max_parallel: int = 0
    max_items: int = 0
    on_item_failure: ItemFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNode:
    """A run of another workflow."""

    workflow: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitNode:
    """A wait for a signal or for time to pass; one of the two is set."""

    signal: str = ""
    timer: timedelta | None = None
    timeout: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateNode:
    """A reduction to one value, by a reducer or by CEL; one of the two is set."""

    items: NodeValue | None = None
    reducer: Reducer | None = None
    cel: str = ""


Kind = AgentNode | StepNode | ToolNode | MapNode | RunNode | WaitNode | AggregateNode
#: Each kind by the name of its field.
KINDS: Final[Mapping[str, type[Kind]]] = {
    "agent": AgentNode,
    "step": StepNode,
    "tool": ToolNode,
    "map": MapNode,
    "run": RunNode,
    "wait": WaitNode,
    "aggregate": AggregateNode,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """An edge: whoever holds it comes after `node`."""

    node: str
    when: Condition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FanIn:
    """How the edges of a node count together."""

    mode: FanInMode | None = None
    quorum: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed attempt is made again."""

    max_attempts: int = 0
    first_backoff: timedelta | None = None
    factor: float = 0
    max_backoff: timedelta | None = None
    jitter: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """How a node is carried out."""

    tier: QualityTier | None = None
    sla_ms: int = 0
    retries: RetryPolicy | None = None
    timeout: timedelta | None = None
    heartbeat: timedelta | None = None
    fallback_agent: str = ""
    on_failure: OnFailure | None = None
    output_schema: Schema | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One unit of work."""

    id: str
    kind: Kind
    description: str = ""
    input: Mapping[str, NodeValue] = field(default_factory=dict[str, NodeValue])
    depends_on: tuple[Dependency, ...] = ()
    fan_in: FanIn | None = None
    when: Condition | None = None
    policy: NodePolicy | None = None

    @property
    def output_schema(self) -> Schema | None:
        """What its output must be, as JSON Schema; None when it may be anything."""
        return None if self.policy is None else self.policy.output_schema


class Preflight(Enum):
    """What is done at the start of a run that may not fit its budgets."""

    OFF = "off"
    WARN = "warn"
    REJECT = "reject"
    DEGRADE = "degrade"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowPolicy:
    """How runs of a workflow are started."""

    preflight: Preflight | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """One immutable version of a workflow."""

    name: str
    version: str
    nodes: tuple[Node, ...]
    description: str = ""
    input_schema: Schema | None = None
    output: Mapping[str, NodeValue] = field(default_factory=dict[str, NodeValue])
    deadline: timedelta | None = None
    policy: WorkflowPolicy | None = None

    def sinks(self) -> Iterator[Node]:
        """Gives the nodes that no other depends on."""
        before = {edge.node for node in self.nodes for edge in node.depends_on}
        return (node for node in self.nodes if node.id not in before)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWorkflow:
    """A version as it is stored, every reference pinned."""

    workflow: Workflow
    #: SHA-256 of the canonical definition, hex.
    digest: str
    #: How deep its runs start runs, from 1.
    depth: int
    node_count: int
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSummary:
    """A version as lists show it."""

    name: str
    version: str
    description: str
    deadline: timedelta | None
    digest: str
    depth: int
    node_count: int
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with a definition."""

    #: Line and column in the text, from 1; 0 when the definition came as a message.
    line: int
    column: int
    #: The field, such as `nodes[3].policy.sla_ms`; empty for the whole.
    field: str
    reason: str
    sentence: str
