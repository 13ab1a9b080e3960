"""What a recall reads: the best matches, and no row that it would not show."""

import secrets
from collections.abc import Collection, Sequence
from typing import Any
from uuid import uuid4

import pytest

from services.memory.domain.errors import VectorsUnavailable
from services.memory.domain.memory import Memory, MemoryId
from services.memory.domain.recall import Recalled, RecallQuery
from services.memory.usecases.ports import PlacedVector
from services.memory.usecases.query_vectors import QueryVectors
from services.memory.usecases.recall import Recall
from services.meshkit.content import CallContext, CallId
from services.meshkit.core.errors import Internal, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import NOON, FakeClock
from tests.support.brute_force_vectors import BruteForceVectors
from tests.support.hashing_embedder import vector_of
from tests.support.memory_table import MemoryTable, a_memory
from tests.unit.memory.test_embedding import ANNA, HashingEmbedder

SESSION = uuid4()
FAR_AHEAD = NOON.replace(year=NOON.year + 1)


class WatchedTable(MemoryTable):
    """Remembers which rows were asked for by their ids."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[MemoryId]] = []

    async def those_of(
        self, tenant: TenantId, memories: Collection[MemoryId], *, project: str, agent: str
    ) -> Sequence[Memory]:
        self.asked.append(list(memories))
        return await super().those_of(tenant, memories, project=project, agent=agent)


class Library:
    """A recall on fakes, and what it looks into."""

    def __init__(self) -> None:
        clock = FakeClock()
        self.table = WatchedTable()
        self.vectors = BruteForceVectors()
        self.embedder = HashingEmbedder()
        self.recall = Recall(
            memories=self.table,
            placements=self.table,
            queries=QueryVectors(self.embedder, clock=clock, per_tenant=10, tenants=10),
            vectors=self.vectors,
            look=lambda _principal: None,
            check=lambda: None,
            clock=clock,
            similarity_seconds=1.0,
        )

    async def add(self, text: str, **changes: Any) -> MemoryId:
        memory = a_memory(text, **changes)
        await self.table.add(memory, call_key=secrets.token_bytes(8), digest=b"d")
        vector = vector_of(text, self.embedder.space.dimensions)
        placed = PlacedVector(tenant=memory.tenant, memory=memory.id, project="", agent=memory.agent, vector=vector)
        await self.vectors.upsert(self.embedder.space, [placed])
        return memory.id

    async def ask(self, *, semantic_matches: int, recent_turns: int = 0) -> Recalled:
        query = RecallQuery(
            context=CallContext(call_id=CallId(run_id="run_1")),
            query="ban cars",
            session=SESSION,
            agent="",
            recent_turns=recent_turns,
            semantic_matches=semantic_matches,
            min_score=-1.0,
            max_tokens=0,
        )
        return await self.recall(ANNA, query)


@pytest.fixture
def library() -> Library:
    return Library()


async def test_no_more_rows_are_read_than_are_shown(library: Library) -> None:
    best = [await library.add("ban cars"), await library.add("ban cars now")]
    turns = [await library.add(f"ban cars {n}", session=SESSION, expires=FAR_AHEAD) for n in range(3)]
    await library.add("plant trees in gardens")
    recalled = await library.ask(semantic_matches=2, recent_turns=3)
    assert {memory.id for memory in recalled.recent} == set(turns)
    assert [match.memory.id for match in recalled.semantic] == best
    assert library.table.asked == [best]


async def test_without_a_match_that_is_not_shown_already_no_row_is_read(library: Library) -> None:
    await library.add("ban cars", session=SESSION, expires=FAR_AHEAD)
    recalled = await library.ask(semantic_matches=2, recent_turns=3)
    assert (len(recalled.recent), recalled.semantic, library.table.asked) == (1, (), [])


async def test_the_next_best_stand_in_for_a_row_that_is_gone(library: Library) -> None:
    gone, second, third = [await library.add(text) for text in ("ban cars", "ban cars now", "ban more cars now")]
    await library.table.forget(ANNA.tenant, gone, now=NOON)
    recalled = await library.ask(semantic_matches=2, recent_turns=1)
    assert [match.memory.id for match in recalled.semantic] == [second, third]
    assert library.table.asked == [[gone, second], [third]]


@pytest.mark.parametrize("failure", [VectorsUnavailable("milvus"), Internal("report the incident 1")])
async def test_what_is_recent_is_recalled_whatever_ails_the_vector_store(library: Library, failure: MeshError) -> None:
    turn = await library.add("ban cars", session=SESSION, expires=FAR_AHEAD)
    library.vectors.faults.next(failure)
    recalled = await library.ask(semantic_matches=2, recent_turns=1)
    assert ([memory.id for memory in recalled.recent], recalled.semantic_skipped) == ([turn], True)
