"""Checks what a model's text says: names exist, `from` leads somewhere, and somebody can have each relation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    Place,
    Union,
    invalid,
    leaves,
)

MAX_TYPES: Final = 100
#: Relations of one type.
MAX_RELATIONS: Final = 100

Named = Direct | Computed | FromParent | Kind
_Relation = tuple[str, str]


@dataclass(frozen=True, slots=True)
class RelationSyntax:
    """A definition as it stands in the text."""

    name: str
    place: Place
    expression: Expression
    #: What it names, with places, left to right.
    named: tuple[tuple[Place, Named], ...]


@dataclass(frozen=True, slots=True)
class TypeSyntax:
    """A type as it stands in the text."""

    name: str
    place: Place
    relations: tuple[RelationSyntax, ...]


def validated(types: Sequence[TypeSyntax]) -> Model:
    """Makes the model. Raises: ModelInvalid."""
    if not types:
        raise invalid(Place(1, 1), "the model has no type; give it at least one, such as `type user`")
    _refuse_twice("type", [(one.place, one.name) for one in types], MAX_TYPES)
    for one in types:
        _refuse_twice("relation", [(relation.place, relation.name) for relation in one.relations], MAX_RELATIONS)
    model = Model({one.name: {relation.name: relation.expression for relation in one.relations} for one in types})
    for one in types:
        for relation in one.relations:
            _check(model, one.name, relation)
    for one in types:
        _refuse_circles(one)
    reachable = _relations_that_somebody_can_have(model)
    for one in types:
        for relation in one.relations:
            if (one.name, relation.name) not in reachable:
                sentence = f"nobody can ever have `{relation.name}`: no way ends at a type in `[…]`"
                raise invalid(relation.place, sentence)
    return model


def _refuse_twice(noun: str, names: Sequence[tuple[Place, str]], most: int) -> None:
    seen: set[str] = set()
    for place, name in names:
        if name in seen:
            raise invalid(place, f"the {noun} `{name}` is defined twice")
        seen.add(name)
        if len(seen) > most:
            raise invalid(place, f"more than {most} {noun}s")


def _check(model: Model, type_name: str, relation: RelationSyntax) -> None:
    """Checks each thing that a definition names."""
    relations = model.types[type_name]
    for place, named in relation.named:
        match named:
            case Kind():
                _check_kind(model, place, named)
            case Computed(name) if name not in relations:
                raise invalid(place, f"type `{type_name}` has no relation `{name}`")
            case FromParent():
                _check_parent(model, type_name, place, named)
            case _:
                pass
    _refuse_repeats(relation)


def _check_kind(model: Model, place: Place, kind: Kind) -> None:
    if kind.type not in model.types:
        raise invalid(place, f"there is no type `{kind.type}`")
    if kind.relation and kind.relation not in model.types[kind.type]:
        raise invalid(place, f"type `{kind.type}` has no relation `{kind.relation}`")


def _check_parent(model: Model, type_name: str, place: Place, named: FromParent) -> None:
    parent = model.expression(type_name, named.parent)
    if parent is None:
        raise invalid(place, f"type `{type_name}` has no relation `{named.parent}`")
    if not isinstance(parent, Direct) or any(kind.everyone or kind.relation for kind in parent.kinds):
        sentence = f"`{named.parent}` must be a plain list of types, such as `define {named.parent}: [organization]`"
        raise invalid(place, f"{sentence}, to stand after `from`")
    if not any(named.relation in model.types[kind.type] for kind in parent.kinds):
        types = ", ".join(f"`{kind}`" for kind in parent.kinds)
        raise invalid(place, f"`{named}`: none of {types} has a relation `{named.relation}`")


def _refuse_repeats(relation: RelationSyntax) -> None:
    """`a or a` is a slip of the pen."""
    match relation.expression:
        case Union(parts) | Intersection(parts):
            children: tuple[Expression, ...] = parts
        case Exclusion(base, taken):
            children = (base, taken)
        case _:
            return
    seen: set[Expression] = set()
    for child in children:
        if child in seen:
            raise invalid(relation.place, f"`{relation.name}` names `{child}` twice")
        seen.add(child)


def _refuse_circles(one: TypeSyntax) -> None:
    """Refuses relations of one object that stand for each other, such as `a: b` and `b: a`."""
    stands_on = {
        relation.name: {leaf.relation for leaf in leaves(relation.expression) if isinstance(leaf, Computed)}
        for relation in one.relations
    }
    _drop_the_ends(stands_on)
    for relation in one.relations:
        if relation.name in _reached(stands_on, relation.name):
            raise invalid(relation.place, f"`{relation.name}` goes in a circle back to itself")


def _drop_the_ends(stands_on: dict[str, set[str]]) -> None:
    """Leaves those only that lead to a circle; in a model without circles that is none."""
    above: dict[str, list[str]] = {}
    for name, others in stands_on.items():
        for other in others:
            above.setdefault(other, []).append(name)
    ends = [name for name, others in stands_on.items() if not others]
    while ends:
        end = ends.pop()
        del stands_on[end]
        for name in above.get(end, ()):
            stands_on[name].discard(end)
            if not stands_on[name]:
                ends.append(name)


def _reached(stands_on: Mapping[str, set[str]], name: str) -> set[str]:
    found: set[str] = set()
    ahead = [name]
    while ahead:
        fresh = stands_on.get(ahead.pop(), set()) - found
        found |= fresh
        ahead += fresh
    return found


@dataclass(slots=True, eq=False)
class _Need:
    """A part of a definition: how many of what it stands on must still be found before somebody can have it."""

    missing: int
    above: "_Need | _Relation"


def _relations_that_somebody_can_have(model: Model) -> set[_Relation]:
    """Finds them from the ends: a list of types first, then what stands on what was found.

    Each part hears once of each thing it stands on, so the work is as much as the model is long.
    """
    found: set[_Relation] = set()
    fresh: list[_Relation] = []
    waiting: dict[_Relation, list[_Need]] = {}

    def hear(need: _Need) -> None:
        above: _Need | _Relation = need
        while isinstance(above, _Need):
            above.missing -= 1
            if above.missing != 0:
                return
            above = above.above
        found.add(above)
        fresh.append(above)

    def build(type_name: str, part: Expression, above: "_Need | _Relation") -> None:
        match part:
            case Union(parts):
                need = _Need(1, above)
                for one in parts:
                    build(type_name, one, need)
            case Intersection(parts):
                need = _Need(len(parts), above)
                for one in parts:
                    build(type_name, one, need)
            case Exclusion(base, taken):
                need = _Need(2, above)
                build(type_name, base, need)
                build(type_name, taken, need)
            case _:
                need = _Need(1, above)
                for relation in _stands_on(model, type_name, part):
                    if relation is None:
                        hear(need)
                    else:
                        waiting.setdefault(relation, []).append(need)

    for type_name, relations in model.types.items():
        for name, expression in relations.items():
            build(type_name, expression, (type_name, name))
    while fresh:
        for need in waiting.pop(fresh.pop(), ()):
            hear(need)
    return found


def _stands_on(model: Model, type_name: str, leaf: Direct | Computed | FromParent) -> Iterator[_Relation | None]:
    """Gives the relations one of which somebody must have; None where a user is named by itself."""
    match leaf:
        case Direct(kinds):
            for kind in kinds:
                yield (kind.type, kind.relation) if kind.relation else None
        case Computed(relation):
            yield (type_name, relation)
        case FromParent(relation, parent):
            direct = model.direct(type_name, parent)
            for kind in () if direct is None else direct.kinds:
                yield (kind.type, relation)
