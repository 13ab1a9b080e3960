"""What is recalled: the latest turns, the most similar, within the budget, and of nobody else."""

from typing import Any

import pytest

from comitia.memory.v1 import memory_service_pb2 as pb
from services.meshkit.core.errors import Precondition, Unavailable
from services.meshkit.core.identity import Role
from tests.integration.memory.conftest import MemoryMesh, StartMemory, a_context, a_session, until


def texts(memories: Any) -> list[str]:
    return [memory.parts[0].text.text for memory in memories]


def found(answer: pb.RecallResponse) -> list[str]:
    return texts(match.memory for match in answer.semantic)


async def test_the_ring_gives_the_latest_turns_oldest_first(mesh: MemoryMesh) -> None:
    session = a_session()
    for number in range(5):
        await mesh.remember(f"turn {number}", session_id=session, agent_name=f"agent{number % 2}")
    await mesh.remember("elsewhere", session_id=a_session())
    await mesh.remember("no session")
    answer = await mesh.recall(session_id=session, recent_turns=3, agent_name="agent0")
    assert texts(answer.recent) == ["turn 2", "turn 3", "turn 4"]
    assert (answer.truncated, answer.semantic_skipped) == (False, False)


async def test_what_has_expired_has_left_the_ring_and_is_still_there(mesh: MemoryMesh) -> None:
    session = a_session()
    short = await mesh.remember("short", session_id=session, ring_ttl_seconds=60)
    await mesh.remember("long", session_id=session)
    mesh.around.clock.ahead += 1 * (short.expire_time.ToDatetime() - short.create_time.ToDatetime())
    answer = await mesh.recall(session_id=session, recent_turns=10)
    assert texts(answer.recent) == ["long"]
    assert texts([await mesh.get(short.memory_id)]) == ["short"]


async def test_the_oldest_turns_are_left_out_first(mesh: MemoryMesh) -> None:
    session = a_session()
    for letter in "abcd":
        await mesh.remember(letter * 40, session_id=session)
    answer = await mesh.recall(session_id=session, recent_turns=10, max_tokens=25)
    assert [text[0] for text in texts(answer.recent)] == ["c", "d"]
    assert answer.truncated


async def test_without_semantic_matches_nothing_is_embedded(mesh: MemoryMesh) -> None:
    made = await mesh.remember("turn", session_id=a_session())
    await mesh.embedded(made)
    before = len(mesh.around.inference.asked)
    answer = await mesh.recall("What was said?", session_id=made.session_id, recent_turns=5)
    assert texts(answer.recent) == ["turn"]
    assert len(mesh.around.inference.asked) == before


async def test_the_most_similar_come_best_first_with_their_score(mesh: MemoryMesh) -> None:
    made = [await mesh.remember(text) for text in ("ban all cars", "ban cars in cities", "plant more trees")]
    await mesh.embedded(*made)
    answer = await mesh.recall("ban cars in cities", semantic_matches=5)
    assert found(answer) == ["ban cars in cities", "ban all cars"]
    assert answer.semantic[0].score == pytest.approx(1.0, abs=1e-4)
    assert answer.semantic[0].memory.embedded
    assert not answer.semantic_skipped
    assert found(await mesh.recall("ban cars in cities", semantic_matches=1)) == ["ban cars in cities"]
    assert found(await mesh.recall("ban cars in cities", semantic_matches=5, min_score=0.9)) == ["ban cars in cities"]
    assert len((await mesh.recall("ban cars in cities", semantic_matches=5, min_score=-1)).semantic) == 3


async def test_what_is_in_the_ring_is_not_found_again(mesh: MemoryMesh) -> None:
    session = a_session()
    ring = [await mesh.remember("ban cars now", session_id=session) for _ in range(3)]
    old = await mesh.remember("ban cars now", session_id=a_session())
    await mesh.embedded(*ring, old)
    answer = await mesh.recall("ban cars now", session_id=session, recent_turns=3, semantic_matches=2)
    assert len(answer.recent) == 3
    assert [match.memory.memory_id for match in answer.semantic] == [old.memory_id]


async def test_an_agent_finds_its_own_and_the_tenant_all(mesh: MemoryMesh) -> None:
    made = [await mesh.remember("ban cars", agent_name=name) for name in ("Athena", "Solon", "")]
    await mesh.embedded(*made)
    answer = await mesh.recall("ban cars", semantic_matches=5, agent_name="Solon")
    assert [match.memory.agent_name for match in answer.semantic] == ["Solon"]
    assert len((await mesh.recall("ban cars", semantic_matches=5)).semantic) == 3


async def test_another_tenant_finds_nothing_in_rows_and_vectors(mesh: MemoryMesh, other: MemoryMesh) -> None:
    session = a_session()
    made = await mesh.remember("ban cars", session_id=session)
    await mesh.embedded(made)
    answer = await other.recall("ban cars", session_id=session, recent_turns=5, semantic_matches=5, min_score=-1)
    assert not answer.recent
    assert not answer.semantic
    assert not (await other.page(session_id=session)).memories
    request = pb.GetMemoryRequest(memory_id=made.memory_id)
    assert await other.refused("GetMemory", request) == "not_found/MEMORY_NOT_FOUND"
    forget = pb.ForgetMemoryRequest(memory_id=made.memory_id)
    assert await other.refused("ForgetMemory", forget) == "not_found/MEMORY_NOT_FOUND"
    assert (await mesh.get(made.memory_id)).embedded


