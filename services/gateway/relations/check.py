"""Whether a user has a relation to an object, and why.

The search goes in steps: all tuples that a step needs are read by one question to the reader, so the number of queries
is the length of the way, not the number of tuples. Length, width and all that is looked at are bounded. Circles of
tuples do no harm.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.gateway.domain.access_errors import CheckTooDeep
from services.gateway.relations.explain import explanation, ways
from services.gateway.relations.model import Model
from services.gateway.relations.search import Search, TooMuchToSearch, Want
from services.gateway.relations.tuples import Node, Object, RelationTuple, check_relation
from services.meshkit.core.errors import Invalid

#: Steps of one check, as many as an OpenFGA server takes by default.
MAX_STEPS: Final = 25
#: Tuples that one step may read.
MAX_ROWS: Final = 5_000
#: How much a check looks at before others have their turn, about a millisecond.
TURN: Final = 500


@dataclass(frozen=True, slots=True)
class Question:
    """Has this user this relation to this object?"""

    user: Object
    relation: str
    object: Object

    def __str__(self) -> str:
        return f"{self.user} is {self.relation} of {self.object}"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer, with its reasons."""

    allowed: bool
    #: One sentence for each step; of a refusal what was looked at, and what would grant it.
    explanation: tuple[str, ...]
    #: What would grant it, each a list of tuples; empty when allowed.
    would_grant: tuple[str, ...] = ()


class TupleReader(Protocol):
    """Reads tuples of one tenant."""

    async def read(self, wants: Sequence[Want], user: Object, *, most: int) -> Sequence[RelationTuple]:
        """Reads all that is wanted with one query.

        Args:
            user: of wants that are not for all tuples, only those of this user, of everyone of its type and of all
                who have a relation are given.
            most: at most so many tuples; so many mean that there are more.
        """
        ...


def refuse_unknown(model: Model, question: Question) -> None:
    """Raises Invalid for types and relations that the model does not have."""
    if question.user.type not in model.types:
        known = ", ".join(f"`{name}`" for name in model.types)
        raise Invalid("user", f"the model has no type `{question.user.type}`; its types are {known}")
    check_relation(model, question.relation, question.object)


async def check(model: Model, reader: TupleReader, question: Question) -> Finding:
    """Answers a question.

    Raises: Invalid: the model has no such type or relation. CheckTooDeep.
    Concurrency: others have their turn after every `TURN` looks, so a check holds nobody up, and can be cancelled.
    """
    refuse_unknown(model, question)
    search = Search(model, question.user)
    goal = Node(question.object, question.relation)
    try:
        return await _search(search, reader, question, goal)
    except TooMuchToSearch as error:
        raise CheckTooDeep(str(question), limit=error.limit) from error


async def _search(search: Search, reader: TupleReader, question: Question, goal: Node) -> Finding:
    await _in_turns(search, search.begin(goal))
    for _ in range(MAX_STEPS):
        wants = search.take_wants() if search.value(goal) is None else ()
        if not wants:
            return await _finding(search, question, goal)
        rows = await reader.read(wants, question.user, most=MAX_ROWS + 1)
        if len(rows) > MAX_ROWS:
            raise TooMuchToSearch(f"{MAX_ROWS} tuples in one step")
        await _in_turns(search, search.learn(wants, rows))
    if search.value(goal) is None and search.take_wants():
        raise TooMuchToSearch(f"{MAX_STEPS} steps")
    return await _finding(search, question, goal)


async def _in_turns(search: Search, work: Iterator[None]) -> None:
    pause = search.looked + TURN
    for _ in work:
        if search.looked >= pause:
            await asyncio.sleep(0)
            pause = search.looked + TURN


async def _finding(search: Search, question: Question, goal: Node) -> Finding:
    """Gives the reasons. Those of a large search take a while to walk through, and do so beside the loop."""
    if search.looked > TURN:
        return await asyncio.to_thread(_reasons, search, question, goal)
    return _reasons(search, question, goal)


def _reasons(search: Search, question: Question, goal: Node) -> Finding:
    allowed = search.value(goal) is True
    granting = () if allowed else ways(search, question.user, goal)
    return Finding(allowed, explanation(search, question.user, goal, granting), granting)
