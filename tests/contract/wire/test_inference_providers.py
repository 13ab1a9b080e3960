"""Our adapters against the official SDKs: both ask the same server, and must understand the same answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anthropic
import openai
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter

from services.inference.domain.answer import Finished, ReasoningDelta, StopReason, TextDelta
from services.inference.domain.deployment import Adapter, DeploymentVersion, Task
from services.inference.domain.errors import (
    Charge,
    ProviderFailure,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
)
from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import (
    Prompt,
    ReasoningEffort,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
)
from services.inference.providers.anthropic.messages import AnthropicProvider
from services.inference.providers.http import ProviderHttp, provider_http
from services.inference.providers.openai import embeddings
from services.inference.providers.openai.chat import ChatProvider, Endpoint
from services.inference.providers.openai.embeddings import OpenAiEmbeddings
from services.inference.providers.openai.responses import ResponsesProvider
from services.inference.providers.servers.manners import COMPATIBLE, LLAMA_CPP, OLLAMA, TGI, VLLM
from services.inference.usecases.ports import ModelProvider
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.content import (
    DocumentPart,
    ImagePart,
    Message,
    MessageRole,
    Part,
    ToolCallPart,
    ToolResultPart,
    Usage,
    text_part,
)
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret
from tests.support.inference import USER, a_message, a_prompt, a_provider_call
from tests.support.providers.fake import KEY, Behaviour, FakeProvider, fake_provider
from tests.support.record_fixtures import CASES, FIXTURES, synthetic

CLEARANCE = Clearance(hold=DispatchedHold(id="hold_1", amount=NanoUsd(1)), verdict_id="verdict_1")
DEPLOYMENTS = {
    "openai": DeploymentVersion(name="openai/gpt-4o-mini", adapter=Adapter.OPENAI, model="gpt-4o-mini"),
    "responses": DeploymentVersion(
        name="openai/gpt-4o-mini", adapter=Adapter.OPENAI_RESPONSES, model="gpt-4o-mini", provider="openai"
    ),
    "anthropic": DeploymentVersion(name="anthropic/claude", adapter=Adapter.ANTHROPIC, model="claude-haiku-4-5"),
    "compatible": DeploymentVersion(name="openai_compatible/llama", adapter=Adapter.OPENAI_COMPATIBLE, model="llama"),
}
TOOL = ToolDefinition(name="search", description="Finds.", input_schema={"properties": {"q": {"type": "string"}}})
CALL = ToolCallPart(tool_call_id="call_1", name="search", arguments={"q": "trams"})
RICH = Prompt(
    messages=(
        a_message("Be brief.", MessageRole.SYSTEM),
        a_message("What is this?", name="Athena"),
        Message(
            role=MessageRole.USER,
            parts=(
                text_part("Look:", USER),
                Part(ImagePart(media_type="image/png", data=b"\x89PNG"), USER),
                Part(DocumentPart(media_type="text/plain", data=b"A page.", title="Page"), USER),
            ),
            name="Ares the Loud",
        ),
        Message(role=MessageRole.ASSISTANT, parts=(text_part("I will search.", USER), Part(CALL, USER))),
        Message(
            role=MessageRole.TOOL,
            parts=(Part(ToolResultPart(tool_call_id="call_1", name="search", text="found", failed=True), USER),),
        ),
    ),
    tools=(TOOL,),
    max_output_tokens=99,
    temperature=1.5,
    stop_sequences=("END",),
)


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with fake_provider() as provider:
        yield provider


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    async with provider_http(connections=4) as opened:
        yield opened


def adapter_of(dialect: str, http: ProviderHttp, server: FakeProvider, *, key: str = KEY) -> ModelProvider:
    if dialect == "anthropic":
        return AnthropicProvider(http, Endpoint(base_url=server.anthropic_base_url, key=Secret(key)))
    endpoint = Endpoint(base_url=server.openai_base_url, key=Secret(key))
    if dialect == "responses":
        return ResponsesProvider(http, endpoint)
    return ChatProvider(http, endpoint) if dialect == "openai" else ChatProvider(http, endpoint, COMPATIBLE)


async def ask(
    provider: ModelProvider, dialect: str, prompt: Prompt | None = None, *, seconds: float = 5.0
) -> tuple[str, Finished]:
    """Asks to the end; gives the text and the end."""
    texts: list[str] = []
    stream = provider.stream(a_provider_call(DEPLOYMENTS[dialect], prompt or a_prompt(), CLEARANCE, seconds=seconds))
    async with aclosing(stream):
        async for piece in stream:
            if isinstance(piece, Finished):
                return "".join(texts), piece
            if isinstance(piece, TextDelta):
                texts.append(piece.text)
    raise AssertionError("a stream ended without Finished and without an error")


async def failure_of(provider: ModelProvider, dialect: str, **changes: Any) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as failed:
        await ask(provider, dialect, **changes)
    return failed.value


def fixtures() -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted(FIXTURES.glob("*.json"))]


def test_there_is_a_fixture_for_every_case() -> None:
    assert {path.stem for path in FIXTURES.glob("*.json")} == {
        f"{dialect}_{case}" for dialect in ("openai", "responses", "anthropic") for case in CASES
    }


@pytest.mark.parametrize("path", fixtures())
def test_synthetic_fixtures_are_what_the_builder_writes_today(path: Path) -> None:
    kept = json.loads(path.read_text())
    if not kept["synthetic"]:
        return
    made = json.loads(json.dumps(synthetic(kept["dialect"], kept["case"])))
    assert {**kept, "sdk": None} == {**made, "sdk": None}


@pytest.mark.parametrize("path", fixtures())
async def test_we_read_a_stream_as_the_official_sdk_does(path: Path, server: FakeProvider, http: ProviderHttp) -> None:
    fixture = json.loads(path.read_text())  # noqa: ASYNC240
    dialect: str = fixture["dialect"]
    server.next(Behaviour(raw=fixture["stream"]), Behaviour(raw=fixture["stream"]))
    text, finished = await ask(adapter_of(dialect, http, server), dialect)
    sdk = await READ_BY[dialect](server)
    assert (text, finished.model) == (sdk["text"], sdk["model"])
    calls = [(call.tool_call_id, call.name, dict(call.arguments)) for call in finished.tool_calls]
    assert calls == sdk["calls"]
    assert finished.stop_reason == sdk["stop"]
    assert finished.usage == sdk["usage"]


@pytest.mark.parametrize("path", fixtures())
async def test_a_whole_answer_says_what_its_stream_says(path: Path, server: FakeProvider, http: ProviderHttp) -> None:
    fixture = json.loads(path.read_text())  # noqa: ASYNC240
    dialect: str = fixture["dialect"]
    server.next(Behaviour(raw=fixture["stream"]), Behaviour(raw=json.dumps(fixture["whole"])))
    provider = adapter_of(dialect, http, server)
    text, finished = await ask(provider, dialect)
    whole = await provider.whole(a_provider_call(DEPLOYMENTS[dialect], a_prompt(), CLEARANCE))
    assert (whole.text, whole.finished) == (text, finished)
    assert "stream" not in server.meter.calls[1].body


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic", "compatible"])
async def test_thinking_is_a_sign_of_life_and_no_part_of_the_answer(
    server: FakeProvider, http: ProviderHttp, dialect: str
) -> None:
    behaviour = Behaviour(thinking="Rivers? Seas?", text="Yes.")
    server.next(behaviour, behaviour)
    provider = adapter_of(dialect, http, server)
    call = a_provider_call(DEPLOYMENTS[dialect], a_prompt(), CLEARANCE)
    pieces = [piece async for piece in provider.stream(call)]
    assert pieces[:2] == [ReasoningDelta("Rivers?"), ReasoningDelta(" Seas?")]
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)) == "Yes."
    assert (await provider.whole(call)).text == "Yes."


async def read_by_openai(server: FakeProvider) -> dict[str, Any]:
    """Reads a stream by the SDK's own helper; written down by hand is only how its usage divides."""
    async with openai.AsyncOpenAI(base_url=server.openai_base_url, api_key=KEY, max_retries=0) as client:
        manager = client.chat.completions.stream(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "search"}}],
            stream_options={"include_usage": True},
        )
        text, finish, model, usage, refused = "", None, "", None, False
        calls: dict[int, list[str]] = {}
        async with manager as stream:
            async for event in stream:
                if event.type != "chunk":
                    continue
                chunk = event.chunk
                model, usage = chunk.model, chunk.usage or usage
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    text += (choice.delta.content or "") + (choice.delta.refusal or "")
                    refused |= bool(choice.delta.refusal)
                    for piece in choice.delta.tool_calls or ():
                        call = calls.setdefault(piece.index, ["", "", ""])
                        call[0] += piece.id or ""
                        assert piece.function is not None
                        call[1] += piece.function.name or ""
                        call[2] += piece.function.arguments or ""
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens or 0
    reasoning = usage.completion_tokens_details.reasoning_tokens or 0
    return {
        "text": text,
        "model": model,
        "calls": [(call, name, json.loads(arguments)) for call, name, arguments in calls.values()],
        "stop": "refusal" if refused else finish,
        "usage": Usage(
            input=usage.prompt_tokens - cached,
            cache_read=cached,
            output=usage.completion_tokens - reasoning,
            reasoning=reasoning,
        ),
    }


