"""Checks what a model's text says: names exist, `from` leads somewhere, and somebody can have each relation."""

from collections.abc import Iterable, Mapping, Sequence
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
        for relation in one.relations:
            _refuse_circle(model.types[one.name], relation)
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


def _refuse_circle(relations: Mapping[str, Expression], relation: RelationSyntax) -> None:
    """Refuses relations of one object that stand for each other, such as `a: b` and `b: a`."""
    seen: set[str] = set()
    ahead = [relation.name]
    while ahead:
        for leaf in leaves(relations[ahead.pop()]):
            if isinstance(leaf, Computed):
                if leaf.relation == relation.name:
                    raise invalid(relation.place, f"`{relation.name}` goes in a circle back to itself")
                if leaf.relation not in seen:
                    seen.add(leaf.relation)
                    ahead.append(leaf.relation)


def _relations_that_somebody_can_have(model: Model) -> set[_Relation]:
    """Finds them from the ends: a list of types first, then what stands on what was found."""
    found: set[_Relation] = set()
    grew = True
    while grew:
        grew = False
        for type_name, relations in model.types.items():
            for name, expression in relations.items():
                if (type_name, name) not in found and _possible(model, type_name, expression, found):
                    found.add((type_name, name))
                    grew = True
    return found


def _possible(model: Model, type_name: str, expression: Expression, found: set[_Relation]) -> bool:
    def of(parts: Iterable[Expression]) -> Iterable[bool]:
        return (_possible(model, type_name, part, found) for part in parts)

    match expression:
        case Direct(kinds):
            return any(not kind.relation or (kind.type, kind.relation) in found for kind in kinds)
        case Computed(relation):
            return (type_name, relation) in found
        case FromParent(relation, parent):
            direct = model.direct(type_name, parent)
            return direct is not None and any((kind.type, relation) in found for kind in direct.kinds)
        case Union(parts):
            return any(of(parts))
        case Intersection(parts):
            return all(of(parts))
        case Exclusion(base, taken):
            return all(of((base, taken)))
