"""What is known on the way to an answer.

Every relation to an object that the question touches is a node, and each is true, false, or not known yet. A node is
settled by what is settled below it, never the other way round, so what is known stays known while tuples arrive. What
stays unknown when all is read goes in a circle; as in OpenFGA, that is a refusal, also below `but not`.

Each node, and each part of its definition, is a gate that hears from the gates below it. A gate tells what it knows
once, so that the work is as much as there is to look at, in whatever order things become known. How much that may be is
bounded, and counted while the search grows, not afterwards.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.gateway.relations.model import (
    Computed,
    Direct,
    Exclusion,
    Expression,
    FromParent,
    Intersection,
    Kind,
    Model,
    Union,
)
from services.gateway.relations.tuples import EVERYONE, Node, Object, RelationTuple

#: Relations to objects that one search may touch.
MAX_NODES: Final = 5_000
#: Tuples, parts of definitions and ways between nodes that one search may look at.
MAX_LOOKS: Final = 50_000


class TooMuchToSearch(Exception):
    """The search would outgrow a bound."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Want:
    """Tuples of one relation to one object that are to be read."""

    node: Node
    #: True for all of them; else only those of the user in question, of everyone, and of all who have a relation.
    all: bool


@dataclass(slots=True)
class Facts:
    """What the tuples of one relation to one object say."""

    #: The tuple that names the user, or everyone of its type.
    hit: RelationTuple | None = None
    #: Nodes whose users are meant.
    usersets: list[Node] = field(default_factory=list[Node])


@dataclass(slots=True, eq=False)
class _Gate:
    """Is true if one of the gates below is, or if all are."""

    all: bool = False
    value: bool | None = None
    #: The order in which gates were settled: a gate stands on lower ones only.
    rank: int = -1
    #: Gates below that are not known yet, and one more as long as further gates may come.
    open: int = 1
    #: Gates that hear from this one, and whether they hear the opposite.
    above: list[tuple["_Gate", bool]] = field(default_factory=list[tuple["_Gate", bool]])


#: A part of the definition of a node that stands on tuples.
_OnTuples = tuple[Node, Direct | FromParent, _Gate]