async def read_by_anthropic(server: FakeProvider) -> dict[str, Any]:
    async with (
        anthropic.AsyncAnthropic(base_url=server.anthropic_base_url, api_key=KEY, max_retries=0) as client,
        client.messages.stream(
            model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        ) as stream,
    ):
        message = await stream.get_final_message()
    usage = message.usage
    thinking = usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else 0
    stops = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "refusal"}
    return {
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "model": message.model,
        "calls": [(block.id, block.name, block.input) for block in message.content if block.type == "tool_use"],
        "stop": stops[message.stop_reason or ""],
        "usage": Usage(
            input=usage.input_tokens,
            cache_read=usage.cache_read_input_tokens or 0,
            cache_write_5m=usage.cache_creation_input_tokens or 0,
            output=usage.output_tokens - thinking,
            reasoning=thinking,
        ),
    }


async def read_by_responses(server: FakeProvider) -> dict[str, Any]:
    async with openai.AsyncOpenAI(base_url=server.openai_base_url, api_key=KEY, max_retries=0) as client:
        stream = await client.responses.create(model="gpt-4o-mini", input="x", stream=True)
        events: list[Any] = [event async for event in stream]
    said = [event for event in events if event.type in ("response.output_text.delta", "response.refusal.delta")]
    text, refused = "".join(event.delta for event in said), any("refusal" in event.type for event in said)
    assert events[-1].type in ("response.completed", "response.incomplete")
    response = events[-1].response
    calls = [item for item in response.output if item.type == "function_call"]
    usual = "tool_calls" if calls else "refusal" if refused else "stop"
    why = response.incomplete_details.reason if response.incomplete_details else None
    used = response.usage
    assert used is not None
    cached, written = used.input_tokens_details.cached_tokens, used.input_tokens_details.cache_write_tokens
    reasoning = used.output_tokens_details.reasoning_tokens
    return {
        "text": text,
        "model": response.model,
        "calls": [(call.call_id, call.name, json.loads(call.arguments)) for call in calls],
        "stop": {"max_output_tokens": "length", "content_filter": "content_filter"}.get(why or "", usual),
        "usage": Usage(
            input=used.input_tokens - cached - written,
            cache_read=cached,
            cache_write_5m=written,
            output=used.output_tokens - reasoning,
            reasoning=reasoning,
        ),
    }


