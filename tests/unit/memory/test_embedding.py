"""From a row to a vector and back again: queue, sweep, and what happens when somebody is away."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from services.memory.domain.errors import VectorsUnavailable
from services.memory.domain.memory import Memory, Placement
from services.memory.domain.vector import Embedding, Space
from services.memory.usecases.embed_memories import EmbedMemories
from services.memory.usecases.forget_memory import ForgetMemory
from services.memory.usecases.place_vectors import PlaceVectors
from services.memory.usecases.query_vectors import QueryVectors
from services.meshkit.content import CallContext, CallId
from services.meshkit.core.errors import MeshError, PermissionDenied, Precondition, Unavailable
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.fault_queue import FaultQueue
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.brute_force_vectors import BruteForceVectors
from tests.support.hashing_embedder import vector_of
from tests.support.memory_table import MemoryTable, a_memory

ANNA = Principal(tenant=TENANT, subject="anna", roles=frozenset(), token=Secret("token-of-anna"))
BERT = Principal(tenant=TenantId(uuid4()), subject="bert", roles=frozenset(), token=Secret("token-of-bert"))
CONTEXT = CallContext(call_id=CallId(run_id="run_1"))


class HashingEmbedder:
    """An `Embedder` that remembers who asked for what."""

    def __init__(self) -> None:
        self.space = Space("hashing", 16)
        self.faults = FaultQueue()
        self.calls: list[tuple[Principal, CallContext, list[str]]] = []

    async def embed(
        self, principal: Principal, context: CallContext, texts: Sequence[str], *, seconds: float
    ) -> Sequence[Embedding]:
        self.calls.append((principal, context, list(texts)))
        self.faults.hit()
        return [Embedding(self.space, vector_of(text, self.space.dimensions)) for text in texts]


class Workshop:
    """The background work of memory on fakes."""

    def __init__(self, *, gather_seconds: float = 0.0) -> None:
        self.clock = FakeClock()
        self.table = MemoryTable()
        self.vectors = BruteForceVectors()
        self.embedder = HashingEmbedder()
        self.place = PlaceVectors(
            work=self.table, vectors=self.vectors, clock=self.clock, sweep_seconds=60.0, check_seconds=60.0
        )
        self.embed = EmbedMemories(
            work=self.table,
            embedder=self.embedder,
            vectors=self.vectors,
            place=self.place.sweep_soon,
            clock=self.clock,
            max_tenants=2,
            look_seconds=30.0,
            gather_seconds=gather_seconds,
            workers=1,
        )
        self.forget = ForgetMemory(
            memories=self.table,
            placements=self.table,
            vectors=self.vectors,
            sweep=self.place.sweep_soon,
            clock=self.clock,
        )

    async def add(self, text: str = "Ban cars.", **changes: Any) -> Memory:
        memory = a_memory(text, **changes)
        return (await self.table.add(memory, call_key=secrets.token_bytes(8), digest=b"d")).memory

    def placement(self, memory: Memory) -> Placement:
        return self.table.rows[memory.id].memory.placement

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.embed())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def settle(self) -> None:
        """Lets tasks run until none of them has anything to do before the clock moves."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def shop() -> Workshop:
    return Workshop()


async def test_memories_of_one_moment_share_a_call() -> None:
    shop = Workshop(gather_seconds=0.05)
    async with shop.working():
        for number in range(3):
            await shop.add(f"turn {number}")
            shop.embed.wake(ANNA)
            await shop.settle()
            shop.clock.advance(seconds=0.02)
        assert not shop.embedder.calls
        await shop.settle()
        shop.clock.advance(seconds=0.01)
        await shop.settle()
    assert [len(texts) for _, _, texts in shop.embedder.calls] == [3]


async def test_what_waits_is_embedded_in_one_call_and_placed(shop: Workshop) -> None:
    made = [await shop.add(f"memory {number}") for number in range(3)]
    assert await shop.embed.embed_tenant(ANNA) == 3
    assert [shop.placement(memory) for memory in made] == [Placement.PLACED] * 3
    ((principal, _, texts),) = shop.embedder.calls
    assert principal is ANNA
    assert sorted(texts) == ["memory 0", "memory 1", "memory 2"]
    assert await shop.vectors.count(shop.embedder.space) == 3


async def test_each_budget_and_region_has_a_call_of_its_own(shop: Workshop) -> None:
    for budgets in ((), ("budget_1",), ("budget_1",)):
        await shop.add(context=replace(CONTEXT, budget_ids=budgets))
    await shop.add(context=replace(CONTEXT, residency_region="eu"))
    await shop.embed.embed_tenant(ANNA)
    assert sorted(len(texts) for _, _, texts in shop.embedder.calls) == [1, 1, 2]