async def test_embedding_and_recall_speak_for_the_caller(mesh: MemoryMesh) -> None:
    alice = mesh.speaking_as(Role.TENANT_USER, subject="alice", peer="orchestrator")
    budget = "budget_" + a_session().removeprefix("run_")
    context = a_context(budget_ids=[budget], project="peace", residency_region="eu")
    await mesh.embedded(await alice.remember("ban cars", context=context))
    ((caller, request),) = mesh.around.inference.asked
    assert (caller.principal.subject, caller.peer) == ("alice", "memory")
    assert list(request.context.budget_ids) == [budget]
    assert (request.context.project, request.context.residency_region) == ("peace", "eu")


async def test_a_query_is_embedded_once(mesh: MemoryMesh, other: MemoryMesh) -> None:
    await mesh.embedded(await mesh.remember("ban cars"))
    for _ in range(3):
        await mesh.recall("ban what?", semantic_matches=3)
    assert mesh.around.inference.texts.count("ban what?") == 1
    # The vector of one tenant's query is never another's.
    await other.recall("ban what?", semantic_matches=3)
    assert mesh.around.inference.texts.count("ban what?") == 2


@pytest.mark.parametrize("fault", [Unavailable("provider"), Precondition("no embedder is configured")])
async def test_without_an_embedder_the_turns_come_alone(mesh: MemoryMesh, fault: Exception) -> None:
    session = a_session()
    made = await mesh.remember("ban cars", session_id=session)
    await mesh.embedded(made)
    mesh.around.inference.faults.next(fault)
    answer = await mesh.recall("something new", session_id=session, recent_turns=5, semantic_matches=5)
    assert texts(answer.recent) == ["ban cars"]
    assert answer.semantic_skipped
    assert not answer.semantic


async def test_an_embedder_that_is_slow_is_not_waited_for(start_memory: StartMemory) -> None:
    async with start_memory(similarity_seconds=0.1) as mesh:
        made = await mesh.remember("ban cars", session_id=a_session())
        mesh.around.inference.answers.clear()
        answer = await mesh.recall("cars?", session_id=made.session_id, recent_turns=5, semantic_matches=5)
        assert texts(answer.recent) == ["ban cars"]
        assert answer.semantic_skipped
        mesh.around.inference.answers.set()


async def test_without_a_vector_store_the_turns_come_alone(start_memory: StartMemory) -> None:
    async with start_memory(milvus_url="http://127.0.0.1:1", similarity_seconds=1.0) as mesh:
        made = await mesh.remember("ban cars", session_id=a_session())
        answer = await mesh.recall("cars?", session_id=made.session_id, recent_turns=5, semantic_matches=5)
        assert texts(answer.recent) == ["ban cars"]
        assert answer.semantic_skipped


async def test_nothing_remembered_is_nothing_found_and_nothing_skipped(mesh: MemoryMesh) -> None:
    answer = await mesh.recall("ban cars", session_id=a_session(), recent_turns=5, semantic_matches=5)
    assert answer == pb.RecallResponse()


async def test_the_budget_holds_for_turns_and_matches_together(mesh: MemoryMesh) -> None:
    session = a_session()
    old = await mesh.remember("ban cars " * 8)
    turns = [await mesh.remember(f"turn {n} " + "x" * 33, session_id=session) for n in range(3)]
    await mesh.embedded(old, *turns)
    answer = await mesh.recall(
        "ban cars", session_id=session, recent_turns=3, semantic_matches=1, max_tokens=18 + 2 * 10
    )
    assert len(answer.semantic) == 1
    assert [text[:6] for text in texts(answer.recent)] == ["turn 1", "turn 2"]
    assert answer.truncated


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"recent_turns": -1}, "recent_turns"),
        ({"recent_turns": 51}, "recent_turns"),
        ({"semantic_matches": 51, "query": "x"}, "semantic_matches"),
        ({"semantic_matches": 1}, "query"),
        ({"semantic_matches": 1, "query": " \n"}, "query"),
        ({"query": "x" * 16_001}, "query"),
        ({"min_score": 1.1}, "min_score"),
        ({"min_score": float("nan")}, "min_score"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"session_id": "run_x"}, "session_id"),
        ({"agent_name": "x" * 64}, "agent_name"),
    ],
)
async def test_what_is_wrong_is_named(mesh: MemoryMesh, changes: dict[str, Any], field: str) -> None:
    assert await mesh.refused("Recall", pb.RecallRequest(**changes)) == f"invalid/INVALID_FIELD/{field}"


async def test_memories_of_a_changed_model_are_embedded_again(mesh: MemoryMesh) -> None:
    old = await mesh.remember("ban cars")
    await mesh.embedded(old)
    mesh.around.inference.model, mesh.around.inference.dimensions = "hashing-64", 64
    await mesh.embedded(await mesh.remember("plant trees"))

    async def both_found() -> bool:
        answer = await mesh.recall("do ban cars", semantic_matches=5)
        return found(answer) == ["ban cars"]

    await until(both_found)
