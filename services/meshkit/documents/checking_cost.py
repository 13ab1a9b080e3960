"""What it costs to hold a value against a JSON Schema, before anybody does it.

A check is one call that nothing can interrupt, so what it may take is bounded beforehand: by the parts of the schema
that each part of the value meets. Under `properties` and `items` a value meets its own schema; whatever else a schema
says of what is inside a value, all of it may meet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

#: Parts of a schema that parts of one value may meet; some tenths of a second. Programs decide by it: whoever changes
#: it changes how recorded runs replay.
MAX_CHECKS: Final = 2_000_000
#: Characters of a text that count as one part.
_CHARACTERS: Final = 32
#: What says nothing about a value by itself.
_SILENT: Final = frozenset(
    {"$comment", "$defs", "$schema", "default", "definitions", "description", "examples", "title"}
)

Json = Mapping[str, object]


@dataclass(slots=True)
class Cost:
    """What a schema costs.

    Attributes:
        here: parts that the value itself meets.
        inside: parts that the value, and all that is in it, may meet.
        properties, items: what those inside meet by their name, or as elements.
    """

    here: int = 1
    inside: int = 0
    properties: dict[str, "Cost"] = field(default_factory=dict[str, "Cost"])
    items: "Cost | None" = None

    def too_much(self, value: object) -> bool:
        """Tells whether checking a value takes more than may be spent on one."""
        return self._of(value)[1] > MAX_CHECKS

    def _of(self, value: object) -> tuple[int, int]:
        """Gives the parts of a value, and what checking it takes."""
        inner: tuple[int, int]
        if isinstance(value, Mapping):
            own, size, cost = 1, 1, 0
            for name, child in cast(Json, value).items():
                own += 1 + len(name) // _CHARACTERS
                inner = self.properties.get(name, _NOTHING)._of(child)
                size, cost = size + inner[0], cost + inner[1]
            size += own
        elif isinstance(value, list):
            own, size, cost = 1, 1, 0
            items = self.items or _NOTHING
            for child in cast("list[object]", value):
                inner = items._of(child)
                size, cost = size + inner[0], cost + inner[1]
        else:
            own = size = 1 + (len(value) // _CHARACTERS if isinstance(value, str) else 0)
            cost = 0
        return size, cost + self.here * own + self.inside * size


#: For what a schema says nothing of.
_NOTHING: Final = Cost(here=0)


class Costs:
    """Works out what a schema costs, which does not refer to itself.

    Args:
        count: gives how many parts a part of the schema unfolds to.
        target: gives what a reference names.
    """

    def __init__(self, *, count: Callable[[object], int], target: Callable[[str], object]) -> None:
        self._count = count
        self._target = target
        self._known: dict[str, Cost] = {}

    def of(self, node: object) -> Cost:
        """Gives what a part of the schema costs."""
        if not isinstance(node, Mapping):
            return Cost()
        says = {keyword: said for keyword, said in cast(Json, node).items() if keyword not in _SILENT}
        reference = says.get("$ref")
        if isinstance(reference, str) and len(says) == 1:
            if reference not in self._known:
                self._known[reference] = self.of(self._target(reference))
            return self._known[reference]
        cost = Cost(here=1 + len(says))
        for keyword, said in says.items():
            match said:
                case Mapping() if keyword == "properties":
                    named = cast(Json, said)
                    cost.here += len(named)
                    cost.properties = {name: self.of(child) for name, child in named.items()}
                case Mapping() if keyword == "items":
                    cost.items = self.of(cast(object, said))
                case list() if keyword in ("required", "type"):
                    cost.here += len(cast("list[object]", said))
                case str() if keyword == "$ref":
                    cost.inside += self._count(self._target(said))
                case Mapping() | list():
                    cost.inside += self._count(cast(object, said))
                case True if keyword == "uniqueItems":
                    cost.inside += 1
                case _:
                    pass
        return cost
