"""An authorization model: types, their relations, and how a relation follows from others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.gateway.domain.access_errors import ModelInvalid


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a model's text."""

    #: From 1.
    line: int
    #: From 1.
    column: int


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of user that may stand in a tuple: `user`, `user:*` or `group#member`."""

    type: str
    #: Set for all who have this relation.
    relation: str = ""
    #: True for everyone of the type.
    everyone: bool = False

    def __str__(self) -> str:
        if self.everyone:
            return f"{self.type}:*"
        return f"{self.type}#{self.relation}" if self.relation else self.type


@dataclass(frozen=True, slots=True)
class Direct:
    """`[user, group#member]`: whoever a tuple names."""

    kinds: tuple[Kind, ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.kinds))}]"


@dataclass(frozen=True, slots=True)
class Computed:
    """`editor`: whoever has another relation to the same object."""

    relation: str

    def __str__(self) -> str:
        return self.relation


@dataclass(frozen=True, slots=True)
class FromParent:
    """`admin from parent`: whoever has a relation to an object that this object's tuples name."""

    relation: str
    #: Relation of this object whose tuples name the others.
    parent: str

    def __str__(self) -> str:
        return f"{self.relation} from {self.parent}"


@dataclass(frozen=True, slots=True)
class Union:
    """`a or b`."""

    parts: tuple["Expression", ...]

    def __str__(self) -> str:
        return " or ".join(map(_in_brackets, self.parts))


@dataclass(frozen=True, slots=True)
class Intersection:
    """`a and b`."""

    parts: tuple["Expression", ...]

    def __str__(self) -> str:
        return " and ".join(map(_in_brackets, self.parts))


@dataclass(frozen=True, slots=True)
class Exclusion:
    """`base but not taken`."""

    base: "Expression"
    taken: "Expression"

    def __str__(self) -> str:
        return f"{_in_brackets(self.base)} but not {_in_brackets(self.taken)}"


Expression = Direct | Computed | FromParent | Union | Intersection | Exclusion


def _in_brackets(expression: Expression) -> str:
    several = isinstance(expression, Union | Intersection | Exclusion)
    return f"({expression})" if several else str(expression)


def leaves(expression: Expression) -> Iterator[Direct | Computed | FromParent]:
    """Gives what an expression is made of, left to right."""
    match expression:
        case Union(parts) | Intersection(parts):
            for part in parts:
                yield from leaves(part)
        case Exclusion(base, taken):
            yield from leaves(base)
            yield from leaves(taken)
        case _:
            yield expression


@dataclass(frozen=True, slots=True)
class Model:
    """A valid model. Made by `parse.parse_model`."""

    #: Relations by name, by type.
    types: Mapping[str, Mapping[str, Expression]]

    def expression(self, type_name: str, relation: str) -> Expression | None:
        """Gives how a relation is defined, None where the type has none of that name."""
        return self.types.get(type_name, {}).get(relation)

    def direct(self, type_name: str, relation: str) -> Direct | None:
        """Gives the kinds of users that a tuple of this relation may name; None when tuples have no place in it."""
        expression = self.expression(type_name, relation)
        if expression is None:
            return None
        return next((leaf for leaf in leaves(expression) if isinstance(leaf, Direct)), None)


def invalid(place: Place, sentence: str) -> ModelInvalid:
    """Makes the refusal of a model's text."""
    return ModelInvalid(sentence, line=place.line, column=place.column)
