"""How deep JSON values nest. Nothing here recurses: a value may be nested deeper than a stack is."""

from collections.abc import Iterator, Mapping
from typing import Final, cast

#: Levels of objects and lists in the arguments of a tool call. An object takes three levels of a message on the wire,
#: which has a hundred.
MAX_ARGUMENT_LEVELS: Final = 24


def nests_deeper(value: object, levels: int) -> bool:
    """Says whether objects and lists stand in each other more than this many levels deep; an empty one is a level."""
    nodes = [value] if _is_node(value) else []
    for _ in range(levels):
        nodes = [child for node in nodes for child in _children(node) if _is_node(child)]
    return bool(nodes)


def _is_node(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _children(node: object) -> Iterator[object]:
    if isinstance(node, Mapping):
        yield from cast("Mapping[str, object]", node).values()
    else:
        yield from cast("list[object]", node)