READ_BY = {"openai": read_by_openai, "responses": read_by_responses, "anthropic": read_by_anthropic}


async def test_our_request_is_one_that_openais_types_allow(server: FakeProvider, http: ProviderHttp) -> None:
    await ask(adapter_of("openai", http, server), "openai", RICH)
    (served,) = server.meter.calls
    TypeAdapter(CompletionCreateParamsStreaming).validate_python(served.body)
    assert served.body["max_completion_tokens"] == 99
    assert served.body["stream_options"] == {"include_usage": True}
    roles = [message["role"] for message in served.body["messages"]]
    assert roles == ["system", "user", "user", "assistant", "tool"]
    assert served.body["messages"][1]["name"] == "Athena"
    assert served.body["messages"][2]["content"][0] == {"type": "text", "text": "Ares the Loud:"}
    assert "name" not in served.body["messages"][2]


async def test_our_request_is_one_that_the_types_of_responses_allow(server: FakeProvider, http: ProviderHttp) -> None:
    await ask(adapter_of("responses", http, server), "responses", replace(RICH, stop_sequences=()))
    (served,) = server.meter.calls
    TypeAdapter(ResponseCreateParamsStreaming).validate_python(served.body)
    assert (served.body["max_output_tokens"], served.body["store"]) == (99, False)
    items = [item.get("type", item.get("role")) for item in served.body["input"]]
    assert items == ["system", "user", "user", "assistant", "function_call", "function_call_output"]
    assert served.body["input"][1]["content"] == "Athena: What is this?", "the dialect knows no names of speakers"
    shown = [part["type"] for part in served.body["input"][2]["content"]]
    assert shown == ["input_text", "input_text", "input_image", "input_text"]
    assert served.body["tools"][0]["strict"] is False, "silence would mean yes"


async def test_our_request_is_one_that_anthropics_types_allow(server: FakeProvider, http: ProviderHttp) -> None:
    await ask(adapter_of("anthropic", http, server), "anthropic", RICH)
    (served,) = server.meter.calls
    TypeAdapter(MessageCreateParamsStreaming).validate_python(served.body)
    assert (served.body["system"], served.body["max_tokens"]) == ("Be brief.", 99)
    assert served.body["temperature"] == 1.0, "the dialect's own most"
    assert [turn["role"] for turn in served.body["messages"]] == ["user", "assistant", "user"]
    assert served.body["messages"][0]["content"][0]["text"] == "Athena: What is this?"
    assert served.headers["anthropic-version"] == "2023-06-01"


async def test_a_compatible_server_gets_the_older_name_of_the_limit_and_names_as_text(
    server: FakeProvider, http: ProviderHttp
) -> None:
    await ask(
        adapter_of("compatible", http, server), "compatible", a_prompt(messages=(a_message("Hi.", name="Athena"),))
    )
    (served,) = server.meter.calls
    assert served.body["max_tokens"] == 64
    assert served.body["messages"] == [{"role": "user", "content": "Athena: Hi."}]


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
NUMBER = OutputFormat(kind=OutputKind.JSON_SCHEMA, name="number", schema=SCHEMA, strict=True)
SERVERS = {"compatible": COMPATIBLE, "vllm": VLLM, "tgi": TGI, "ollama": OLLAMA, "llama_cpp": LLAMA_CPP}


