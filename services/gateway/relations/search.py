"""What is known on the way to an answer.

Every relation to an object that the question touches is a node, and each is true, false, or not known yet. A node is
settled by what is settled below it, never the other way round, so what is known stays known while tuples arrive. What
stays unknown when all is read goes in a circle; as in OpenFGA, that is a refusal, also below `but not`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
    leaves,
)
from services.gateway.relations.tuples import EVERYONE, Node, Object, RelationTuple


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


class Search:
    """Nodes, tuples and values of one question."""

    def __init__(self, model: Model, user: Object) -> None:
        self._model = model
        self._user = user
        self._above: dict[Node, set[Node]] = {}
        self._values: dict[Node, bool] = {}
        self._ranks: dict[Node, int] = {}
        self._unsettled: list[Node] = []
        self._wants: dict[Want, None] = {}
        self.direct: dict[Node, Facts] = {}
        #: Objects that a relation names, for `from`.
        self.parents: dict[Node, list[Object]] = {}

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self._above)

    def value(self, node: Node) -> bool | None:
        """True, false, or None while it is not known."""
        return self._values.get(node)

    def rank(self, node: Node) -> int:
        """The order in which nodes were settled: a node stands on lower ones only."""
        return self._ranks[node]

    def expression(self, node: Node) -> Expression:
        """How a node is defined."""
        found = self._model.expression(node.object.type, node.relation)
        if found is None:
            raise KeyError(str(node))
        return found

    def add(self, node: Node, above: Node | None = None) -> None:
        """Takes a node in, with those that follow from it without reading, and notes what is to be read for it."""
        ahead = [(node, above)]
        while ahead:
            one, parent = ahead.pop()
            known = one in self._above
            users = self._above.setdefault(one, set())
            if parent is not None:
                users.add(parent)
            if known:
                continue
            self._unsettled.append(one)
            for leaf in leaves(self.expression(one)):
                match leaf:
                    case Computed(relation):
                        ahead.append((Node(one.object, relation), one))
                    case FromParent(_, parent_relation):
                        self._want(Want(Node(one.object, parent_relation), all=True))
                    case Direct(kinds):
                        if self._can_matter(kinds):
                            self._want(Want(one, all=False))
                        else:
                            self.direct[one] = Facts()

    def take_wants(self) -> Sequence[Want]:
        """Gives what is to be read next, once."""
        wants = list(self._wants)
        self._wants.clear()
        return wants

    def learn(self, wants: Iterable[Want], rows: Iterable[RelationTuple]) -> None:
        """Takes in what was read for `wants`; tuples that the model has no place for say nothing."""
        by_node: dict[Node, list[RelationTuple]] = {}
        for row in rows:
            direct = self._model.direct(row.object.type, row.relation)
            if direct is not None and row.user.kind in direct.kinds:
                by_node.setdefault(Node(row.object, row.relation), []).append(row)
        for want in wants:
            found = by_node.get(want.node, [])
            if want.all:
                self.parents[want.node] = [row.user.object for row in found if row.user.kind == Kind(row.user.type)]
            else:
                self.direct[want.node] = self._facts(found)
        for node in tuple(self._above):
            if node not in self._values:
                self._grow(node)

    def settle(self) -> None:
        """Works out every node that can be."""
        waiting, self._unsettled = self._unsettled, []
        while waiting:
            node = waiting.pop()
            if node in self._values:
                continue
            value = self.judge(node, self.expression(node))
            if value is not None:
                self._values[node] = value
                self._ranks[node] = len(self._ranks)
                waiting.extend(self._above[node])

    def judge(self, node: Node, expression: Expression) -> bool | None:
        """Works out an expression of a node from what is known now."""
        match expression:
            case Union(parts):
                return _any(self.judge(node, part) for part in parts)
            case Intersection(parts):
                return _all(self.judge(node, part) for part in parts)
            case Exclusion(base, taken):
                out = self.judge(node, taken)
                return _all((self.judge(node, base), None if out is None else not out))
            case Computed(relation):
                return self.value(Node(node.object, relation))
            case FromParent():
                below = self.below(node, expression)
                return None if below is None else _any(map(self.value, below))
            case Direct():
                facts = self.direct.get(node)
                if facts is None:
                    return None
                return True if facts.hit is not None else _any(map(self.value, facts.usersets))

    def below(self, node: Node, step: FromParent) -> list[Node] | None:
        """Gives the nodes that `relation from parent` stands on; None while its tuples are not read."""
        parents = self.parents.get(Node(node.object, step.parent))
        if parents is None:
            return None
        return [
            Node(parent, step.relation)
            for parent in parents
            if self._model.expression(parent.type, step.relation) is not None
        ]

    def _grow(self, node: Node) -> None:
        """Takes in the nodes that fresh tuples put below a node."""
        self._unsettled.append(node)
        for leaf in leaves(self.expression(node)):
            if isinstance(leaf, FromParent):
                for one in self.below(node, leaf) or ():
                    self.add(one, node)
            elif isinstance(leaf, Direct) and node in self.direct:
                for one in self.direct[node].usersets:
                    self.add(one, node)

    def _facts(self, rows: Iterable[RelationTuple]) -> Facts:
        facts = Facts()
        for row in rows:
            if row.user.relation:
                facts.usersets.append(Node(row.user.object, row.user.relation))
            elif row.user.type == self._user.type and row.user.id in (self._user.id, EVERYONE):
                facts.hit = facts.hit or row
        return facts

    def _can_matter(self, kinds: Iterable[Kind]) -> bool:
        return any(kind.relation or kind.type == self._user.type for kind in kinds)

    def _want(self, want: Want) -> None:
        known = self.parents if want.all else self.direct
        if want.node not in known:
            self._wants[want] = None


def _any(values: Iterable[bool | None]) -> bool | None:
    unknown = False
    for value in values:
        if value:
            return True
        unknown = unknown or value is None
    return None if unknown else False


def _all(values: Iterable[bool | None]) -> bool | None:
    unknown = False
    for value in values:
        if value is False:
            return False
        unknown = unknown or value is None
    return None if unknown else True
