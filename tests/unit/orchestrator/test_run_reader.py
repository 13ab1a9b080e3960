"""Readers of runs take no more of a journal than they need."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import cast

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.followed_runs import FollowedRuns
from services.orchestrator.engine.run_reader import RunReader, Written
from services.orchestrator.programs.run_view import RunProjection
from tests.support.sessions import World, a_start, play
from tests.support.workflows import Mesh, a_node, a_run, a_workflow


class Journal:
    """Implements what a reader of one run asks for; gives one fact at a time."""

    def __init__(self) -> None:
        self.facts = play(a_start(max_rounds=3), World())
        self.read = 0
        self.asked: list[int] = []

    async def view(self, *_: object) -> session_pb2.Session:
        return session_pb2.Session()

    async def entries(self, *_: object, after: int = 0) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        self.read = max(self.read, after)
        self.asked.append(after)
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


class Started(Journal):
    """Of a workflow, as it was written at its first fact."""

    def __init__(self) -> None:
        super().__init__()
        nodes = (a_node("a"), a_node("b", "a"), a_node("c", "b"))
        self.facts = [*Mesh().play(a_run(a_workflow(*nodes))).journal]
        self.written = 1
        self.hidden = self.facts[4:]
        del self.facts[4:]

    async def view(self, *_: object) -> run_pb2.Run:  # type: ignore[override]
        return await projected(self.facts[: self.written])


async def projected(facts: Sequence[journal_pb2.JournalEntry]) -> run_pb2.Run:
    projection = RunProjection()
    for sequence, entry in enumerate(facts, 1):
        projection.take(entry, sequence)
    return projection.run


async def test_who_looks_at_a_run_again_and_again_reads_what_is_new_and_no_more() -> None:
    journal = Started()
    reader = RunReader(cast(Written, journal))
    first = await reader.run(TENANT, "run_a")
    assert first == await projected(journal.facts)
    journal.asked.clear()
    assert await asyncio.gather(*(reader.run(TENANT, "run_a") for _ in range(3))) == [first] * 3
    assert set(journal.asked) == {4}
    journal.facts += journal.hidden[:2]
    assert await reader.run(TENANT, "run_a") == await projected(journal.facts)
    assert min(journal.asked) == 4
    journal.facts += journal.hidden[2:]
    journal.written = len(journal.facts)
    ended = await reader.run(TENANT, "run_a")
    assert ended.state == run_pb2.RUN_STATE_SUCCEEDED


async def test_runs_that_nobody_looked_at_for_long_are_let_go() -> None:
    runs, journals = FollowedRuns(most_bytes=50_000), {f"run_{number}": Started() for number in range(9)}

    async def facts(run_id: str, after: int) -> AsyncGenerator[tuple[int, journal_pb2.JournalEntry]]:
        for sequence, entry in list(enumerate(journals[run_id].facts, 1))[after:]:
            yield sequence, entry

    for run_id in journals:
        await runs.run(TENANT, run_id, partial(facts, run_id))
    kept = [run_id for run_id in journals if runs.has(TENANT, run_id)]
    assert kept == list(journals)[-len(kept) :]
    assert 0 < len(kept) < 4
    runs.forget(TENANT, kept[-1])
    assert not runs.has(TENANT, kept[-1])
