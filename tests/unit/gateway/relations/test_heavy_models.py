"""A check ends within its bounds, and lets others work meanwhile, whatever a legal model and its tuples are."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from services.gateway.domain.access_errors import CheckTooDeep, ModelInvalid
from services.gateway.relations import check as checking
from services.gateway.relations.check import TURN, Question, check
from services.gateway.relations.model import Model
from services.gateway.relations.parse import MAX_NAMED, parse_model
from services.gateway.relations.search import MAX_LOOKS, MAX_NODES, Search
from services.gateway.relations.tuples import Node, RelationTuple, parse_object
from services.gateway.relations.validate import MAX_RELATIONS
from tests.support.relations import TuplesInMemory, a_tuple, naive_check

GOAL = Question(parse_object("user:anna", field=""), "viewer", parse_object("project:p", field=""))
HEAD = ["model", "  schema 1.1", "type user"]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Search]:
    """What the checks of a test search through, the latest last."""
    made: list[Search] = []

    class Watched(Search):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(checking, "Search", Watched)
    return made


async def ask(model: Model, tuples: list[RelationTuple], searches: list[Search]) -> tuple[bool | None, int]:
    """Checks `GOAL`. Gives the answer, None for a refusal, and the most that was looked at without a pause."""
    longest = 0

    async def somebody_else() -> None:
        nonlocal longest
        before = 0
        while True:
            now = searches[-1].looked if searches else 0
            longest, before = max(longest, now - before), now
            await asyncio.sleep(0)

    del searches[:]
    other = asyncio.create_task(somebody_else())
    allowed: bool | None = None
    try:
        allowed = (await check(model, TuplesInMemory(tuples), GOAL)).allowed
    except CheckTooDeep:
        pass
    finally:
        other.cancel()
    return allowed, longest


async def test_relations_that_fan_out_from_many_groups_are_refused_before_they_are_held(
    searches: list[Search],
) -> None:
    names = [f"r{number}" for number in range(MAX_RELATIONS - 3)]
    heavy = [f"    define {name}: [user]" for name in names] + [f"    define heavy: {' or '.join(names)}"]
    project = ["type project", "  relations", "    define viewer: [user, group#heavy]"]
    model = parse_model("\n".join([*HEAD, "type group", "  relations", *heavy, *project]))
    wide = [a_tuple(f"group:g{number}#heavy viewer project:p") for number in range(5_000)]
    allowed, _ = await ask(model, wide, searches)
    assert allowed is None
    assert searches[-1].size <= MAX_NODES


async def test_a_crowd_of_groups_is_answered_with_few_looks(searches: list[Search]) -> None:
    group = ["type group", "  relations", "    define member: [user, group#member]"]
    project = ["type project", "  relations", "    define viewer: [user, group#member]"]
    model = parse_model("\n".join([*HEAD, *group, *project]))
    wide = [a_tuple(f"group:g{number}#member viewer project:p") for number in range(4_900)]
    assert (await ask(model, wide, searches))[0] is False
    assert (await ask(model, [*wide, a_tuple("user:anna member group:g1")], searches))[0] is True
    assert searches[-1].looked < MAX_LOOKS


async def test_parents_that_were_read_for_one_way_are_known_to_the_next(searches: list[Search]) -> None:
    text = """
      type org
        relations
          define boss: [user]
      type team
        relations
          define lead: [user]
      type project
        relations
          define parent: [org, team]
          define chief: boss from parent
          define viewer: [project#chief] or lead from parent
    """
    model = parse_model("\n".join(HEAD) + text)
    written = ["org:o parent project:p", "project:p#chief viewer project:p", "user:anna boss org:o"]
    assert (await ask(model, [a_tuple(one) for one in written], searches))[0] is True


@pytest.mark.parametrize("seed", range(40))
async def test_any_heavy_model_is_answered_or_refused_within_the_bounds(seed: int, searches: list[Search]) -> None:
    dice = Random(seed)
    model, tuples = heavy_world(dice)
    allowed, longest = await ask(model, tuples, searches)
    search = searches[-1]
    assert search.size <= MAX_NODES
    assert search.looked <= MAX_LOOKS
    assert longest <= TURN + MAX_NAMED + 10
    if allowed is not None and len(tuples) <= 60:
        assert allowed == naive_check(model, tuples, GOAL.user, Node(GOAL.object, GOAL.relation))


def heavy_world(dice: Random) -> tuple[Model, list[RelationTuple]]:
    """A model with many relations that stand on many others, and tuples that make as much of it as they can."""
    while True:
        count = dice.choice((3, 10, 40, 90))
        names = [f"r{number}" for number in range(count)]
        lines = [*HEAD, "type project", "  relations", "    define parent: [project]"]
        lines += [f"    define {name}: {heavy_expression(dice, names[at + 1 :])}" for at, name in enumerate(names)]
        lines.append(f"    define viewer: {heavy_expression(dice, names)}")
        try:
            model = parse_model("\n".join(lines))
        except ModelInvalid:
            continue
        return model, list(dict.fromkeys(heavy_tuples(dice, names)))


def heavy_expression(dice: Random, later: list[str]) -> str:
    kinds = ["user", *(f"project#{name}" for name in (*later[:3], "viewer"))]
    operands = [f"[{', '.join(dict.fromkeys(dice.choices(kinds, k=3)))}]"]
    operands += dice.sample(later, min(len(later), dice.choice((0, 2, 30))))
    operands += [f"{name} from parent" for name in dice.sample(later, min(len(later), dice.choice((0, 1, 30))))]
    if len(operands) > 1 and dice.random() < 0.2:
        return f"({' or '.join(operands[:-1])}) but not {operands[-1]}"
    return (" and " if dice.random() < 0.2 else " or ").join(operands)


def heavy_tuples(dice: Random, names: list[str]) -> Iterator[RelationTuple]:
    places = ["p", *(f"p{number}" for number in range(dice.choice((3, 50, 1_000))))]
    for _ in range(dice.choice((20, 60, 3_000))):
        thing = dice.choice(("p", dice.choice(places)))
        user = dice.choice(("user:anna", f"project:{dice.choice(places)}#{dice.choice(names)}"))
        yield a_tuple(f"{user} {dice.choice((*names, 'viewer'))} project:{thing}")
        yield a_tuple(f"project:{dice.choice(places)} parent project:{thing}")


def test_a_definition_that_names_too_much_is_refused() -> None:
    kinds = ", ".join(f"t{number}#r" for number in range(MAX_NAMED + 1))
    with pytest.raises(ModelInvalid, match=f"one definition names more than {MAX_NAMED} types and relations"):
        parse_model("\n".join([*HEAD, "type t", "  relations", f"    define r: [{kinds}]"]))
