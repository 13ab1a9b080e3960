"""Where a run of a workflow is. Changed by `graph.decide` only, and by what it calls."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from google.protobuf import struct_pb2

from comitia.orchestrator.v1 import agent_pb2, journal_pb2
from services.meshkit.content import Confidentiality, Integrity, Label
from services.meshkit.content.label import BOTTOM
from services.meshkit.content.proto import label_from_proto
from services.orchestrator.conditions.budget import Allowance
from services.orchestrator.programs.commands import Command
from services.orchestrator.programs.graph_plan import NodePlan, Plan
from services.orchestrator.programs.prompting import Said
from services.orchestrator.programs.values import Json, from_struct, from_value

#: What whoever started a run gave it.
USER: Final = Label(integrity=Integrity.USER, confidentiality=Confidentiality.TENANT, sources=frozenset({"user:run"}))
#: What somebody sent to a run in progress.
SIGNAL: Final = Label(
    integrity=Integrity.USER, confidentiality=Confidentiality.TENANT, sources=frozenset({"user:signal"})
)
#: Signals that a run keeps for steps that do not wait yet; it forgets those beyond, and those that none can ever take.
KEPT_SIGNALS: Final = 100
#: Most that the steps of one run are given, each attempt anew, and what aggregates give with it.
MAX_WRITTEN_BYTES: Final = 256 * 1024 * 1024
#: Most that the steps of one run give, encoded: a run in progress has all of it in memory.
MAX_GIVEN_BYTES: Final = 64 * 1024 * 1024
#: What one fact leads to, about; what is left goes on with a fact of its own. So no decision keeps a replica busy, or
#: needs more memory than a commit has.
_STEPS_AT_ONCE: Final = 250_000
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024
_COMMANDS_AT_ONCE: Final = 1_000
#: Longest sentence of another's error that a fact keeps.
MAX_SENTENCE: Final = 2_000


class NodeState(IntEnum):
    """Where a node is."""

    PENDING = 0
    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    SKIPPED = 4


# Those that each step goes through, by names of their own: to look a member up at its class takes ten times as long.
PENDING: Final = NodeState.PENDING
RUNNING: Final = NodeState.RUNNING
SUCCEEDED: Final = NodeState.SUCCEEDED
#: As expressions know them.
STATE_NAMES: Final = ("pending", "running", "succeeded", "failed", "skipped")


class Phase(IntEnum):
    """What a step in progress waits for."""

    CALL = 0
    TURN = 1
    BACKOFF = 2
    SIGNAL = 3
    TIMER = 4
    ITEMS = 5
    RESUME = 6


#: See `PENDING`.
AWAITS_CALL: Final = Phase.CALL


class Given:
    """What a step gave, with the label of all that it was made from. Read when somebody asks, which is often nobody."""

    __slots__ = ("_label", "_raw", "_value")

    def __init__(self, value: Json, label: Label, raw: bytes | None = None) -> None:
        self._value = value
        self._label = label
        self._raw = raw

    @property
    def value(self) -> Json:
        """The value."""
        self._read()
        return self._value

    @property
    def label(self) -> Label:
        """Not below the label of anything that the step read."""
        self._read()
        return self._label

    def _read(self) -> None:
        if self._raw is not None:
            result = journal_pb2.StepResult.FromString(self._raw)
            self._raw = None
            self._value = from_value(result.output)
            if result.HasField("label"):
                self._label = joined(self._label, label_from_proto(result.label))


class GivenList:
    """What the items of a map gave, in their order."""

    __slots__ = ("_items", "_label", "_value")

    def __init__(self, items: Sequence[Given | None], label: Label, *, omit: bool) -> None:
        self._items = [item for item in items if item is not None] if omit else items
        self._label = label
        self._value: list[Json] | None = None

    @property
    def value(self) -> Json:
        """The list; null stands for an item that failed."""
        if self._value is None:
            self._value = [None if item is None else item.value for item in self._items]
        return self._value

    @property
    def label(self) -> Label:
        """The join over the map and all items."""
        label = self._label
        for item in self._items:
            if item is not None:
                label = joined(label, item.label)
        return label


class Step:
    """A step in progress: a node, or an item of a map.

    What most steps never change stands at the class alone, for one is made for each.
    """

    phase: Phase = Phase.CALL
    #: Calls intended so far, of a step that is no turn; the last one is the one in flight, in phase CALL.
    calls: int = 0
    #: Attempts in this attempt group, and those of them under the current agent.
    attempt: int = 1
    tries: int = 1
    group: int = 0
    #: Name of the timer that counts; timers of other names are of the past.
    timer: str = ""
    #: The encoded request, of a step that makes a call of its own.
    request: bytes = b""
    #: Of a turn: what the agent is asked, and what it is given to work on.
    prompt: str = ""
    data: Mapping[str, str] = MappingProxyType({})
    #: The agent asked, once that is not the node's own.
    fallback: str = ""

    def __init__(self, plan: NodePlan, path: str, index: int, label: Label) -> None:
        self.plan = plan
        self.path = path
        #: Number of the item, -1 for a node.
        self.index = index
        #: Not below the label of anything that it reads, or that its being there depends on.
        self.label = label


@dataclass(slots=True)
class MapState:
    """A map in progress."""

    step: Step
    #: What its expressions see, as it stood when the map began.
    facts: Mapping[str, Json] = field(repr=False)
    items: Sequence[Json] = field(repr=False)
    given: list[Given | None] = field(repr=False)
    #: The next item to begin.
    next: int = 0
    #: Items in progress, by number, the parked ones among them; and how many have ended.
    open: dict[int, Step] = field(default_factory=dict[int, Step])
    ended: int = 0
    #: Label of what made items fail that the list does without.
    failures: Label = BOTTOM


@dataclass(slots=True, kw_only=True)
class GraphState:
    """Where a run is. What is listed by node stands at the node's place in the plan."""

    started: journal_pb2.RunStarted
    plan: Plan
    states: list[NodeState]
    #: Edges that are not decided yet, and those that hold.
    undecided: list[int]
    held: list[int]
    given: list[Given | GivenList | None]
    labels: dict[int, Label] = field(default_factory=dict[int, Label])
    reasons: dict[int, str] = field(default_factory=dict[int, str])
    #: Label of what decided that a node is there at all; kept where the workflow asks conditions.
    control: list[Label]
    #: Nodes that have not ended.
    left: int
    #: Steps in progress by path, the parked ones among them.
    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    maps: dict[int, MapState] = field(default_factory=dict[int, MapState])
    #: Steps that wait for a signal, by its name, and signals that wait for a step.
    waits: dict[str, deque[Step]] = field(default_factory=dict[str, "deque[Step]"])
    signals: dict[str, deque[struct_pb2.Value]] = field(default_factory=dict[str, "deque[struct_pb2.Value]"])
    kept_signals: int = 0
    #: Nodes that have ended and whose edges are not decided; maps that may begin items; a heap of nodes that may start.
    settled: deque[int] = field(default_factory=deque[int])
    filling: deque[int] = field(default_factory=deque[int])
    ready: list[int] = field(default_factory=list[int])
    #: What the fact in hand leads to.
    out: list[Command] = field(default_factory=list[Command])
    turns: int = 0
    #: What agents said before a fork; memory knows it under the run that it was forked from.
    adopted: tuple[Said, ...] = ()
    #: Parked steps that are to begin anew.
    anew: deque[Step] = field(default_factory=deque[Step])
    #: Bytes of what steps were given, and of what aggregates gave; and how many there were before the fact in hand.
    written: int = 0
    written_before: int = 0
    #: Bytes of what steps gave.
    kept: int = 0
    #: What expressions may still take for the fact in hand.
    allowance: Allowance = field(default_factory=Allowance)
    #: True while a timer runs after which the rest is gone on with.
    put_off: bool = False
    ended: bool = False
    #: A graph never waits for AdvanceSession.
    waiting: bool = False
    _input: dict[str, Json] | None = None
    _agents: dict[str, agent_pb2.Agent] | None = None

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.started.run.run_id

    @property
    def spent(self) -> bool:
        """True when the fact in hand has led to enough."""
        return (
            len(self.out) >= _COMMANDS_AT_ONCE
            or self.allowance.used >= _STEPS_AT_ONCE
            or self.written - self.written_before >= _BYTES_AT_ONCE
        )

    @property
    def input(self) -> dict[str, Json]:
        """What the run was started with."""
        if self._input is None:
            self._input = from_struct(self.started.run.input)
        return self._input

    @property
    def input_label(self) -> Label:
        """Label of what the run was started with."""
        return label_from_proto(self.started.input_label) if self.started.HasField("input_label") else USER

    def agent(self, name: str) -> agent_pb2.Agent:
        """Gives a pinned agent by `name@version`, or the one that a fork has put in its place."""
        if self._agents is None:
            self._agents = {f"{agent.name}@{agent.version}": agent for agent in self.started.agents}
        return self._agents[self.started.fork.agents.get(name, name)]

    def pin(self, started: journal_pb2.RunStarted) -> None:
        """Goes on with other pins."""
        self.started = started
        self._agents = None

    def facts(self, nodes: Iterable[int]) -> dict[str, Json]:
        """Gives what expressions see of the run, as it stands."""
        seen: dict[str, Json] = {}
        for place in nodes:
            given = self.given[place]
            seen[self.plan.nodes[place].id] = {
                "output": None if given is None else given.value,
                "state": STATE_NAMES[self.states[place]],
                "reason": self.reasons.get(place, ""),
            }
        return {"input": self.input, "nodes": seen}

    def label_of(self, nodes: Iterable[int], *, reads_input: bool, base: Label) -> Label:
        """Joins the labels of nodes that are read, as they stand."""
        label = joined(base, self.input_label) if reads_input else base
        for place in nodes:
            given = self.given[place]
            label = joined(label, self.labels.get(place, BOTTOM) if given is None else given.label)
        return label


def joined(one: Label, other: Label) -> Label:
    """Joins two labels; most are the same."""
    return one if one is other or one.covers(other) else one.joined(other)


def new_state(started: journal_pb2.RunStarted, plan: Plan) -> GraphState:
    """Makes the state of a run that has just been started."""
    count = len(plan.nodes)
    return GraphState(
        started=started,
        plan=plan,
        states=[NodeState.PENDING] * count,
        undecided=list(plan.edge_counts),
        held=[0] * count,
        given=[None] * count,
        control=[BOTTOM] * count if plan.conditional else [],
        left=count,
    )
