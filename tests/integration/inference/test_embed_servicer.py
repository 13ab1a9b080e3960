"""Embed, CountTokens and ListModels on the wire."""

import pytest

from comitia.inference.v1 import inference_service_pb2 as pb
from comitia.inference.v1 import model_pb2, model_service_pb2
from tests.integration.inference.conftest import InferenceMesh, StartInference, Surroundings, a_message, a_request
from tests.support.providers.fake import KEY, Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")


def embedding(*texts: str, **changes: object) -> pb.EmbedRequest:
    return pb.EmbedRequest(texts=texts, **changes)  # type: ignore[arg-type]


async def test_the_local_model_embeds_under_money_and_what_is_known_is_not_asked_again(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with start(local_model_url=surroundings.provider.address) as mesh:
        made = await mesh.call("Embed", embedding("one", "three", "one"))
        assert made.model == "all-minilm-l6-v2"
        assert made.embeddings[0] == made.embeddings[2] != made.embeddings[1]
        assert sum(value * value for value in made.embeddings[0].values) == pytest.approx(1.0)
        assert mesh.provider.meter.calls[0].body["input"] == ["one", "three"]
        again = await mesh.call("Embed", embedding("three"))
        assert again.embeddings[0] == made.embeddings[1]
        assert len(mesh.provider.meter.calls) == 1
        assert not mesh.law.seen, "nothing left the mesh"
        (charge,) = await mesh.charges()
        assert (charge.provider, charge.cost_nano_usd) == ("local", 0)
        assert charge.usage.input_tokens == made.usage.input_tokens > 0


async def test_texts_that_leave_the_mesh_are_judged_and_paid_for(start: StartInference) -> None:
    async with start(openai_embedding_model="text-embedding-3-small") as mesh:
        await mesh.call("Embed", embedding("a text that is long enough to cost something"))
        assert mesh.law.stages() == ["before"]
        (charge,) = await mesh.charges()
        assert charge.provider == "openai"
        assert charge.cost_nano_usd > 0
        mesh.law.blocked.add("secret")
        assert await mesh.refused("Embed", embedding("a secret")) == "denied/LAW_BLOCKED"
        mesh.law.redacted["name"] = "[name]"
        assert await mesh.refused("Embed", embedding("a name")) == "invalid/INVALID_FIELD/texts"
        assert len(mesh.provider.meter.calls) == 1


async def test_without_an_embedder_the_caller_is_told(mesh: InferenceMesh) -> None:
    assert await mesh.refused("Embed", embedding("one")) == "precondition/NO_EMBEDDER_CONFIGURED"
    assert await mesh.refused("Embed", embedding("one", model="x")) == "not_found/MODEL_NOT_FOUND"


async def test_an_embedder_that_is_down_costs_nothing(start: StartInference) -> None:
    async with start(local_model_url="http://127.0.0.1:1") as mesh:
        assert await mesh.refused("Embed", embedding("one")) == "unavailable/PROVIDER_UNAVAILABLE"
        assert (await mesh.budget()).held_nano_usd == 0


async def test_an_embedder_that_answers_nonsense_is_unavailable(start: StartInference) -> None:
    async with start(openai_embedding_model="text-embedding-3-small") as mesh:
        mesh.provider.next(Behaviour(raw='{"data": []}'))
        assert await mesh.refused("Embed", embedding("one")) == "unavailable/PROVIDER_UNAVAILABLE"


@pytest.mark.parametrize(
    ("texts", "field"),
    [((), "texts"), (("x",) * 257, "texts"), (("ok", " "), "texts[1]"), (("x" * 32_001,), "texts[0]")],
)
async def test_bad_texts_are_refused_with_their_field(mesh: InferenceMesh, texts: tuple[str, ...], field: str) -> None:
    assert await mesh.refused("Embed", embedding(*texts)) == f"invalid/INVALID_FIELD/{field}"


async def test_tokens_are_counted_as_money_is_held_for_them(mesh: InferenceMesh) -> None:
    request = pb.CountTokensRequest(messages=[a_message("x" * 500)])
    counted = (await mesh.call("CountTokens", request)).input_tokens_bound
    assert 500 <= counted < 1000
    assert await mesh.refused("CountTokens", pb.CountTokensRequest()) == "invalid/INVALID_FIELD/messages"
    request.model = "openai/gpt-99"
    assert await mesh.refused("CountTokens", request) == "not_found/MODEL_NOT_FOUND"


async def test_models_are_listed_in_the_order_of_the_chain(start: StartInference) -> None:
    changes = {
        "anthropic_api_key": KEY,
        "compatible_base_url": "http://127.0.0.1:1/v1",
        "compatible_model": "llama",
        "compatible_region": "eu",
        "local_model_url": "http://127.0.0.1:1",
    }
    async with start(**changes) as mesh:
        listed = (await mesh.call("ListModels", model_service_pb2.ListModelsRequest())).models
    assert [(model.name, model.priced) for model in listed] == [
        ("openai/gpt-4o-mini", True),
        ("anthropic/claude-haiku-4-5", True),
        ("openai_compatible/llama", False),
        ("local/smollm2-135m-instruct", True),
        ("local/all-minilm-l6-v2", True),
        ("stub", True),
    ]
    assert [model.in_default_chain for model in listed] == [True] * 5 + [False]
    assert listed[2].region == "eu"
    assert listed[4].task == model_pb2.MODEL_TASK_EMBED


async def test_without_any_model_the_caller_is_told_what_to_configure(start: StartInference) -> None:
    async with start(openai_api_key=None, stub_enabled=False) as mesh:
        assert await mesh.refused("Generate", a_request()) == "precondition/NO_MODEL_CONFIGURED"
        assert not (await mesh.call("ListModels", model_service_pb2.ListModelsRequest())).models