async def sent(server: FakeProvider, http: ProviderHttp, dialect: str, prompt: Prompt) -> dict[str, Any]:
    """Gives the body that reaches a server, which the types of its SDK allow."""
    if dialect in SERVERS:
        endpoint = Endpoint(base_url=server.openai_base_url, key=Secret(KEY))
        provider: ModelProvider = ChatProvider(http, endpoint, SERVERS[dialect])
    else:
        provider = adapter_of(dialect, http, server)
    deployment = DEPLOYMENTS.get(dialect, DEPLOYMENTS["compatible"])
    await provider.whole(a_provider_call(deployment, prompt, CLEARANCE))
    body = server.meter.calls[-1].body
    if dialect == "openai":
        TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(body)
    if dialect == "responses":
        TypeAdapter(ResponseCreateParamsNonStreaming).validate_python(body)
    if dialect == "anthropic":
        TypeAdapter(MessageCreateParamsNonStreaming).validate_python(body)
    return body


def choosing(mode: ToolChoiceMode, name: str = "", *, parallel: bool | None = None) -> Prompt:
    other = replace(TOOL, name="count")
    return a_prompt(tools=(TOOL, other), tool_choice=ToolChoice(mode=mode, name=name), parallel_tool_calls=parallel)


@pytest.mark.parametrize(
    ("dialect", "prompt", "wanted"),
    [
        ("openai", choosing(ToolChoiceMode.AUTO), None),
        ("openai", choosing(ToolChoiceMode.NONE), "none"),
        ("openai", choosing(ToolChoiceMode.REQUIRED), "required"),
        ("openai", choosing(ToolChoiceMode.TOOL, "count"), {"type": "function", "function": {"name": "count"}}),
        ("responses", choosing(ToolChoiceMode.AUTO), None),
        ("responses", choosing(ToolChoiceMode.NONE), "none"),
        ("responses", choosing(ToolChoiceMode.REQUIRED), "required"),
        ("responses", choosing(ToolChoiceMode.TOOL, "count"), {"type": "function", "name": "count"}),
        ("anthropic", choosing(ToolChoiceMode.AUTO), None),
        ("anthropic", choosing(ToolChoiceMode.NONE), {"type": "none"}),
        ("anthropic", choosing(ToolChoiceMode.REQUIRED), {"type": "any"}),
        ("anthropic", choosing(ToolChoiceMode.TOOL, "count"), {"type": "tool", "name": "count"}),
        (
            "anthropic",
            choosing(ToolChoiceMode.AUTO, parallel=False),
            {"type": "auto", "disable_parallel_tool_use": True},
        ),
        ("llama_cpp", choosing(ToolChoiceMode.REQUIRED), "required"),
    ],
)
async def test_a_choice_of_tools_is_said_in_the_words_of_the_dialect(
    server: FakeProvider, http: ProviderHttp, dialect: str, prompt: Prompt, wanted: object
) -> None:
    assert (await sent(server, http, dialect, prompt)).get("tool_choice") == wanted


async def test_a_server_that_knows_no_names_in_a_choice_is_shown_the_named_tool_only(
    server: FakeProvider, http: ProviderHttp
) -> None:
    body = await sent(server, http, "llama_cpp", choosing(ToolChoiceMode.TOOL, "count"))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["count"]
    assert body["tool_choice"] == "required"
    body = await sent(server, http, "ollama", choosing(ToolChoiceMode.NONE))
    assert "tools" not in body


@pytest.mark.parametrize("dialect", ["openai", "responses"])
async def test_parallel_tool_calls_can_be_switched_off(server: FakeProvider, http: ProviderHttp, dialect: str) -> None:
    body = await sent(server, http, dialect, choosing(ToolChoiceMode.AUTO, parallel=False))
    assert body["parallel_tool_calls"] is False


SAMPLING = Sampling(top_p=0.5, seed=7, frequency_penalty=0.1, presence_penalty=-0.1)


async def test_ways_of_sampling_reach_the_model(server: FakeProvider, http: ProviderHttp) -> None:
    body = await sent(
        server, http, "openai", a_prompt(sampling=replace(SAMPLING, reasoning_effort=ReasoningEffort.LOW))
    )
    assert {name: body[name] for name in ("top_p", "seed", "frequency_penalty", "presence_penalty")} == {
        "top_p": 0.5,
        "seed": 7,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
    }
    assert body["reasoning_effort"] == "low"
    body = await sent(
        server, http, "responses", a_prompt(sampling=Sampling(top_p=0.5, reasoning_effort=ReasoningEffort.LOW))
    )
    assert (body["top_p"], body["reasoning"]) == (0.5, {"effort": "low"})
    body = await sent(server, http, "vllm", a_prompt(sampling=Sampling(top_k=40)))
    assert body["top_k"] == 40
    body = await sent(
        server, http, "anthropic", a_prompt(sampling=Sampling(top_p=0.5, top_k=4, reasoning_effort=ReasoningEffort.LOW))
    )
    assert (body["top_p"], body["top_k"], body["output_config"]) == (0.5, 4, {"effort": "low"})


