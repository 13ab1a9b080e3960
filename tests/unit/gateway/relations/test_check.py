"""A check finds what follows from the tuples, says why, and ends whatever the tuples are."""

import pytest

from services.gateway.domain.access_errors import CheckTooDeep
from services.gateway.relations.check import MAX_ROWS, MAX_STEPS, Finding, Question, check
from services.gateway.relations.parse import parse_model
from services.gateway.relations.search import MAX_NODES
from services.gateway.relations.shipped import SHIPPED_MODEL
from services.gateway.relations.tuples import Node, parse_object
from services.meshkit.core.errors import Invalid
from tests.support.relations import TuplesInMemory, a_tuple, naive_check, random_world

GROUPS = """
model
  schema 1.1
type user
type group
  relations
    define member: [user, user:*, group#member]
type doc
  relations
    define parent: [doc]
    define blocked: [user, group#member]
    define paid: [user]
    define viewer: ([user, group#member] or viewer from parent) but not blocked
    define reader: [user] and paid
"""


async def ask(question: str, *tuples: str, model: str = SHIPPED_MODEL) -> tuple[Finding, TuplesInMemory]:
    user, relation, thing = question.split()
    reader = TuplesInMemory([a_tuple(one) for one in tuples])
    asked = Question(parse_object(user, field="user"), relation, parse_object(thing, field="object"))
    return await check(parse_model(model), reader, asked), reader


async def test_a_tuple_grants_what_it_says() -> None:
    found, _ = await ask("user:anna editor project:claims", "user:anna editor project:claims")
    assert found.allowed
    assert found.explanation == (
        "user:anna is editor of project:claims: the tuple `user:anna editor project:claims` is written",
    )


async def test_the_way_over_parents_is_told_step_by_step() -> None:
    found, reader = await ask(
        "user:anna runner workflow:w",
        "project:p parent workflow:w",
        "organization:acme parent project:p",
        "user:anna admin organization:acme",
        "user:ben admin organization:acme",
    )
    assert found.allowed
    assert found.explanation == (
        "user:anna is runner of workflow:w through `editor from parent`: workflow:w has parent project:p",
        "user:anna is editor of project:p through `admin from parent`: project:p has parent organization:acme",
        "user:anna is admin of organization:acme: the tuple `user:anna admin organization:acme` is written",
    )
    assert reader.reads == 3


async def test_a_refusal_says_what_was_looked_at_and_what_would_grant_it() -> None:
    found, _ = await ask("user:anna editor project:claims", "organization:acme parent project:claims")
    assert not found.allowed
    assert found.explanation == (
        "user:anna is not editor of project:claims",
        "project:claims#editor: no tuple names user:anna",
        "project:claims has parent organization:acme",
        "organization:acme#admin: no tuple names user:anna",
        "would grant it: `user:anna editor project:claims`",
        "would grant it: `user:anna admin organization:acme`",
    )
    assert found.would_grant == ("`user:anna editor project:claims`", "`user:anna admin organization:acme`")


async def test_everyone_and_members_of_groups_are_found_in_few_reads() -> None:
    groups = [f"group:g{number}#member viewer doc:1" for number in range(50)]
    found, reader = await ask("user:anna viewer doc:1", *groups, "user:* member group:g49", model=GROUPS)
    assert (found.allowed, reader.reads) == (True, 2)
    assert "the tuple `user:* member group:g49` is written" in found.explanation[1]


async def test_only_what_can_matter_is_read() -> None:
    crowd = [f"user:u{number} viewer doc:1" for number in range(1_000)]
    found, reader = await ask("user:anna viewer doc:1", *crowd, "user:anna viewer doc:1", model=GROUPS)
    assert found.allowed
    assert len(reader.given) == 1


