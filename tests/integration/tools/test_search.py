"""Finding tools by words and by meaning."""

import asyncio
from uuid import uuid4

import pytest

from comitia.tools.v1 import tool_service_pb2 as pb
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role, TenantId
from tests.integration.tools.conftest import StartTools, ToolsMesh

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _search(mesh: ToolsMesh, query: str, **fields: object) -> pb.SearchToolsResponse:
    return await mesh.call("SearchTools", pb.SearchToolsRequest(query=query, **fields))  # type: ignore[arg-type]


def _names(found: pb.SearchToolsResponse) -> list[str]:
    return [f"{match.tool.name}@{match.tool.version}" for match in found.matches]


async def test_the_tool_that_fits_comes_first(mesh: ToolsMesh) -> None:
    found = await _search(mesh, "compute an arithmetic expression with sqrt")
    assert _names(found)[0] == "calculator@1.0.0"
    assert not found.lexical_only
    scores = [match.score for match in found.matches]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert _names(await _search(mesh, "fetch a web page from its URL"))[0] == "http_get@1.0.0"


async def test_definitions_are_embedded_once_and_for_their_tenant(mesh: ToolsMesh, start: StartTools) -> None:
    await mesh.register(name="tide", description="Tells when the water is high.")
    await _search(mesh, "high water")
    first = len(mesh.around.inference.texts)
    await _search(mesh, "low water")
    assert mesh.around.inference.texts[first:] == ["low water"]
    caller, request = mesh.around.inference.asked[-1]
    assert caller.peer == "tools"
    assert caller.principal.tenant == mesh.principal.tenant
    assert request.context.call_id.run_id.startswith("direct_")


async def test_vectors_of_another_model_are_made_anew(mesh: ToolsMesh) -> None:
    await _search(mesh, "compute")
    mesh.around.inference.model, mesh.around.inference.dimensions = "other", 64
    try:
        found = await _search(mesh, "compute an expression")
    finally:
        mesh.around.inference.model, mesh.around.inference.dimensions = "hashing-384", 384
    assert not found.lexical_only
    assert any(text.startswith("calculator:") for text in mesh.around.inference.texts[-3:])


async def test_without_an_embedder_the_search_is_by_words(mesh: ToolsMesh) -> None:
    mesh.around.inference.faults.next(MeshError("no embedder"))
    found = await _search(mesh, "compute an arithmetic expression")
    assert found.lexical_only
    assert _names(found)[0] == "calculator@1.0.0"


async def test_a_slow_embedder_is_not_waited_for(start: StartTools) -> None:
    async with start(embed_seconds=0.2) as mesh:
        mesh.around.inference.answers.clear()
        async with asyncio.timeout(20):
            found = await _search(mesh, "compute an arithmetic expression")
        mesh.around.inference.answers.set()
    assert found.lexical_only
    assert found.matches


async def test_a_caller_that_may_not_embed_still_searches_by_words(mesh: ToolsMesh) -> None:
    found = await _search(mesh.speaking_as(Role.AUDITOR), "compute an arithmetic expression")
    assert found.lexical_only
    assert found.matches


async def test_only_the_highest_versions_that_the_agent_may_call_are_found(mesh: ToolsMesh) -> None:
    await mesh.register(name="tide", description="Tells when the water is high.")
    await mesh.register(name="tide", description="Tells when the water is highest.", version="1.1.0")
    await mesh.register(name="tide_log", description="Tells high water of the past.", allowed_agents=["Athena"])
    assert {"tide@1.1.0", "tide_log@1.0.0"} <= set(_names(await _search(mesh, "high water")))
    assert "tide@1.0.0" not in _names(await _search(mesh, "high water"))
    assert "tide_log@1.0.0" in _names(await _search(mesh, "high water", agent_name="Athena"))
    assert "tide_log@1.0.0" not in _names(await _search(mesh, "high water", agent_name="Zeus"))
    other = mesh.speaking_as(tenant=TenantId(uuid4()))
    assert not {"tide@1.1.0", "tide_log@1.0.0"} & set(_names(await _search(other, "high water")))


async def test_what_is_found_fits_the_budget_and_the_limit(mesh: ToolsMesh) -> None:
    for number in range(12):
        await mesh.register(name=f"tide_{number}", description="Tells when the water is high. " + "Much more. " * 20)
    assert len((await _search(mesh, "high water")).matches) <= 10
    assert len((await _search(mesh, "high water", limit=3)).matches) == 3
    wide = await _search(mesh, "high water", limit=50, max_tokens=100_000)
    narrow = await _search(mesh, "high water", limit=50, max_tokens=500)
    assert 0 < len(narrow.matches) < len(wide.matches)
    assert (await _search(mesh, "high water", max_tokens=1)).matches == []


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SearchToolsRequest(), "query"),
        (pb.SearchToolsRequest(query=" "), "query"),
        (pb.SearchToolsRequest(query="x" * 4_001), "query"),
        (pb.SearchToolsRequest(query="x", max_tokens=-1), "max_tokens"),
        (pb.SearchToolsRequest(query="x", limit=51), "limit"),
        (pb.SearchToolsRequest(query="x", limit=-1), "limit"),
    ],
)
async def test_wrong_searches_are_refused(mesh: ToolsMesh, request_: pb.SearchToolsRequest, field: str) -> None:
    assert await mesh.refused("SearchTools", request_) == f"invalid/INVALID_FIELD/{field}"
