"""Reading, listing and forgetting memories."""

from typing import Any

import pytest

from comitia.memory.v1 import memory_service_pb2 as pb
from services.memory.domain.errors import VectorsUnavailable
from services.memory.vectors.milvus import MilvusVectors
from tests.integration.memory.conftest import MemoryMesh, a_context, a_remember, a_session, until


async def test_pages_go_on_newest_first_to_the_end(mesh: MemoryMesh) -> None:
    session = a_session()
    made = [
        (await mesh.remember(f"memory {number}", session_id=session if number % 2 else "", agent_name=f"a{number % 3}"))
        for number in range(7)
    ]
    seen: list[str] = []
    token = ""
    while True:
        page = await mesh.page(page_size=3, page_token=token)
        seen += [memory.memory_id for memory in page.memories]
        token = page.next_page_token
        if not token:
            break
    assert seen == [memory.memory_id for memory in reversed(made)]
    of_session = await mesh.page(session_id=session, page_size=2)
    assert [memory.memory_id for memory in of_session.memories] == [made[5].memory_id, made[3].memory_id]
    rest = await mesh.page(session_id=session, page_size=2, page_token=of_session.next_page_token)
    assert [memory.memory_id for memory in rest.memories] == [made[1].memory_id]
    assert not rest.next_page_token
    of_agent = await mesh.page(agent_name="a0", session_id=session)
    assert [memory.memory_id for memory in of_agent.memories] == [made[3].memory_id]


@pytest.mark.parametrize(
    ("method", "request_", "refusal"),
    [
        ("GetMemory", pb.GetMemoryRequest(), "invalid/INVALID_FIELD/memory_id"),
        (
            "GetMemory",
            pb.GetMemoryRequest(memory_id="run_01jx0000000000000000000000"),
            "invalid/INVALID_FIELD/memory_id",
        ),
        ("GetMemory", pb.GetMemoryRequest(memory_id="memory_01jx0000000000000000000000"), "not_found/MEMORY_NOT_FOUND"),
        (
            "ForgetMemory",
            pb.ForgetMemoryRequest(memory_id="memory_01jx0000000000000000000000"),
            "not_found/MEMORY_NOT_FOUND",
        ),
        ("ListMemories", pb.ListMemoriesRequest(page_size=-1), "invalid/INVALID_FIELD/page_size"),
        ("ListMemories", pb.ListMemoriesRequest(page_token="x"), "invalid/INVALID_FIELD/page_token"),
        ("ListMemories", pb.ListMemoriesRequest(page_token="WzEsIngiXQ"), "invalid/INVALID_FIELD/page_token"),
        ("ListMemories", pb.ListMemoriesRequest(session_id="x"), "invalid/INVALID_FIELD/session_id"),
    ],
)
async def test_what_is_wrong_is_refused(mesh: MemoryMesh, method: str, request_: Any, refusal: str) -> None:
    assert await mesh.refused(method, request_) == refusal


async def test_what_is_forgotten_is_gone_everywhere(mesh: MemoryMesh) -> None:
    session = a_session()
    made = await mesh.remember("ban cars", session_id=session, tags=["private"])
    kept = await mesh.remember("ban cars", session_id=session)
    await mesh.embedded(made, kept)
    for _ in range(2):
        await mesh.forget(made.memory_id)
    request = pb.GetMemoryRequest(memory_id=made.memory_id)
    assert await mesh.refused("GetMemory", request) == "not_found/MEMORY_NOT_FOUND"
    answer = await mesh.recall("ban cars", session_id=session, recent_turns=5, min_score=-1)
    assert [memory.memory_id for memory in answer.recent] == [kept.memory_id]
    semantic = (await mesh.recall("ban cars", semantic_matches=5)).semantic
    assert [match.memory.memory_id for match in semantic] == [kept.memory_id]
    row = next(row for row in await mesh.rows() if row.forget_time is not None)
    assert (row.payload, row.vector, row.tags, row.placement) == (None, None, [], 0)


async def test_a_repeated_call_does_not_bring_the_forgotten_back(mesh: MemoryMesh) -> None:
    request = a_remember("ban cars", context=a_context())
    made = (await mesh.call("Remember", request)).memory
    await mesh.forget(made.memory_id)
    again = (await mesh.call("Remember", request)).memory
    assert (again.memory_id, list(again.parts)) == (made.memory_id, [])
    assert not (await mesh.page()).memories


async def test_a_vector_that_cannot_be_deleted_now_is_deleted_later(
    mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await mesh.remember("ban cars")
    await mesh.embedded(made)
    real, failures = MilvusVectors.delete, [VectorsUnavailable("milvus")]

    async def failing_once(self: MilvusVectors, memories: Any) -> None:
        if failures:
            raise failures.pop()
        await real(self, memories)

    monkeypatch.setattr(MilvusVectors, "delete", failing_once)
    await mesh.forget(made.memory_id)
    assert not (await mesh.recall("ban cars", semantic_matches=5)).semantic

    async def erased() -> bool:
        return [row.placement for row in await mesh.rows("placement")] == [0]

    await until(erased)
