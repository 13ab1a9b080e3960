"""Answers to questions that are nearly the same, as callers and their books see them.

The fake embedder goes by the length of a text: those of about one length are alike.
"""

from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration

from comitia.inference.v1 import model_pb2, model_service_pb2
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from tests.integration.inference.conftest import InferenceMesh, StartInference, Surroundings, a_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED, ALIKE, OTHER = "Should towns ban cars altogether?", "Should cities forbid all cars now?", "Why?"


async def set_faq(mesh: InferenceMesh, **cache: Any) -> model_pb2.ModelRoute:
    route = model_pb2.ModelRoute(
        name="faq",
        members=[model_pb2.RouteMember(deployment="openai/gpt-4o-mini")],
        cache=model_pb2.CachePolicy(**cache),
    )
    return (await mesh.call("SetModelRoute", model_service_pb2.SetModelRouteRequest(route=route))).route


def asked_models(mesh: InferenceMesh) -> int:
    """Counts the calls of models, those that make vectors left out."""
    return sum("messages" in call.body for call in mesh.provider.meter.calls)


async def test_a_question_that_is_nearly_another_is_answered_from_memory_under_law_and_costs_nothing(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with start(local_model_url=surroundings.provider.address) as mesh:
        made = await set_faq(mesh, exact_ttl=Duration(seconds=60), semantic_threshold=0.99)
        assert made.cache.semantic_threshold == 0.99
        first = await mesh.generate(ASKED, model="faq", path="first")
        spent = (await mesh.budget()).spent_nano_usd
        near = await mesh.generate(ALIKE, model="faq", path="near")
        assert (first.cached, near.cached, near.parts[0].text) == (False, True, first.parts[0].text)
        assert 0.99 <= near.cache_similarity <= 1
        assert (near.cost_nano_usd, near.hold_id) == (0, "")
        same = await mesh.generate(ASKED, model="faq", path="same")
        assert (same.cached, same.cache_similarity) == (True, 0)
        assert not (await mesh.generate(OTHER, model="faq", path="other")).cached
        assert asked_models(mesh) == 2
        assert (await mesh.budget()).spent_nano_usd > spent, "the other question was paid for"
        assert (await mesh.budget()).held_nano_usd == 0
        mesh.law.blocked.add("cities")
        assert await mesh.refused("Generate", a_request(ALIKE, model="faq", path="blocked")) == "denied/LAW_BLOCKED"


async def test_no_other_tenant_and_no_other_route_is_given_the_answer(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with start(local_model_url=surroundings.provider.address) as mesh:
        other = mesh.speaking_as(surroundings.keys.principal(tenant=TenantId(uuid4())))
        for one in (mesh, other):
            await set_faq(one, exact_ttl=Duration(seconds=60), semantic_threshold=0.99)
        await mesh.generate(ASKED, model="faq")
        assert not (await other.generate(ALIKE, model="faq")).cached
        assert not (await mesh.generate(ALIKE)).cached
        vectors = len(mesh.provider.meter.calls) - asked_models(mesh)
        assert vectors == 2, "the route that did not ask for it has nothing compared"


async def test_where_nothing_in_the_mesh_makes_vectors_a_route_that_compares_is_refused(mesh: InferenceMesh) -> None:
    with pytest.raises(MeshError, match="start the local model") as refused:
        await set_faq(mesh, exact_ttl=Duration(seconds=60), semantic_threshold=0.99)
    assert refused.value.reason == "NOTHING_COMPARES"
    await set_faq(mesh, exact_ttl=Duration(seconds=60))


async def test_a_route_whose_embedder_is_gone_shares_answers_of_equal_questions(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with start(local_model_url=surroundings.provider.address) as before:
        await set_faq(before, exact_ttl=Duration(seconds=60), semantic_threshold=0.99)
    async with start() as mesh:
        one = mesh.speaking_as(before.principal)
        answers = [await one.generate(text, model="faq") for text in (ASKED, ALIKE, ASKED)]
    assert [answer.cached for answer in answers] == [False, False, True]


async def test_a_route_that_says_how_near_in_a_way_that_is_none_is_refused(mesh: InferenceMesh) -> None:
    for cache, field in (
        ({"exact_ttl": Duration(seconds=60), "semantic_threshold": 0.5}, "semantic_threshold"),
        ({"exact_ttl": Duration(seconds=60), "semantic_threshold": 1.5}, "semantic_threshold"),
        ({"semantic_threshold": 0.9}, "exact_ttl"),
    ):
        with pytest.raises(MeshError) as refused:
            await set_faq(mesh, **cache)
        assert refused.value.field == f"route.cache.{field}"