@pytest.mark.parametrize(
    ("dialect", "prompt", "field"),
    [
        ("openai", a_prompt(sampling=Sampling(top_k=1)), "sampling.top_k"),
        ("responses", a_prompt(sampling=Sampling(seed=1)), "sampling.seed"),
        ("responses", a_prompt(sampling=Sampling(frequency_penalty=1)), "sampling.frequency_penalty"),
        ("responses", a_prompt(stop_sequences=("END",)), "stop_sequences"),
        ("anthropic", a_prompt(sampling=Sampling(seed=1)), "sampling.seed"),
        ("anthropic", a_prompt(sampling=Sampling(presence_penalty=1)), "sampling.presence_penalty"),
        (
            "anthropic",
            a_prompt(sampling=Sampling(reasoning_effort=ReasoningEffort.MINIMAL)),
            "sampling.reasoning_effort",
        ),
        ("compatible", a_prompt(sampling=Sampling(top_k=1)), "sampling.top_k"),
        ("compatible", choosing(ToolChoiceMode.AUTO, parallel=False), "parallel_tool_calls"),
        ("ollama", choosing(ToolChoiceMode.REQUIRED), "tool_choice"),
    ],
)
async def test_what_a_dialect_has_no_words_for_is_refused_by_name_before_anything_is_sent(
    server: FakeProvider, http: ProviderHttp, dialect: str, prompt: Prompt, field: str
) -> None:
    with pytest.raises(ProviderRefused) as refused:
        await sent(server, http, dialect, prompt)
    assert refused.value.metadata["field"] == field
    assert refused.value.charge is Charge.NOTHING
    assert not server.meter.calls


@pytest.mark.parametrize(
    ("dialect", "field", "wanted"),
    [
        (
            "openai",
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA, "strict": True}},
        ),
        (
            "responses",
            "text",
            {"format": {"type": "json_schema", "name": "number", "schema": SCHEMA, "strict": True}},
        ),
        (
            "vllm",
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA, "strict": True}},
        ),
        ("tgi", "response_format", {"type": "json_object", "value": SCHEMA}),
        ("anthropic", "output_config", {"format": {"type": "json_schema", "schema": SCHEMA}}),
    ],
)
async def test_a_schema_is_told_to_a_provider_that_knows_schemas(
    server: FakeProvider, http: ProviderHttp, dialect: str, field: str, wanted: object
) -> None:
    assert (await sent(server, http, dialect, a_prompt(output_format=NUMBER)))[field] == wanted


PDF = DocumentPart(media_type="application/pdf", data=b"%PDF-1.7 pages", title="Bill")
WITH_PDF = a_prompt(messages=(Message(role=MessageRole.USER, parts=(text_part("Sum it up.", USER), Part(PDF, USER))),))
DATA = "JVBERi0xLjcgcGFnZXM="
FILE = {"filename": "Bill", "file_data": f"data:application/pdf;base64,{DATA}"}


@pytest.mark.parametrize(
    ("dialect", "wanted"),
    [
        ("openai", {"type": "file", "file": FILE}),
        ("responses", {"type": "input_file", **FILE}),
        (
            "anthropic",
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": DATA},
                "title": "Bill",
            },
        ),
    ],
)
async def test_a_pdf_is_shown_in_the_words_of_the_dialect(
    server: FakeProvider, http: ProviderHttp, dialect: str, wanted: object
) -> None:
    body = await sent(server, http, dialect, WITH_PDF)
    assert body["input" if dialect == "responses" else "messages"][0]["content"][1] == wanted


@pytest.mark.parametrize("dialect", SERVERS)
async def test_a_server_that_reads_no_pdfs_is_shown_none(
    server: FakeProvider, http: ProviderHttp, dialect: str
) -> None:
    with pytest.raises(ProviderRefused) as refused:
        await sent(server, http, dialect, WITH_PDF)
    assert refused.value.metadata["field"] == "document"
    assert not server.meter.calls