async def test_but_not_takes_away_and_says_so() -> None:
    found, _ = await ask("user:anna viewer doc:1", "user:anna viewer doc:1", "user:anna blocked doc:1", model=GROUPS)
    assert not found.allowed
    assert "doc:1#viewer: `but not blocked` takes it away from user:anna" in found.explanation
    assert found.explanation[-1] == "would grant it: no longer `blocked` of doc:1"


async def test_and_needs_both_and_names_what_is_missing() -> None:
    found, _ = await ask("user:anna reader doc:1", "user:anna reader doc:1", model=GROUPS)
    assert (found.allowed, found.would_grant) == (False, ("`user:anna paid doc:1`",))
    found, _ = await ask("user:anna reader doc:1", "user:anna reader doc:1", "user:anna paid doc:1", model=GROUPS)
    assert found.allowed


async def test_circles_of_tuples_end_and_grant_nothing() -> None:
    circle = ["doc:2 parent doc:1", "doc:3 parent doc:2", "doc:1 parent doc:3"]
    found, _ = await ask("user:anna viewer doc:1", *circle, model=GROUPS)
    assert not found.allowed
    assert "doc:1#viewer stands on itself in a circle, which grants nothing" in found.explanation
    found, _ = await ask("user:anna viewer doc:1", *circle, "user:anna viewer doc:3", model=GROUPS)
    assert found.allowed


async def test_a_circle_below_but_not_refuses() -> None:
    blocked = ["group:a#member blocked doc:1", "group:b#member member group:a", "group:a#member member group:b"]
    found, _ = await ask("user:anna viewer doc:1", "user:anna viewer doc:1", *blocked, model=GROUPS)
    assert not found.allowed


async def test_tuples_that_the_model_has_no_place_for_grant_nothing() -> None:
    found, _ = await ask(
        "user:anna editor project:claims", "user:* editor project:claims", "group:x#m editor project:x"
    )
    assert not found.allowed


async def test_a_way_that_is_too_long_is_no_answer() -> None:
    chain = [f"doc:{number + 1} parent doc:{number}" for number in range(MAX_STEPS + 2)]
    with pytest.raises(CheckTooDeep) as raised:
        await ask("user:anna viewer doc:0", *chain, model=GROUPS)
    assert raised.value.metadata["limit"] == f"{MAX_STEPS} steps"
    found, _ = await ask("user:anna viewer doc:4", *chain, "user:anna viewer doc:27", model=GROUPS)
    assert found.allowed


async def test_too_many_tuples_in_a_step_are_no_answer() -> None:
    wide = [f"group:g{number}#member viewer doc:1" for number in range(MAX_ROWS + 1)]
    with pytest.raises(CheckTooDeep):
        await ask("user:anna viewer doc:1", *wide, model=GROUPS)


async def test_too_many_relations_to_look_at_are_no_answer() -> None:
    wide = [f"group:g{number}#member viewer doc:1" for number in range(MAX_NODES)]
    with pytest.raises(CheckTooDeep):
        await ask("user:anna viewer doc:1", *wide, model=GROUPS)


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ("robot:anna editor project:claims", "user"),
        ("user:anna owner project:claims", "relation"),
        ("user:anna editor folder:claims", "object"),
    ],
)
async def test_what_the_model_does_not_have_is_refused_with_its_field(question: str, field: str) -> None:
    with pytest.raises(Invalid) as raised:
        await ask(question)
    assert raised.value.field == field


@pytest.mark.parametrize("start", range(0, 300, 30))
async def test_any_model_and_any_tuples_give_the_answer_of_the_long_way(start: int) -> None:
    answers = set[bool]()
    for seed in range(start, start + 30):
        world = random_world(seed)
        for user, goal in world.questions:
            found = await check(world.model, TuplesInMemory(world.tuples), Question(user, goal.relation, goal.object))
            expected = naive_check(world.model, world.tuples, user, Node(goal.object, goal.relation))
            assert found.allowed == expected, (seed, str(user), str(goal))
            assert found.explanation
            answers.add(found.allowed)
    assert answers == {True, False}
