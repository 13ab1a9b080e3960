"""Relations for tests: tuples in memory, an answer worked out the long way, and models at random."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from services.gateway.domain.access_errors import ModelInvalid
from services.gateway.relations.model import (
    Computed,
    Direct,
    Exclusion,
    Expression,
    FromParent,
    Intersection,
    Model,
    Union,
)
from services.gateway.relations.parse import parse_model
from services.gateway.relations.search import Want
from services.gateway.relations.tuples import Node, Object, RelationTuple, User, parse_object, parse_user


def a_tuple(text: str) -> RelationTuple:
    """Reads `user:anna editor project:claims`."""
    user, relation, thing = text.split()
    return RelationTuple(parse_user(user, field="user"), relation, parse_object(thing, field="object"))


@dataclass(slots=True)
class TuplesInMemory:
    """Implements `check.TupleReader`, and counts how often it was asked."""

    tuples: Sequence[RelationTuple]
    reads: int = 0
    given: list[RelationTuple] = field(default_factory=list[RelationTuple])

    async def read(self, wants: Sequence[Want], user: Object, *, most: int) -> Sequence[RelationTuple]:
        """See `TupleReader.read`."""
        self.reads += 1
        everything = {want.node for want in wants if want.all}
        some = {want.node for want in wants if not want.all}
        users = {User(user.type, user.id), User(user.type, "*")}
        rows = [
            one
            for one in self.tuples
            if (node := Node(one.object, one.relation)) in everything
            or (node in some and (one.user.relation or one.user in users))
        ][:most]
        self.given += rows
        return rows


def naive_check(model: Model, tuples: Iterable[RelationTuple], user: Object, goal: Node) -> bool:
    """Answers by working out every relation of every object over and over until nothing changes."""
    valid = [
        one
        for one in tuples
        if (direct := model.direct(one.object.type, one.relation)) is not None and one.user.kind in direct.kinds
    ]
    users: defaultdict[tuple[Object, str], list[User]] = defaultdict(list)
    for one in valid:
        users[one.object, one.relation].append(one.user)
    objects = {one.object for one in valid} | {one.user.object for one in valid} | {goal.object}
    values: dict[Node, bool | None] = {
        Node(thing, name): None for thing in objects for name in model.types.get(thing.type, {})
    }

    def any_of(found: list[bool | None]) -> bool | None:
        return True if True in found else None if None in found else False

    def work_out(thing: Object, relation: str, expression: Expression) -> bool | None:
        match expression:
            case Direct():
                named = users.get((thing, relation), [])
                hit = any(not one.relation and one.type == user.type and one.id in (user.id, "*") for one in named)
                return any_of([hit, *(values[Node(one.object, one.relation)] for one in named if one.relation)])
            case Computed(name):
                return values[Node(thing, name)]
            case FromParent(name, parent):
                parents = [one.object for one in users.get((thing, parent), [])]
                return any_of([values[Node(one, name)] for one in parents if name in model.types[one.type]])
            case Union(parts):
                return any_of([work_out(thing, relation, part) for part in parts])
            case Intersection(parts):
                found = [work_out(thing, relation, part) for part in parts]
                return False if False in found else None if None in found else True
            case Exclusion(base, taken):
                kept, out = work_out(thing, relation, base), work_out(thing, relation, taken)
                return False if kept is False or out is True else True if kept and out is False else None

    while True:
        fresh = {
            node: work_out(node.object, node.relation, model.types[node.object.type][node.relation]) for node in values
        }
        if fresh == values:
            return values[goal] is True
        values = fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomWorld:
    """A model, some tuples, and questions about them."""

    text: str
    model: Model
    tuples: list[RelationTuple]
    questions: list[tuple[Object, Node]]


_RELATIONS = ("r1", "r2", "r3", "r4", "r5")
_TYPES = ("t1", "t2")


def random_world(seed: int) -> RandomWorld:
    """Makes a world: two types that may contain and refer to each other, with every operator, circles included."""
    dice = Random(seed)
    while True:
        text = _random_text(dice)
        try:
            model = parse_model(text)
        except ModelInvalid:
            continue
        tuples = _random_tuples(dice, model)
        questions = [
            (Object("user", dice.choice("abc")), Node(Object(kind, dice.choice("1234")), dice.choice(_RELATIONS)))
            for kind in dice.choices(_TYPES, k=12)
        ]
        return RandomWorld(text=text, model=model, tuples=tuples, questions=questions)


def _random_text(dice: Random) -> str:
    lines = ["model", "  schema 1.1", "type user"]
    for kind in _TYPES:
        lines += [
            f"type {kind}",
            "  relations",
            f"    define parent: [{', '.join(dice.sample(_TYPES, dice.randint(1, 2)))}]",
        ]
        lines += [f"    define {name}: {_random_expression(dice, name)}" for name in _RELATIONS]
    return "\n".join(lines)


def _random_expression(dice: Random, name: str, depth: int = 0, *, direct: bool = True) -> str:
    first = _random_operand(dice, name, depth, direct=direct)
    operator = dice.choice(("", "", "or", "or", "and", "but not"))
    if not operator:
        return first
    count = 1 if operator == "but not" else dice.randint(1, 2)
    rest = [_random_operand(dice, name, depth, direct=False) for _ in range(count)]
    return f" {operator} ".join((first, *rest))


def _random_operand(dice: Random, name: str, depth: int, *, direct: bool) -> str:
    if direct and dice.random() < 0.8:
        kinds = ["user", "user:*", *(f"{kind}#{one}" for kind in _TYPES for one in _RELATIONS)]
        weights = [6, 1, *[0.4] * (len(kinds) - 2)]
        return f"[{', '.join(dict.fromkeys(dice.choices(kinds, weights, k=dice.randint(1, 3))))}]"
    if depth < 2 and dice.random() < 0.3:
        return f"({_random_expression(dice, name, depth + 1, direct=direct)})"
    # A relation of the same object stands on later ones only: circles within one object are refused.
    later = [one for one in _RELATIONS if one > name]
    if later and dice.random() < 0.5:
        return dice.choice(later)
    return f"{dice.choice(_RELATIONS)} from parent"


def _random_tuples(dice: Random, model: Model) -> list[RelationTuple]:
    found: dict[RelationTuple, None] = {}
    for _ in range(dice.randint(3, 40)):
        kind = dice.choice(_TYPES)
        relation = dice.choice(("parent", *_RELATIONS))
        direct = model.direct(kind, relation)
        if direct is None:
            continue
        wanted = dice.choice(direct.kinds)
        name = "*" if wanted.everyone else dice.choice("abc" if wanted.type == "user" else "1234")
        user, thing = User(wanted.type, name, wanted.relation), Object(kind, dice.choice("1234"))
        if user != User(thing.type, thing.id, relation):
            found[RelationTuple(user, relation, thing)] = None
    return list(found)