async def test_what_each_step_of_a_run_and_each_agent_remembers_is_paid_for_by_its_own(shop: Workshop) -> None:
    mine = {"budget_ids": ("budget_1",), "project": "atlas"}
    whose = [
        replace(CONTEXT, call_id=CallId(run_id=run, path=path, index=index), agent_name=agent, **mine)
        for run, path, index, agent in (
            ("run_1", "rounds/1/Athena", 4, "Athena"),
            ("run_1", "rounds/1/Athena", 5, "Athena"),
            ("run_1", "rounds/1/Apollo", 4, "Apollo"),
            ("run_1", "rounds/2/Athena", 4, "Athena"),
            ("run_2", "rounds/1/Athena", 4, "Athena"),
        )
    ]
    for context in whose:
        await shop.add(f"{context.call_id}", context=context)
    assert await shop.embed.embed_tenant(ANNA) == 5
    for _, asked, texts in shop.embedder.calls:
        theirs = [one for one in whose if f"{one.call_id}" in texts]
        paying = {(one.call_id.run_id, one.call_id.path, one.agent_name, one.budget_ids) for one in theirs}
        assert paying == {(asked.call_id.run_id, asked.call_id.path, asked.agent_name, asked.budget_ids)}
    assert sorted(len(texts) for _, _, texts in shop.embedder.calls) == [1, 1, 1, 2]


async def test_a_token_bound_to_a_project_pays_for_that_project_only(shop: Workshop) -> None:
    atlas, other = [await shop.add(project=name, context=replace(CONTEXT, project=name)) for name in ("atlas", "other")]
    async with shop.working():
        shop.embed.wake(replace(ANNA, project="atlas"))
        await shop.settle()
        assert (shop.placement(atlas), shop.placement(other)) == (Placement.PLACED, Placement.PENDING)
        shop.embed.wake(ANNA)
        shop.embed.wake(replace(ANNA, project="atlas"))
        await shop.settle()
    assert shop.placement(other) is Placement.PLACED
    assert [(who.project, context.project) for who, context, _ in shop.embedder.calls] == [
        ("atlas", "atlas"),
        (None, "other"),
    ]


async def test_a_call_that_is_refused_keeps_no_other_from_being_recorded(shop: Workshop) -> None:
    made = [await shop.add(context=replace(CONTEXT, agent_name=name)) for name in ("Athena", "Apollo", "Hermes")]
    shop.embedder.faults.next(PermissionDenied("no"))
    with pytest.raises(PermissionDenied):
        await shop.embed.embed_tenant(ANNA)
    assert sorted(shop.placement(memory) for memory in made) == sorted(
        [Placement.PENDING, Placement.PLACED, Placement.PLACED]
    )
    assert await shop.embed.embed_tenant(ANNA) == 1


async def test_large_texts_are_spread_over_calls(shop: Workshop) -> None:
    for _ in range(60):
        await shop.add("€" * 8_000)
    await shop.embed.embed_tenant(ANNA)
    assert len(shop.embedder.calls) == 2
    assert sum(len(texts) for _, _, texts in shop.embedder.calls) == 60


async def test_a_refused_call_leaves_the_rest_claimable(shop: Workshop) -> None:
    made = await shop.add()
    shop.embedder.faults.next(PermissionDenied("no"))
    with pytest.raises(PermissionDenied):
        await shop.embed.embed_tenant(ANNA)
    assert shop.placement(made) is Placement.PENDING
    assert await shop.embed.embed_tenant(ANNA) == 1


async def test_the_queue_serves_tenants_with_their_own_tokens(shop: Workshop) -> None:
    await shop.add()
    await shop.add(tenant=BERT.tenant)
    async with shop.working():
        shop.embed.wake(ANNA)
        shop.embed.wake(BERT)
        await shop.settle()
    assert [principal.token.reveal() for principal, _, _ in shop.embedder.calls] == ["token-of-anna", "token-of-bert"]


async def test_the_queue_is_bounded_and_keeps_the_latest_token(shop: Workshop) -> None:
    newer = replace(ANNA, token=Secret("newer"))
    shop.embed.wake(ANNA)
    shop.embed.wake(BERT)
    shop.embed.wake(newer)
    shop.embed.wake(replace(ANNA, tenant=TenantId(uuid4())))
    await shop.add()
    async with shop.working():
        await shop.settle()
    assert [principal.token.reveal() for principal, _, _ in shop.embedder.calls] == ["newer"]


async def test_an_outage_is_waited_out_with_the_same_token(shop: Workshop) -> None:
    made = await shop.add()
    shop.embedder.faults.next(Unavailable("inference"), times=2)
    async with shop.working():
        shop.embed.wake(ANNA)
        for seconds in (1, 2):
            await shop.clock.until_someone_sleeps()
            assert shop.placement(made) is Placement.PENDING
            shop.clock.advance(seconds=seconds)
            await shop.settle()
    assert shop.placement(made) is Placement.PLACED


async def test_a_tenant_that_is_refused_rests_and_others_go_on(shop: Workshop) -> None:
    mine, berts = await shop.add(), await shop.add(tenant=BERT.tenant)
    shop.embedder.faults.next(Precondition("no embedder"))
    async with shop.working():
        shop.embed.wake(ANNA)
        shop.embed.wake(BERT)
        await shop.settle()
        assert (shop.placement(mine), shop.placement(berts)) == (Placement.PENDING, Placement.PLACED)
        shop.embed.wake(ANNA)
        await shop.settle()
        assert len(shop.embedder.calls) == 2
        shop.clock.advance(seconds=31)
        shop.embed.wake(ANNA)
        await shop.settle()
    assert shop.placement(mine) is Placement.PLACED


