"""Readers of runs take no more of a journal than they need."""

from collections.abc import Sequence
from typing import cast

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.run_reader import RunReader, Written
from tests.support.sessions import World, a_start, play


class Journal:
    """Implements what a reader of one session asks for; gives one fact at a time."""

    def __init__(self) -> None:
        self.facts = play(a_start(max_rounds=3), World())
        self.read = 0

    async def view(self, *_: object) -> session_pb2.Session:
        return session_pb2.Session()

    async def entries(self, *_: object, after: int = 0) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        self.read = max(self.read, after)
        return [(after + 1, self.facts[after])] if after < len(self.facts) else []


async def test_a_page_of_steps_is_read_no_further_than_its_steps_go() -> None:
    journal = Journal()
    reader = RunReader(cast(Written, journal))
    first = await reader.steps(TENANT, "run_a", most=2)
    read = journal.read
    assert len(first) == 2
    assert read < len(journal.facts) // 2
    every = await reader.steps(TENANT, "run_a")
    assert journal.read == len(journal.facts)
    assert every[:2] == first
    assert await reader.steps(TENANT, "run_a", after=2, most=len(every)) == every[2:]
