"""Says in sentences why a check came out as it did."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from services.gateway.relations.model import (
    Computed,
    Direct,
    Exclusion,
    Expression,
    FromParent,
    Intersection,
    Kind,
    Union,
    leaves,
)
from services.gateway.relations.search import Search
from services.gateway.relations.tuples import Node, Object

#: Sentences of one explanation, beside what would grant.
MAX_SENTENCES: Final = 40
MAX_WAYS: Final = 5
#: How far from the object a missing tuple is looked for.
_MAX_DEPTH: Final = 30
#: Objects that one sentence names.
_MAX_NAMED: Final = 5


def explanation(search: Search, user: Object, goal: Node, granting: Iterable[str]) -> tuple[str, ...]:
    """Gives how it was found; for a refusal what was looked at and what would have granted it."""
    if search.value(goal):
        told = list(islice(_Granted(search, user).node(goal), MAX_SENTENCES + 1))
        return _cut(told)
    looked = [f"{user} is not {goal.relation} of {goal.object}"]
    looked += islice(_looked_at(search, user, goal), MAX_SENTENCES)
    return (*_cut(looked), *(f"would grant it: {way}" for way in granting))


def _cut(sentences: list[str]) -> tuple[str, ...]:
    if len(sentences) <= MAX_SENTENCES:
        return tuple(sentences)
    return (*sentences[:MAX_SENTENCES], "and more")


class _Granted:
    """Walks the way that grants, each node once; it leads to nodes settled earlier, so it ends."""

    def __init__(self, search: Search, user: Object) -> None:
        self._search = search
        self._user = user
        self._told: set[Node] = set()

    def node(self, node: Node) -> Iterator[str]:
        if node not in self._told:
            self._told.add(node)
            yield from self._expression(node, self._search.expression(node))

    def _expression(self, node: Node, expression: Expression) -> Iterator[str]:
        subject = f"{self._user} is {node.relation} of {node.object}"
        match expression:
            case Union(parts):
                yield from self._expression(node, next(part for part in parts if self._search.holds(node, part)))
            case Intersection(parts):
                for part in parts:
                    yield from self._expression(node, part)
            case Exclusion(base, taken):
                yield from self._expression(node, base)
                yield f"{subject}: `but not {taken}` does not take it away"
            case Computed(relation):
                yield f"{subject} through `{relation}`"
                yield from self.node(Node(node.object, relation))
            case FromParent():
                below = self._first(node, self._search.below(node, expression) or ())
                yield f"{subject} through `{expression}`: {node.object} has {expression.parent} {below.object}"
                yield from self.node(below)
            case Direct():
                facts = self._search.direct[node]
                if facts.hit is not None:
                    yield f"{subject}: the tuple `{facts.hit}` is written"
                else:
                    below = self._first(node, facts.usersets)
                    yield f"{subject}: the tuple `{below} {node.relation} {node.object}` is written"
                    yield from self.node(below)

    def _first(self, node: Node, below: Iterable[Node]) -> Node:
        return next(one for one in below if self._search.was_before(node, one))


def _looked_at(search: Search, user: Object, goal: Node) -> Iterator[str]:
    """Tells node by node, nearest first."""
    seen = {goal}
    ahead = deque([goal])
    while ahead:
        node = ahead.popleft()
        below: list[Node] = []
        for leaf in leaves(search.expression(node)):
            below += _nodes_of(search, node, leaf)
            yield from _seen_at(search, user, node, leaf)
        if search.value(node) is None:
            yield f"{node} stands on itself in a circle, which grants nothing"
        yield from _taken(search, user, node, search.expression(node))
        fresh = [one for one in dict.fromkeys(below) if one not in seen]
        seen.update(fresh)
        ahead += fresh


def _seen_at(search: Search, user: Object, node: Node, leaf: Direct | Computed | FromParent) -> Iterator[str]:
    match leaf:
        case Direct() if node in search.direct:
            facts = search.direct[node]
            if facts.hit is not None:
                yield f"{node}: the tuple `{facts.hit}` is written"
            elif facts.usersets:
                yield f"{node} is given to {_listed(facts.usersets)}"
            else:
                yield f"{node}: no tuple names {user}"
        case FromParent(_, parent):
            named = search.parents.get(Node(node.object, parent))
            if named is not None:
                yield f"{node.object} has {parent} {_listed(named)}" if named else f"{node.object} has no {parent}"
        case _:
            pass


def _taken(search: Search, user: Object, node: Node, expression: Expression) -> Iterator[str]:
    match expression:
        case Union(parts) | Intersection(parts):
            for part in parts:
                yield from _taken(search, user, node, part)
        case Exclusion(base, taken):
            if search.judge(node, base) and search.judge(node, taken):
                yield f"{node}: `but not {taken}` takes it away from {user}"
        case _:
            pass


def _nodes_of(search: Search, node: Node, leaf: Direct | Computed | FromParent) -> list[Node]:
    match leaf:
        case Computed(relation):
            return [Node(node.object, relation)]
        case FromParent():
            return search.below(node, leaf) or []
        case Direct():
            facts = search.direct.get(node)
            return [] if facts is None else facts.usersets


def _listed(things: Iterable[object]) -> str:
    named = [str(thing) for thing in islice(things, _MAX_NAMED + 1)]
    return ", ".join(named[:_MAX_NAMED]) + (" and others" if len(named) > _MAX_NAMED else "")


def ways(search: Search, user: Object, goal: Node) -> tuple[str, ...]:
    """Gives what would grant it, the nearest first: tuples to write, and to remove where `but not` takes away."""
    found: dict[str, None] = {}
    for way in islice(_Ways(search, user).node(goal), MAX_WAYS * 4):
        found[" and ".join(dict.fromkeys(way))] = None
    return tuple(sorted(found, key=lambda way: way.count(" and ")))[:MAX_WAYS]


class _Ways:
    """Looks for tuples that are missing, each node once."""

    def __init__(self, search: Search, user: Object) -> None:
        self._search = search
        self._user = user
        self._seen: set[Node] = set()
        self._depth = 0

    def node(self, node: Node) -> Iterator[list[str]]:
        if self._search.value(node) is True:
            yield []
        elif node not in self._seen and self._depth < _MAX_DEPTH:
            self._seen.add(node)
            self._depth += 1
            yield from self._expression(node, self._search.expression(node))
            self._depth -= 1

    def _expression(self, node: Node, expression: Expression) -> Iterator[list[str]]:
        match expression:
            case Union(parts):
                for part in parts:
                    yield from self._expression(node, part)
            case Intersection(parts):
                each = [next(self._missing(node, part), None) for part in parts]
                if all(way is not None for way in each):
                    yield [step for way in each if way is not None for step in way]
            case Exclusion(base, taken):
                for way in self._missing(node, base):
                    if self._search.judge(node, taken) is False:
                        yield way
                    else:
                        yield [*way, f"no longer `{taken}` of {node.object}"]
            case Computed(relation):
                yield from self.node(Node(node.object, relation))
            case FromParent():
                yield from self._from_parent(node, expression)
            case Direct(kinds):
                if Kind(self._user.type) in kinds:
                    yield [f"`{self._user} {node.relation} {node.object}`"]
                facts = self._search.direct.get(node)
                for one in () if facts is None else facts.usersets:
                    yield from self.node(one)

    def _from_parent(self, node: Node, step: FromParent) -> Iterator[list[str]]:
        below = self._search.below(node, step) or []
        for one in below:
            yield from self.node(one)
        if not below:
            yield [f"a {step.parent} of {node.object} of which {self._user} is {step.relation}"]

    def _missing(self, node: Node, part: Expression) -> Iterator[list[str]]:
        if self._search.judge(node, part) is True:
            yield []
        else:
            yield from self._expression(node, part)