class Search:
    """Nodes, tuples and values of one question."""

    def __init__(self, model: Model, user: Object) -> None:
        self._model = model
        self._user = user
        self._gates: dict[Node, _Gate] = {}
        #: Gates of the parts of definitions; a part is known by its place in the model, which outlives the search.
        self._parts: dict[tuple[Node, int], _Gate] = {}
        self._ranks = 0
        self._ahead: deque[Node] = deque()
        self._untold: deque[_Gate] = deque()
        self._wants: dict[Want, None] = {}
        self._waiting: dict[Want, list[_OnTuples]] = {}
        self._kinds: dict[tuple[str, str], frozenset[Kind]] = {}
        self._relevant: dict[tuple[str, str], bool] = {}
        self.direct: dict[Node, Facts] = {}
        #: Objects that a relation names, for `from`.
        self.parents: dict[Node, list[Object]] = {}
        #: How much was looked at.
        self.looked = 0

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self._gates)

    def value(self, node: Node) -> bool | None:
        """True, false, or None while it is not known."""
        gate = self._gates.get(node)
        return None if gate is None else gate.value

    def expression(self, node: Node) -> Expression:
        """How a node is defined."""
        found = self._model.expression(node.object.type, node.relation)
        if found is None:
            raise KeyError(str(node))
        return found

    def judge(self, node: Node, part: Expression) -> bool | None:
        """Says what is known of a part of a node's definition."""
        gate = self._parts.get((node, id(part)))
        return None if gate is None else gate.value

    def holds(self, node: Node, part: Expression) -> bool:
        """Whether a part of a true node's definition was true before the node was, and may so be its reason."""
        gate = self._parts[node, id(part)]
        return gate.value is True and gate.rank < self._gates[node].rank

    def was_before(self, node: Node, below: Node) -> bool:
        """Whether `below` was true before a true node was, and may so be its reason."""
        gate = self._gates.get(below)
        return gate is not None and gate.value is True and gate.rank < self._gates[node].rank

    def begin(self, goal: Node) -> Iterator[None]:
        """Takes the goal in, with what follows without reading.

        Like `learn` it does a little at each step of the iterator, so that others can work in between: at most the
        parts of one definition. Raises: TooMuchToSearch.
        """
        self._gate(goal)
        yield from self._grow()

    def take_wants(self) -> Sequence[Want]:
        """Gives what is to be read next, once."""
        wants = list(self._wants)
        self._wants.clear()
        return wants

    def learn(self, wants: Iterable[Want], rows: Iterable[RelationTuple]) -> Iterator[None]:
        """Takes in what was read for `wants`; tuples that the model has no place for say nothing.

        Raises: TooMuchToSearch.
        """
        by_node: dict[Node, list[RelationTuple]] = {}
        for row in rows:
            self._look()
            if row.user.kind in self._kinds_of(row.object.type, row.relation):
                by_node.setdefault(Node(row.object, row.relation), []).append(row)
            yield
        for want in wants:
            found = by_node.get(want.node, [])
            if want.all:
                self.parents[want.node] = [row.user.object for row in found if row.user.kind == Kind(row.user.type)]
            else:
                self.direct[want.node] = self._facts(found)
            for waiting in self._waiting.pop(want, ()):
                yield from self._connect(*waiting)
        yield from self._grow()

    def below(self, node: Node, step: FromParent) -> list[Node] | None:
        """Gives the nodes that `relation from parent` stands on; None while its tuples are not read."""
        parents = self.parents.get(Node(node.object, step.parent))
        return None if parents is None else list(self._steps(parents, step))

    def _steps(self, parents: Iterable[Object], step: FromParent) -> Iterator[Node]:
        for parent in parents:
            if self._model.expression(parent.type, step.relation) is not None:
                yield Node(parent, step.relation)

    def _grow(self) -> Iterator[None]:
        """Works out everything that can be."""
        while self._untold or self._ahead:
            if self._untold:
                gate = self._untold.popleft()
                for above, opposite in gate.above:
                    self._look()
                    self._hear(above, gate.value is not opposite)
                    yield
            else:
                yield from self._take_in(self._ahead.popleft())

    def _take_in(self, node: Node) -> Iterator[None]:
        on_tuples: list[_OnTuples] = []
        gate = self._gates[node]
        self._feed(gate, self._build(node, self.expression(node), on_tuples))
        self._close(gate)
        yield
        for one in on_tuples:
            want = self._want_of(*one)
            if want is None:
                yield from self._connect(*one)
                continue
            if want not in self._waiting:
                self._waiting[want] = []
                self._wants[want] = None
            self._waiting[want].append(one)

    def _build(self, node: Node, part: Expression, on_tuples: list[_OnTuples]) -> _Gate:
        """Makes the gates of a definition; those that stand on tuples are left open."""
        self._look()
        gate = self._parts[node, id(part)] = _Gate(all=isinstance(part, Intersection | Exclusion))
        match part:
            case Union(parts) | Intersection(parts):
                for one in parts:
                    self._feed(gate, self._build(node, one, on_tuples))
            case Exclusion(base, taken):
                self._feed(gate, self._build(node, base, on_tuples))
                self._feed(gate, self._build(node, taken, on_tuples), opposite=True)
            case Computed(relation):
                self._feed(gate, self._gate(Node(node.object, relation)))
            case Direct() | FromParent():
                on_tuples.append((node, part, gate))
                return gate
        self._close(gate)
        return gate

    def _want_of(self, node: Node, leaf: Direct | FromParent, gate: _Gate) -> Want | None:
        """Says what must be read for a part; None when that is known."""
        if isinstance(leaf, FromParent):
            parents = Node(node.object, leaf.parent)
            return None if parents in self.parents else Want(parents, all=True)
        if not self._can_matter(node, leaf):
            self.direct[node] = Facts()
        return None if node in self.direct else Want(node, all=False)

    def _connect(self, node: Node, leaf: Direct | FromParent, gate: _Gate) -> Iterator[None]:
        """Puts what the tuples say below the gate of a part."""
        if isinstance(leaf, FromParent):
            below: Iterable[Node] = self._steps(self.parents[Node(node.object, leaf.parent)], leaf)
        else:
            below = self.direct[node].usersets
            if self.direct[node].hit is not None:
                self._settle(gate, value=True)
        for one in below:
            self._feed(gate, self._gate(one))
            yield
        self._close(gate)

    def _gate(self, node: Node) -> _Gate:
        known = self._gates.get(node)
        if known is not None:
            return known
        if len(self._gates) == MAX_NODES:
            raise TooMuchToSearch(f"{MAX_NODES} relations to look at")
        made = self._gates[node] = _Gate()
        self._ahead.append(node)
        return made

    def _feed(self, gate: _Gate, below: _Gate, *, opposite: bool = False) -> None:
        self._look()
        gate.open += 1
        if below.value is None:
            below.above.append((gate, opposite))
        else:
            self._hear(gate, below.value is not opposite)

    def _close(self, gate: _Gate) -> None:
        """Says that no further gates come. It is as if one came that decides nothing."""
        self._hear(gate, gate.all)

    def _hear(self, gate: _Gate, said: bool) -> None:
        gate.open -= 1
        if gate.value is None and (said is not gate.all or gate.open == 0):
            self._settle(gate, value=said)

    def _settle(self, gate: _Gate, *, value: bool) -> None:
        gate.value, gate.rank = value, self._ranks
        self._ranks += 1
        self._untold.append(gate)

    def _look(self) -> None:
        if self.looked == MAX_LOOKS:
            raise TooMuchToSearch(f"{MAX_LOOKS} tuples and parts of definitions to look at")
        self.looked += 1

    def _facts(self, rows: Iterable[RelationTuple]) -> Facts:
        facts = Facts()
        for row in rows:
            if row.user.relation:
                facts.usersets.append(Node(row.user.object, row.user.relation))
            elif row.user.type == self._user.type and row.user.id in (self._user.id, EVERYONE):
                facts.hit = facts.hit or row
        return facts

    def _kinds_of(self, type_name: str, relation: str) -> frozenset[Kind]:
        key = (type_name, relation)
        known = self._kinds.get(key)
        if known is None:
            direct = self._model.direct(type_name, relation)
            known = self._kinds[key] = frozenset() if direct is None else frozenset(direct.kinds)
        return known

    def _can_matter(self, node: Node, leaf: Direct) -> bool:
        key = (node.object.type, node.relation)
        known = self._relevant.get(key)
        if known is None:
            known = any(kind.relation or kind.type == self._user.type for kind in leaf.kinds)
            self._relevant[key] = known
        return known
