"""The local model process: real llama.cpp, real ONNX, through the adapters that inference uses."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from services.inference.domain.answer import Finished, StopReason, TextDelta
from services.inference.domain.deployment import Adapter, DeploymentVersion, Task
from services.inference.domain.errors import Charge, ProviderRateLimited, ProviderRefused
from services.inference.domain.money_bound import bound_of
from services.inference.domain.output_format import Conformed, OutputFormat, OutputKind, conform
from services.inference.domain.prompt import Sampling, ToolChoice, ToolChoiceMode, ToolDefinition
from services.inference.local import weights
from services.inference.local.process import serving
from services.inference.local.settings import LocalModelSettings
from services.inference.providers.http import provider_http
from services.inference.providers.openai.chat import ChatProvider, Endpoint
from services.inference.providers.openai.embeddings import OpenAiEmbeddings
from services.inference.providers.servers.manners import LOCAL
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.core.money import NanoUsd
from tests.integration.conftest import free_port
from tests.support.inference import a_message, a_prompt, a_provider_call

CLEARANCE = Clearance(hold=DispatchedHold(id="hold_1", amount=NanoUsd(0)), verdict_id="verdict_1")
CHAT = DeploymentVersion(name="local/smollm2", adapter=Adapter.LOCAL, model="smollm2-135m-instruct")
EMBED = DeploymentVersion(name="local/minilm", adapter=Adapter.LOCAL, model="all-minilm-l6-v2", task=Task.EMBED)

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _installed() -> str:
    try:
        for find in (weights.language_model, weights.embedding_model, weights.embedding_tokenizer):
            find()
    except weights.WeightsMissing as missing:
        return missing.message
    return ""


if _installed():
    pytest.skip(_installed(), allow_module_level=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address() -> AsyncIterator[str]:
    settings = LocalModelSettings(listen="127.0.0.1:0", parallel=1, max_waiting=1, context_tokens=2048)
    async with serving(settings) as port:
        yield f"http://127.0.0.1:{port}"


@pytest_asyncio.fixture(loop_scope="module")
async def chat(address: str) -> AsyncIterator[ChatProvider]:
    async with provider_http(connections=8) as http:
        yield ChatProvider(http, Endpoint(base_url=f"{address}/v1"), LOCAL)


@pytest_asyncio.fixture(loop_scope="module")
async def embedder(address: str) -> AsyncIterator[OpenAiEmbeddings]:
    async with provider_http(connections=8) as http:
        yield OpenAiEmbeddings(http, Endpoint(base_url=f"{address}/v1"))


async def health(address: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{address}/health") as answer:
        return await answer.json()


async def test_it_answers_in_pieces_and_counts_its_tokens(chat: ChatProvider) -> None:
    prompt = a_prompt(messages=(a_message("What is the capital of France?"),), max_output_tokens=12, temperature=0.0)
    pieces = [piece async for piece in chat.stream(a_provider_call(CHAT, prompt, CLEARANCE, seconds=60))]
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
    finished = pieces[-1]
    assert isinstance(finished, Finished)
    assert text.strip()
    assert len(pieces) > 3
    assert finished.model == "smollm2-135m-instruct"
    assert finished.usage is not None
    assert 0 < finished.usage.output <= 12
    bound = bound_of(prompt, CHAT)
    assert finished.usage.input + finished.usage.cache_read <= bound.input


async def test_it_keeps_the_limit_and_says_so(chat: ChatProvider) -> None:
    prompt = a_prompt(messages=(a_message("Tell me a very long story."),), max_output_tokens=4)
    *_, finished = [piece async for piece in chat.stream(a_provider_call(CHAT, prompt, CLEARANCE, seconds=60))]
    assert isinstance(finished, Finished)
    assert finished.stop_reason is StopReason.LENGTH


@pytest.mark.parametrize("seed", range(4))
async def test_a_schema_becomes_a_grammar_that_even_a_small_model_keeps(chat: ChatProvider, seed: int) -> None:
    wanted = OutputFormat(
        kind=OutputKind.JSON_SCHEMA,
        name="city",
        schema={
            "type": "object",
            "properties": {
                "size": {"enum": ["small", "large"]},
                "trams": {"type": "boolean"},
                "lines": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 99}, "maxItems": 3},
            },
            "required": ["size", "trams", "lines"],
            "additionalProperties": False,
        },
    )
    prompt = a_prompt("Describe Graz.", output_format=wanted, max_output_tokens=200, sampling=Sampling(seed=seed))
    answer = await chat.whole(a_provider_call(CHAT, prompt, CLEARANCE, seconds=60))
    assert isinstance(conform(answer.text, wanted), Conformed), answer.text


async def test_a_model_that_cannot_be_made_to_call_a_tool_is_not_asked_to(chat: ChatProvider) -> None:
    tool = ToolDefinition(name="count", input_schema={"type": "object"})
    prompt = a_prompt(tools=(tool,), tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED))
    with pytest.raises(ProviderRefused) as refused:
        await chat.whole(a_provider_call(CHAT, prompt, CLEARANCE, seconds=60))
    assert refused.value.metadata["field"] == "tool_choice"


async def test_a_prompt_beyond_its_context_is_refused_and_told_by_how_much(chat: ChatProvider) -> None:
    with pytest.raises(ProviderRefused) as refused:
        await anext(chat.stream(a_provider_call(CHAT, a_prompt("hi " * 4000), CLEARANCE, seconds=60)))
    assert refused.value.charge is Charge.NOTHING
    said = refused.value.metadata
    assert int(said["tokens"]) - int(said["window"]) == int(said["over_by"]) > 0
    assert "more than the window" in refused.value.message


async def test_who_goes_away_stops_the_model_and_too_many_are_refused(chat: ChatProvider, address: str) -> None:
    long = a_prompt(messages=(a_message("Count from one to a thousand."),), max_output_tokens=1500)
    async with aclosing(chat.stream(a_provider_call(CHAT, long, CLEARANCE, seconds=60))) as first:
        await anext(first)
        waiting = asyncio.ensure_future(anext(chat.stream(a_provider_call(CHAT, long, CLEARANCE, seconds=60))))
        async with asyncio.timeout(40):
            while (await health(address))["answers_waiting"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        with pytest.raises(ProviderRateLimited):
            await anext(chat.stream(a_provider_call(CHAT, long, CLEARANCE, seconds=60)))
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(40):
        while (await health(address))["answers_waiting"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_the_whole_answer_comes_to_those_who_do_not_stream(address: str) -> None:
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5, "temperature": 0}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{address}/v1/chat/completions", json=body) as answer:
            whole = await answer.json()
        assert whole["choices"][0]["message"]["content"]
        assert whole["usage"]["completion_tokens"] <= 5
        for wrong in (b"nonsense", b"{}", b'{"messages": []}', b'{"messages": [{"role": "user"}], "max_tokens": "x"}'):
            async with session.post(f"{address}/v1/chat/completions", data=wrong) as answer:
                assert answer.status == 400, wrong
                assert (await answer.json())["error"]["message"]


async def test_vectors_tell_meanings_apart_and_do_not_depend_on_their_neighbours(embedder: OpenAiEmbeddings) -> None:
    texts = ("Cats are nice pets.", "Dogs are lovely animals.", "The stock market fell. " * 30, "Cats are nice pets.")
    together = (await embedder.embed(EMBED, texts, CLEARANCE, seconds=60)).vectors
    assert {len(vector) for vector in together} == {384}
    assert dot(together[0], together[1]) > 0.4 > 0.2 > dot(together[0], together[2])
    for text, vector in zip(texts, together, strict=True):
        made = await embedder.embed(EMBED, (text,), CLEARANCE, seconds=60)
        assert dot(made.vectors[0], vector) == pytest.approx(1.0, abs=0.02), text
        assert dot(vector, vector) == pytest.approx(1.0)
        assert made.usage is not None
        assert made.usage.input > 0


async def test_many_small_calls_at_once_all_get_their_own_vector(embedder: OpenAiEmbeddings) -> None:
    texts = [f"Sentence number {number}." for number in range(24)]
    made = await asyncio.gather(*(embedder.embed(EMBED, (text,), CLEARANCE, seconds=60) for text in texts))
    assert len({one.vectors[0] for one in made}) == len(texts)


def dot(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(left * right for left, right in zip(one, other, strict=True))


async def started(**settings: str) -> asyncio.subprocess.Process:
    environment = {f"COMITIA_LOCAL_MODEL_{name.upper()}": value for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.inference.local",
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_process_serves_until_it_is_told_to_stop() -> None:
    port = free_port()
    process = await started(listen=f"127.0.0.1:{port}")
    try:
        async with asyncio.timeout(30):
            while not await answers(f"http://127.0.0.1:{port}"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


async def answers(address: str) -> bool:
    try:
        return (await health(address))["status"] == "ok"
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize(
    ("settings", "code", "sentence"),
    [
        ({"threads": "0"}, 2, "COMITIA_LOCAL_MODEL_THREADS"),
        ({"listen": "127.0.0.1:1x"}, 2, "COMITIA_LOCAL_MODEL_LISTEN"),
        ({"gguf_path": "/nowhere/model.gguf"}, 3, "/nowhere/model.gguf"),
    ],
)
async def test_what_is_wrong_is_said_in_a_sentence(settings: dict[str, str], code: int, sentence: str) -> None:
    process = await started(**settings)
    _, said = await process.communicate()
    assert process.returncode == code
    assert sentence in said.decode()
    assert "Traceback" not in said.decode()