async def test_a_schema_is_told_in_words_where_a_provider_knows_none(server: FakeProvider, http: ProviderHttp) -> None:
    body = await sent(server, http, "compatible", a_prompt(output_format=NUMBER))
    assert "response_format" not in body
    assert body["messages"][0]["role"] == "system"
    assert body["messages"][0]["content"].endswith(json.dumps(SCHEMA, separators=(",", ":")))
    open_schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    body = await sent(server, http, "anthropic", a_prompt(output_format=replace(NUMBER, schema=open_schema)))
    assert "output_config" not in body
    assert '"minimum":1' in body["system"]
    body = await sent(server, http, "openai", a_prompt(output_format=replace(NUMBER, schema=open_schema)))
    assert body["response_format"]["json_schema"]["strict"] is False, "OpenAI refuses to keep to it strictly"
    body = await sent(server, http, "responses", a_prompt(output_format=replace(NUMBER, schema=open_schema)))
    assert body["text"]["format"]["strict"] is False
    body = await sent(server, http, "responses", a_prompt(output_format=OutputFormat(kind=OutputKind.JSON_OBJECT)))
    assert (body["text"], body["input"][0]["role"]) == ({"format": {"type": "json_object"}}, "system")


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic", "compatible"])
@pytest.mark.parametrize(
    ("behaviour", "failure", "charge"),
    [
        (Behaviour(status=400), ProviderRefused, Charge.NOTHING),
        (Behaviour(status=401), ProviderRefused, Charge.NOTHING),
        (Behaviour(status=403), ProviderRefused, Charge.NOTHING),
        (Behaviour(status=404), ProviderRefused, Charge.NOTHING),
        (Behaviour(status=429), ProviderRateLimited, Charge.NOTHING),
        (Behaviour(status=500), ProviderUnavailable, Charge.NOTHING),
        (Behaviour(status=503, raw="<html>busy</html>"), ProviderUnavailable, Charge.NOTHING),
        (Behaviour(status=529), ProviderUnavailable, Charge.NOTHING),
        (Behaviour(status=504), ProviderUnavailable, Charge.UNKNOWN),
        (Behaviour(raw="<html>hello</html>"), ProviderUnavailable, Charge.UNKNOWN),
        (Behaviour(raw='data: {"choices": 7}\n\n'), ProviderUnavailable, Charge.UNKNOWN),
        (Behaviour(raw="data: not json\n\n"), ProviderUnavailable, Charge.UNKNOWN),
        (Behaviour(raw='data: {"choices": [{"x": ' + "[" * 100_000 + "\n\n"), ProviderUnavailable, Charge.UNKNOWN),
        (Behaviour(status=500, raw='{"error": {"x": ' + "[" * 60_000), ProviderUnavailable, Charge.NOTHING),
        (Behaviour(raw=""), ProviderUnavailable, Charge.UNKNOWN),
        (Behaviour(raw="data: " + "x" * (1024 * 1024 + 1)), ProviderUnavailable, Charge.UNKNOWN),
        (Behaviour(cut_after=0), ProviderUnavailable, Charge.UNKNOWN),
        (Behaviour(cut_after=3), ProviderUnavailable, Charge.UNKNOWN),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
async def test_misbehaviour_is_mapped_once(
    server: FakeProvider,
    http: ProviderHttp,
    dialect: str,
    behaviour: Behaviour,
    failure: type[ProviderFailure],
    charge: Charge,
) -> None:
    server.next(behaviour)
    error = await failure_of(adapter_of(dialect, http, server), dialect)
    assert isinstance(error, failure)
    assert error.charge is charge
    assert error.metadata["deployment"] == DEPLOYMENTS[dialect].name


@pytest.mark.parametrize(
    "raw", ["<html>hello", '{"error": {"code": "busy"}}', "Internal Server Error\n", "data: no\n\n"]
)
@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic", "compatible"])
async def test_bytes_that_are_no_event_fail_at_once_though_the_stream_stays_open(
    server: FakeProvider, http: ProviderHttp, dialect: str, raw: str
) -> None:
    server.next(Behaviour(raw=raw, pause=60.0))
    async with asyncio.timeout(5):
        error = await failure_of(adapter_of(dialect, http, server), dialect, seconds=60.0)
    assert type(error) is ProviderUnavailable
    assert error.charge is Charge.UNKNOWN


async def test_an_error_whose_body_does_not_end_is_an_error(server: FakeProvider, http: ProviderHttp) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 99\r\n\r\n{")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as listening, asyncio.timeout(5):
        host, port = listening.sockets[0].getsockname()
        provider = ChatProvider(http, Endpoint(base_url=f"http://{host}:{port}", key=Secret(KEY)))
        error = await failure_of(provider, "openai", seconds=60.0)
    assert error.metadata["status"] == "503"


@pytest.mark.parametrize(
    "behaviour", [Behaviour(raw=""), Behaviour(raw="<html>"), Behaviour(cut_after=0), Behaviour(cut_after=3)]
)
async def test_nobody_is_asked_to_wait_for_a_provider_that_answered_badly(
    server: FakeProvider, http: ProviderHttp, behaviour: Behaviour
) -> None:
    server.next(behaviour)
    error = await failure_of(adapter_of("openai", http, server), "openai")
    assert error.retry_after is not None
    assert error.retry_after.total_seconds() <= 0.1


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
async def test_every_cut_of_a_stream_is_a_failure(server: FakeProvider, http: ProviderHttp, dialect: str) -> None:
    provider = adapter_of(dialect, http, server)
    cuts = 0
    while True:
        server.next(Behaviour(cut_after=cuts))
        try:
            await ask(provider, dialect)
        except ProviderUnavailable:
            cuts += 1
        else:
            break
    assert cuts > 10
    assert len(server.meter.confirmed) == 1, "only the whole stream was taken for an answer"


@pytest.mark.parametrize(
    ("dialect", "event"),
    [
        ("openai", 'data: {"error": {"message": "x", "type": "server_error", "code": "oops"}}\n\n'),
        ("responses", 'data: {"type": "error", "code": "oops", "message": "x", "sequence_number": 3}\n\n'),
        ("responses", 'data: {"type": "error", "error": {"code": "oops", "message": "x"}, "sequence_number": 3}\n\n'),
        (
            "responses",
            'data: {"type": "response.failed", "response": {"error": {"code": "oops", "message": "x"}}}\n\n',
        ),
        (
            "anthropic",
            'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}\n\n',
        ),
    ],
)
async def test_an_error_inside_a_stream_breaks_it_off(
    server: FakeProvider, http: ProviderHttp, dialect: str, event: str
) -> None:
    server.next(Behaviour(raw=event))
    error = await failure_of(adapter_of(dialect, http, server), dialect)
    assert isinstance(error, ProviderUnavailable)
    assert error.metadata["code"] in ("oops", "overloaded_error")


async def test_an_error_inside_a_stream_may_ask_to_wait(server: FakeProvider, http: ProviderHttp) -> None:
    error = {"code": "rate_limit_exceeded", "message": "x"}
    server.next(Behaviour(raw=f'data: {{"type": "response.failed", "response": {{"error": {json.dumps(error)}}}}}\n\n'))
    failure = await failure_of(adapter_of("responses", http, server), "responses")
    assert isinstance(failure, ProviderRateLimited)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "failed", "error": {"code": "server_error", "message": "x"}},
        {"status": "in_progress", "output": []},
        {"status": "incomplete", "incomplete_details": {"reason": "steered"}},
        {"status": "incomplete"},
        {},
    ],
)
async def test_a_response_that_is_not_done_is_no_answer(
    server: FakeProvider, http: ProviderHttp, body: dict[str, Any]
) -> None:
    server.next(Behaviour(raw=json.dumps(body)))
    with pytest.raises(ProviderUnavailable):
        await adapter_of("responses", http, server).whole(
            a_provider_call(DEPLOYMENTS["responses"], a_prompt(), CLEARANCE)
        )