async def test_a_recall_looks_after_its_tenant_now_and_then(shop: Workshop) -> None:
    async with shop.working():
        shop.embed.look(ANNA)
        await shop.settle()
        made = await shop.add()
        shop.embed.look(ANNA)
        await shop.settle()
        assert shop.placement(made) is Placement.PENDING
        shop.clock.advance(seconds=31)
        shop.embed.look(ANNA)
        await shop.settle()
    assert shop.placement(made) is Placement.PLACED


async def test_an_unexpected_error_does_not_end_the_queue(shop: Workshop) -> None:
    made = await shop.add()
    shop.embedder.faults.next(ZeroDivisionError())
    async with shop.working():
        shop.embed.wake(ANNA)
        await shop.settle()
        shop.clock.advance(seconds=31)
        shop.embed.wake(ANNA)
        await shop.settle()
    assert shop.placement(made) is Placement.PLACED


async def test_vectors_wait_for_the_store_and_are_placed_without_a_caller(shop: Workshop) -> None:
    made = await shop.add()
    shop.vectors.faults.next(VectorsUnavailable("milvus"))
    await shop.embed.embed_tenant(ANNA)
    assert shop.placement(made) is Placement.RECORDED
    await shop.place.check_and_sweep()
    assert shop.placement(made) is Placement.PLACED
    assert len(shop.embedder.calls) == 1


async def test_what_is_forgotten_while_it_is_embedded_has_no_vector(shop: Workshop) -> None:
    made = await shop.add()
    await shop.table.claim(TENANT, project=None, most=1)
    await shop.forget(TENANT, made.id)
    await shop.table.give_back(TENANT, [made.id])
    shop.table.rows[made.id].memory = replace(made, placement=Placement.PENDING)
    await shop.embed.embed_tenant(ANNA)
    assert await shop.vectors.count(shop.embedder.space) == 0


async def test_a_vector_that_cannot_be_deleted_waits_for_the_sweep(shop: Workshop) -> None:
    made = await shop.add()
    await shop.embed.embed_tenant(ANNA)
    shop.vectors.faults.next(VectorsUnavailable("milvus"))
    await shop.forget(TENANT, made.id)
    assert shop.placement(made) is Placement.ERASING
    await shop.place.check_and_sweep()
    assert shop.placement(made) is Placement.NONE
    assert await shop.vectors.count(shop.embedder.space) == 0


async def test_a_store_that_lost_vectors_is_filled_from_the_table(shop: Workshop) -> None:
    for number in range(5):
        await shop.add(f"memory {number}")
    await shop.embed.embed_tenant(ANNA)
    await shop.vectors.drop(shop.embedder.space)
    shop.clock.advance(seconds=60)
    sweep = asyncio.create_task(shop.place.check_and_sweep())
    await shop.clock.until_someone_sleeps()
    shop.clock.advance(seconds=1)
    await sweep
    assert await shop.vectors.count(shop.embedder.space) == 5
    assert len(shop.embedder.calls) == 1


async def test_another_model_has_everything_embedded_again_once(shop: Workshop) -> None:
    old = await shop.add("old")
    await shop.embed.embed_tenant(ANNA)
    shop.embedder.space = Space("newer", 16)
    await shop.add("new")
    async with shop.working():
        shop.embed.wake(ANNA)
        await shop.settle()
    embedding = shop.table.rows[old.id].embedding
    assert embedding is not None
    assert embedding.space == Space("newer", 16)
    assert await shop.vectors.count(Space("newer", 16)) == 2


async def test_vectors_of_queries_are_kept_per_tenant_and_for_a_time(shop: Workshop) -> None:
    queries = QueryVectors(shop.embedder, clock=shop.clock, per_tenant=2, tenants=2)

    async def asked(principal: Principal, query: str) -> int:
        before = len(shop.embedder.calls)
        await queries.of(principal, CONTEXT, query, seconds=1.0)
        return len(shop.embedder.calls) - before

    assert [await asked(ANNA, query) for query in ("a", "b", "a", "c", "a", "b")] == [1, 1, 0, 1, 0, 1]
    assert await asked(BERT, "a") == 1
    assert await asked(replace(ANNA, tenant=TenantId(uuid4())), "a") == 1
    assert await asked(ANNA, "b") == 1
    shop.clock.advance(seconds=301)
    assert await asked(ANNA, "b") == 1


async def test_an_embedder_that_fails_leaves_nothing_in_the_cache(shop: Workshop) -> None:
    queries = QueryVectors(shop.embedder, clock=shop.clock, per_tenant=2, tenants=2)
    shop.embedder.faults.next(Unavailable("inference"))
    with pytest.raises(MeshError):
        await queries.of(ANNA, CONTEXT, "a", seconds=1.0)
    made = await queries.of(ANNA, CONTEXT, "a", seconds=1.0)
    assert made.space == shop.embedder.space
