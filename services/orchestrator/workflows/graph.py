"""The shape of a workflow: its cycles, what can never start, and which nodes come before which."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: By index of a node: the indices of those it comes after.
Edges = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Graph:
    """What follows from the edges alone."""

    #: One of each knot of nodes that all come after one another: a shortest way around, in order of flow.
    cycles: Sequence[Sequence[int]]
    #: Nodes that are in no knot and come after one, each with its cycle.
    behind: Mapping[int, Sequence[int]]
    #: By node, the set of nodes before it, directly or through others, as bits; empty in knots and behind them.
    before: Sequence[int]


def graph_of(edges: Edges) -> Graph:
    """Looks at the edges. Takes time in proportion to edges times nodes/64 at most."""
    after = _turned(edges)
    before = [0] * len(edges)
    for node in _sorted(edges, after):
        for first in edges[node]:
            before[node] |= before[first] | 1 << first
    knots = [knot for knot in _knots(after) if len(knot) > 1]
    cycles = [_around(min(knot), knot, after) for knot in knots]
    return Graph(cycles, _behind(knots, cycles, after), before)


def _turned(edges: Edges) -> list[list[int]]:
    after: list[list[int]] = [[] for _ in edges]
    for node, firsts in enumerate(edges):
        for first in firsts:
            after[first].append(node)
    return after


def _sorted(edges: Edges, after: Edges) -> Iterator[int]:
    """Gives the nodes in an order that keeps the edges, without those in knots or behind them."""
    waiting = [len(firsts) for firsts in edges]
    ready = deque(node for node, count in enumerate(waiting) if count == 0)
    while ready:
        node = ready.popleft()
        yield node
        for later in after[node]:
            waiting[later] -= 1
            if waiting[later] == 0:
                ready.append(later)


def _knots(after: Edges) -> Iterator[set[int]]:
    """Gives the strongly connected components, by Tarjan's way without recursion."""
    number: dict[int, int] = {}
    lowest: dict[int, int] = {}
    open_nodes: list[int] = []
    is_open: set[int] = set()
    for root in range(len(after)):
        walk: list[tuple[int, Iterator[int]]] = [] if root in number else [(root, iter(after[root]))]
        while walk:
            node, later = walk[-1]
            if node not in number:
                number[node] = lowest[node] = len(number)
                open_nodes.append(node)
                is_open.add(node)
            for one in later:
                if one not in number:
                    walk.append((one, iter(after[one])))
                    break
                if one in is_open:
                    lowest[node] = min(lowest[node], number[one])
            else:
                walk.pop()
                if walk:
                    lowest[walk[-1][0]] = min(lowest[walk[-1][0]], lowest[node])
                if lowest[node] == number[node]:
                    knot: set[int] = set()
                    while node not in knot:
                        knot.add(open_nodes.pop())
                    is_open -= knot
                    yield knot


def _around(start: int, knot: set[int], after: Edges) -> list[int]:
    """Gives a shortest way from a node of a knot back to it."""
    came_from: dict[int, int] = {}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for later in after[node]:
            if later == start:
                way = [node]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if later in knot and later not in came_from:
                came_from[later] = node
                waiting.append(later)
    return [start]


def _behind(knots: Sequence[set[int]], cycles: Sequence[Sequence[int]], after: Edges) -> dict[int, Sequence[int]]:
    known = {node: cycle for knot, cycle in zip(knots, cycles, strict=True) for node in knot}
    behind: dict[int, Sequence[int]] = {}
    waiting = deque(known)
    while waiting:
        node = waiting.popleft()
        for later in after[node]:
            if later not in known:
                known[later] = behind[later] = known[node]
                waiting.append(later)
    return behind