async def test_the_wait_that_a_provider_asks_for_is_passed_on(server: FakeProvider, http: ProviderHttp) -> None:
    provider = adapter_of("openai", http, server)
    for name, value, seconds in (("retry-after", "7", 7.0), ("retry-after-ms", "250", 0.25)):
        server.next(Behaviour(status=429, headers=((name, value),)))
        error = await failure_of(provider, "openai")
        assert error.retry_after is not None
        assert error.retry_after.total_seconds() == seconds


async def test_a_wrong_key_is_refused_and_never_repeated_in_the_error(server: FakeProvider, http: ProviderHttp) -> None:
    for dialect in ("openai", "responses", "anthropic"):
        error = await failure_of(adapter_of(dialect, http, server, key="sk-wrong-secret"), dialect)
        assert isinstance(error, ProviderRefused)
        assert "wrong-secret" not in str(error) + repr(error.metadata)


async def test_nobody_at_the_address_costs_nothing(http: ProviderHttp, server: FakeProvider) -> None:
    provider = ChatProvider(http, Endpoint(base_url="http://127.0.0.1:1/v1", key=Secret(KEY)))
    error = await failure_of(provider, "openai")
    assert isinstance(error, ProviderUnavailable)
    assert error.charge is Charge.NOTHING


async def test_an_answer_that_takes_too_long_may_be_billed(http: ProviderHttp, server: FakeProvider) -> None:
    server.next(Behaviour(wait=5))
    error = await failure_of(adapter_of("openai", http, server), "openai", seconds=0.05)
    assert (type(error), error.charge) == (ProviderUnavailable, Charge.UNKNOWN)


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
async def test_closing_the_stream_reaches_the_provider(http: ProviderHttp, server: FakeProvider, dialect: str) -> None:
    server.next(Behaviour(text="word " * 500, pause=0.02))
    stream = adapter_of(dialect, http, server).stream(
        a_provider_call(DEPLOYMENTS[dialect], a_prompt(), CLEARANCE, seconds=30)
    )
    assert isinstance(await anext(stream), TextDelta)
    await stream.aclose()
    await server.until(lambda meter: meter.calls[0].abandoned)
    assert not server.meter.confirmed


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
async def test_cancelling_the_asker_reaches_the_provider(
    http: ProviderHttp, server: FakeProvider, dialect: str
) -> None:
    server.next(Behaviour(wait=30))
    asking = asyncio.ensure_future(ask(adapter_of(dialect, http, server), dialect, seconds=60))
    await server.until(lambda meter: meter.calls)
    asking.cancel()
    await asyncio.wait([asking])
    await server.until(lambda meter: meter.calls[0].abandoned)


async def test_a_server_that_reports_no_usage_leaves_it_unknown(http: ProviderHttp, server: FakeProvider) -> None:
    server.next(Behaviour(usage=False))
    _, finished = await ask(adapter_of("compatible", http, server), "compatible")
    assert finished.usage is None


async def test_a_compatible_server_may_leave_out_the_done_at_the_end(http: ProviderHttp, server: FakeProvider) -> None:
    server.next(Behaviour(done=False), Behaviour(done=False))
    text, _ = await ask(adapter_of("compatible", http, server), "compatible")
    assert text == Behaviour().text
    assert isinstance(await failure_of(adapter_of("openai", http, server), "openai"), ProviderUnavailable)


#: How servers that speak the dialect depart from it, as their documentation and issues show.
QUIRKS = {
    "ollama-tool-call-without-index": (
        (
            '{"choices":[{"index":0,"delta":{"role":"assistant","content":"","tool_calls":[{"id":"call_9","type":"function",'
            '"function":{"name":"search","arguments":"{\\"q\\":1}"}}]},"finish_reason":null}]}'
        ),
        '{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}',
    ),
    "tgi-arguments-as-an-object": (
        (
            '{"choices":[{"index":0,"delta":{"tool_calls":{"index":0,"id":"","function":{"name":"search",'
            '"arguments":{"q":1}}}},"finish_reason":"eos_token"}]}'
        ),
    ),
    "vllm-null-details": (
        (
            '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"search",'
            '"arguments":"{\\"q\\":"}}]}}]}'
        ),
        '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":" 1}"}}]}}]}',
        '{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls","stop_reason":null}]}',
        '{"choices":[],"usage":{"prompt_tokens":4,"total_tokens":9,"completion_tokens":5,"prompt_tokens_details":null}}',
    ),
}


@pytest.mark.parametrize("quirk", QUIRKS)
async def test_tool_calls_are_read_through_the_quirks_of_servers(
    http: ProviderHttp, server: FakeProvider, quirk: str
) -> None:
    server.next(Behaviour(raw="".join(f"data: {chunk}\n\n" for chunk in QUIRKS[quirk]) + "data: [DONE]\n\n"))
    _, finished = await ask(adapter_of("compatible", http, server), "compatible")
    (call,) = finished.tool_calls
    assert (call.name, dict(call.arguments)) == ("search", {"q": 1})
    assert call.tool_call_id
    assert finished.stop_reason is StopReason.TOOL_CALLS


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
async def test_a_tool_call_that_makes_no_sense_is_paid_for_and_not_taken(
    http: ProviderHttp, server: FakeProvider, dialect: str
) -> None:
    server.next(Behaviour(text="", tool_calls=(("c", "search", '{"q": tru'),)))
    error = await failure_of(adapter_of(dialect, http, server), dialect)
    assert isinstance(error, ProviderUnavailable)
    assert isinstance(error.charge, Usage), "the provider reported usage, so it is owed"


async def test_embeddings_come_back_in_order_and_at_length_one(http: ProviderHttp, server: FakeProvider) -> None:
    embedder = OpenAiEmbeddings(http, Endpoint(base_url=server.openai_base_url, key=Secret(KEY)))
    deployment = replace(DEPLOYMENTS["openai"], model="text-embedding-3-small", task=Task.EMBED)
    made = await embedder.embed(deployment, ("one", "three"), CLEARANCE, seconds=5)
    async with openai.AsyncOpenAI(base_url=server.openai_base_url, api_key=KEY, max_retries=0) as client:
        same = await client.embeddings.create(
            model="text-embedding-3-small", input=["one", "three"], encoding_format="float"
        )
    for ours, theirs in zip(made.vectors, same.data, strict=True):
        length = sum(value * value for value in theirs.embedding) ** 0.5
        assert ours == pytest.approx([value / length for value in theirs.embedding])
    assert made.usage == Usage(input=same.usage.prompt_tokens)


@pytest.mark.parametrize(
    "raw", ['{"data": []}', '{"data": [{"embedding": []}]}', '{"data": [{"embedding": [0.0]}]}', "nonsense", "{}"]
)
async def test_vectors_that_are_none_are_refused(http: ProviderHttp, server: FakeProvider, raw: str) -> None:
    embedder = OpenAiEmbeddings(http, Endpoint(base_url=server.openai_base_url, key=Secret(KEY)))
    server.next(Behaviour(raw=raw))
    with pytest.raises(ProviderUnavailable):
        await embedder.embed(DEPLOYMENTS["openai"], ("one",), CLEARANCE, seconds=5)


async def test_the_longest_vectors_are_taken_and_longer_ones_are_garbage(
    http: ProviderHttp, server: FakeProvider
) -> None:
    embedder = OpenAiEmbeddings(http, Endpoint(base_url=server.openai_base_url, key=Secret(KEY)))
    written = ",".join(["-0.012345678901234567"] * 8_192)
    server.next(Behaviour(raw=f'{{"data":[{{"embedding":[{written}]}}]}}'))
    made = await embedder.embed(DEPLOYMENTS["openai"], ("one",), CLEARANCE, seconds=5)
    assert len(made.vectors[0]) == 8_192
    server.next(Behaviour(raw=f'{{"data":[{{"embedding":[{",".join(["1"] * 8_193)}]}}]}}'))
    with pytest.raises(ProviderUnavailable):
        await embedder.embed(DEPLOYMENTS["openai"], ("one",), CLEARANCE, seconds=5)


@pytest.mark.parametrize("components", [20_000, 1_000_000], ids=["many", "more bytes than are read"])
async def test_more_components_than_the_texts_can_have_are_not_even_decoded(
    http: ProviderHttp, server: FakeProvider, monkeypatch: pytest.MonkeyPatch, components: int
) -> None:
    decoder = Mock()
    monkeypatch.setattr(embeddings, "_DECODER", decoder)
    embedder = OpenAiEmbeddings(http, Endpoint(base_url=server.openai_base_url, key=Secret(KEY)))
    server.next(Behaviour(raw=f'{{"data":[{{"embedding":[{",".join(["1"] * components)}]}}]}}'))
    with pytest.raises(ProviderUnavailable):
        await embedder.embed(DEPLOYMENTS["openai"], ("one",), CLEARANCE, seconds=5)
    decoder.decode.assert_not_called()
