"""One suite for both forms of an adapter: the same provider, asked by us and by its official client, says the same."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

from services.inference.domain.answer import Piece, TextDelta, Whole
from services.inference.domain.deployment import Adapter, AdapterForm, DeploymentVersion
from services.inference.domain.errors import Charge, EgressRefused, ProviderFailure, ProviderUnavailable
from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import (
    Prompt,
    ReasoningEffort,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
)
from services.inference.providers import sdk_form
from services.inference.providers.catalogue import CATALOGUE
from services.inference.providers.egress import Egress, EgressRule
from services.inference.providers.http import HOLD_HEADER, ProviderHttp, provider_http
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.ports import ModelProvider
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.content import (
    DocumentPart,
    ImageDetail,
    ImagePart,
    Message,
    MessageRole,
    Part,
    ToolCallPart,
    ToolResultPart,
    text_part,
)
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret
from tests.support.inference import USER, a_message, a_prompt, a_provider_call
from tests.support.providers.fake import KEY, Behaviour, FakeProvider, fake_provider
from tests.support.record_fixtures import FIXTURES

CLEARANCE: Final = Clearance(hold=DispatchedHold(id="hold_1", amount=NanoUsd(1)), verdict_id="verdict_1")
ADAPTERS: Final = tuple(adapter for adapter, spec in CATALOGUE.items() if AdapterForm.SDK in spec.forms)
#: Which fixtures an adapter reads.
DIALECTS: Final = {"openai": "openai", "azure": "openai", "openai_responses": "responses", "anthropic": "anthropic"}
OUTSIDE: Final = "203.0.113.7"


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one call, in either form."""

    #: Pieces of a stream, or the whole.
    said: list[Piece] | Whole
    failure: tuple[object, ...] | None = None


@pytest.fixture(scope="module", autouse=True)
def _clients_are_loaded() -> None:
    """Once for all: it takes longer than any answer."""
    import_module("services.inference.providers.anthropic.sdk")
    import_module("services.inference.providers.openai.sdk")


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with fake_provider() as provider:
        yield provider


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    async with provider_http(connections=4) as opened:
        yield opened


def deployment_of(adapter: str) -> DeploymentVersion:
    return DeploymentVersion(name=f"acme/{adapter}", adapter=adapter, model="gpt-4o-mini")


def opened(
    adapter: str, form: AdapterForm, http: ProviderHttp, server: FakeProvider, *, key: str = KEY
) -> ModelProvider:
    address = server.anthropic_base_url if adapter == Adapter.ANTHROPIC else server.openai_base_url
    return CATALOGUE[adapter].opened(form, http, Endpoint(base_url=address, key=Secret(key)))


async def heard(provider: ModelProvider, adapter: str, prompt: Prompt, *, stream: bool, seconds: float = 5.0) -> Heard:
    """Asks and gives what came, a failure with all that it says."""
    call = a_provider_call(deployment_of(adapter), prompt, CLEARANCE, seconds=seconds)
    pieces: list[Piece] = []
    try:
        if not stream:
            return Heard(await provider.whole(call))
        async with aclosing(provider.stream(call)) as coming:
            async for piece in coming:
                pieces.append(piece)  # noqa: PERF401 - what came before a failure counts
    except ProviderFailure as failure:
        told = (type(failure), failure.message, failure.charge, failure.retry_after, failure.metadata)
        return Heard(pieces, failure=told)
    return Heard(pieces)


async def both(
    server: FakeProvider,
    http: ProviderHttp,
    adapter: str,
    *behaviours: Behaviour,
    prompt: Prompt | None = None,
    stream: bool,
    key: str = KEY,
) -> Heard:
    """Asks in both forms, holds what came against each other, and gives it."""
    found: list[Heard] = []
    for form in AdapterForm:
        server.next(*behaviours)
        provider = opened(adapter, form, http, server, key=key)
        found.append(await heard(provider, adapter, prompt or a_prompt(), stream=stream))
    wire, sdk = found
    assert sdk == wire
    return wire


def fixtures_of(adapter: str) -> list[Path]:
    return sorted(FIXTURES.glob(f"{DIALECTS[adapter]}_*.json"))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("adapter", "path"),
    [pytest.param(adapter, path, id=f"{adapter}-{path.stem}") for adapter in ADAPTERS for path in fixtures_of(adapter)],
)
async def test_every_golden_answer_is_read_alike(
    server: FakeProvider, http: ProviderHttp, adapter: str, path: Path, stream: bool
) -> None:
    fixture = json.loads(path.read_text())  # noqa: ASYNC240
    raw = fixture["stream"] if stream else json.dumps(fixture["whole"])
    found = await both(server, http, adapter, Behaviour(raw=raw), stream=stream)
    assert found.failure is None
    assert found.said


SAID: Final = {
    "thinking": Behaviour(thinking="Rivers? Seas?", text="Yes.", reasoning_tokens=3),
    "cached": Behaviour(prompt_tokens=50, cached_tokens=40),
    "no-usage": Behaviour(usage=False),
    "contradicting-usage": Behaviour(prompt_tokens=5, cached_tokens=40),
    "nothing": Behaviour(text=""),
    "parallel-tools": Behaviour(text="", tool_calls=(("c1", "search", '{"q": "é\\n"}'), ("c2", "search", "{}"))),
    "tool-call-of-no-sense": Behaviour(text="", tool_calls=(("c", "search", '{"q": tru'),)),
    "letters": Behaviour(text='— 🚋 \u2028 "quoted"\r\n\\ done'),
}
#: Failures, each by what makes it.
FAILED: Final = {
    "status-400": Behaviour(status=400),
    "status-401": Behaviour(status=401),
    "status-403": Behaviour(status=403),
    "status-404": Behaviour(status=404),
    "status-408": Behaviour(status=408),
    "status-409": Behaviour(status=409),
    "wait": Behaviour(status=429, headers=(("retry-after", "7"),)),
    "wait-ms": Behaviour(status=429, headers=(("retry-after-ms", "250"),)),
    "wait-unsaid": Behaviour(status=429),
    "status-500": Behaviour(status=500),
    "page": Behaviour(status=503, raw="<html>busy</html>"),
    "gateway": Behaviour(status=504),
    "overloaded": Behaviour(status=529, headers=(("retry-after", "2"),)),
    "redirect": Behaviour(status=307, headers=(("location", "/v2"),)),
    "hello": Behaviour(raw="<html>hello</html>"),
    "empty": Behaviour(raw=""),
    "list": Behaviour(raw="[]"),
    # Named, since Anthropic's client passes over events without a name, as its dialect has none.
    "number": Behaviour(raw="event: message_start\ndata: 7\n\n"),
    "not-json": Behaviour(raw="event: message_start\ndata: not json\n\n"),
    "wrong-types": Behaviour(raw='event: message_start\ndata: {"type": 7, "choices": 7}\n\n'),
    "deep": Behaviour(raw='event: message_start\ndata: {"choices": [{"x": ' + "[" * 100_000 + "\n\n"),
    "long-line": Behaviour(raw="data: " + "x" * (1024 * 1024 + 1)),
    "cut-at-once": Behaviour(cut_after=0),
    "cut": Behaviour(cut_after=3),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("case", SAID)
async def test_what_is_said_is_heard_alike(
    server: FakeProvider, http: ProviderHttp, adapter: str, case: str, stream: bool
) -> None:
    await both(server, http, adapter, SAID[case], stream=stream)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("case", FAILED)
async def test_what_fails_fails_alike(
    server: FakeProvider, http: ProviderHttp, adapter: str, case: str, stream: bool
) -> None:
    found = await both(server, http, adapter, FAILED[case], stream=stream)
    assert found.failure is not None
    if case == "wait":
        assert found.failure[3] == timedelta(seconds=7)


EVENTS: Final = {
    "openai": 'data: {"error": {"message": "x", "type": "server_error", "code": "oops"}}\n\n',
    "azure": 'data: {"error": {"message": "x", "code": "rate_limit_exceeded"}}\n\n',
    "openai_responses": 'data: {"type": "error", "code": "oops", "message": "x", "sequence_number": 3}\n\n',
    "anthropic": 'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}\n\n',
}
FAILED_RESPONSE: Final = '{"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}}'


#: Answers of 200,000 objects, and as many in a place where the wire form reads nothing: where % stands.
ODD: Final = {
    "openai": (
        '{"choices": [%]}',
        '{"choices": [{"message": {"tool_calls": [%]}}]}',
        '{"choices": [{"logprobs": [%]}]}',
    ),
    "azure": ('{"choices": [%]}', '{"prompt_filter_results": [%]}'),
    "openai_responses": (
        '{"output": [%]}',
        '{"output": [{"content": [%]}]}',
        '{"output": [{"summary": [%]}]}',
        '{"type": "response.completed", "response": {"output": [%]}}',
        '{"type": "response.output_item.done", "item": {"annotations": [%]}}',
    ),
    "anthropic": (
        '{"type": "message", "content": [%]}',
        '{"type": "message", "content": [{"type": "text", "citations": [%]}]}',
        '{"type": "message_start", "message": {"content": [%]}}',
    ),
}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many objects clients were given to read, each time that they read."""
    counts: list[int] = []
    loads = json.loads

    def counted(text: str | bytes, **options: Any) -> Any:
        counts.append(text.count("{") if isinstance(text, str) else text.count(b"{"))
        return loads(text, **options)

    monkeypatch.setattr(json, "loads", counted)
    return counts


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("adapter", "odd"), [(adapter, odd) for adapter, odds in ODD.items() for odd in odds])
async def test_a_client_is_not_given_more_objects_than_an_answer_has(
    server: FakeProvider, http: ProviderHttp, adapter: str, odd: str, stream: bool, given: list[int]
) -> None:
    kind = json.loads(odd.replace("%", "")).get("type", "message")
    body = odd.replace("%", ",".join(["{}"] * 200_000))
    server.next(Behaviour(raw=f"event: {kind}\ndata: {body}\n\n" if stream else body))
    provider = opened(adapter, AdapterForm.SDK, http, server)
    found = await heard(provider, adapter, a_prompt(max_output_tokens=8_192), stream=stream)
    assert found.failure is not None
    assert (found.failure[0], found.failure[2]) == (ProviderUnavailable, Charge.UNKNOWN)
    assert "no answer" in str(found.failure[1])
    assert max(given) < 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_reads_no_more_bytes_than_the_limit_of_the_answer_allows(
    server: FakeProvider, http: ProviderHttp, stream: bool, given: list[int]
) -> None:
    long = json.dumps({"choices": [{"delta": {"content": "x" * 90_000}}]})
    server.next(Behaviour(raw=f"data: {long}\n\n" * 4 if stream else long))
    provider = opened("openai", AdapterForm.SDK, http, server)
    found = await heard(provider, "openai", a_prompt(max_output_tokens=16), stream=stream)
    assert found.failure is not None
    assert "no answer" in str(found.failure[1])


async def test_a_client_reads_no_more_objects_in_a_stream_than_its_tokens_need(
    server: FakeProvider, http: ProviderHttp
) -> None:
    server.next(Behaviour(raw='data: {"choices":[{}]}\n\n' * 2_000))
    provider = opened("openai", AdapterForm.SDK, http, server)
    found = await heard(provider, "openai", a_prompt(max_output_tokens=16), stream=True)
    assert found.failure is not None
    assert "no answer" in str(found.failure[1])


ROWS: Final = [{"row": number, "cells": [number]} for number in range(1_000)]
MANY_TOOLS: Final = [{"type": "function", "name": f"tool_{n}", "parameters": {"a": [{}] * 20}} for n in range(30)]
#: Long answers that make sense.
LONG: Final = {
    "openai": {
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "tool_calls": [
                        {
                            "id": f"call_{n}",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a": [{}, {}]}'},
                        }
                        for n in range(40)
                    ]
                },
            }
        ]
    },
    "anthropic": {
        "type": "message",
        "stop_reason": "tool_use",
        "content": [{"type": "tool_use", "id": "call_1", "name": "write", "input": {"rows": ROWS}}],
    },
    "openai_responses": {
        "status": "completed",
        "instructions": [{"type": "message", "content": []}] * 100,
        "text": {"format": {"type": "json_schema", "schema": {"anyOf": [{}] * 200}}},
        "tools": MANY_TOOLS,
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Yes.", "annotations": []}]}],
    },
}


@pytest.mark.parametrize("adapter", LONG)
async def test_a_long_answer_that_makes_sense_is_heard_alike(
    server: FakeProvider, http: ProviderHttp, adapter: str
) -> None:
    prompt = a_prompt(max_output_tokens=8_192)
    found = await both(server, http, adapter, Behaviour(raw=json.dumps(LONG[adapter])), prompt=prompt, stream=False)
    assert found.failure is None
    if adapter == "openai_responses":
        event = json.dumps({"type": "response.completed", "response": LONG[adapter]})
        found = await both(server, http, adapter, Behaviour(raw=f"data: {event}\n\n"), prompt=prompt, stream=True)
        assert found.failure is None


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_an_error_inside_a_stream_is_told_alike(server: FakeProvider, http: ProviderHttp, adapter: str) -> None:
    found = await both(server, http, adapter, Behaviour(raw=EVENTS[adapter]), stream=True)
    assert found.failure is not None
    raw = f"event: response.failed\ndata: {FAILED_RESPONSE}\n\n"
    await both(server, http, "openai_responses", Behaviour(raw=raw), stream=True)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_every_cut_of_a_stream_is_heard_alike(server: FakeProvider, http: ProviderHttp, adapter: str) -> None:
    found, cuts = Heard([], failure=("not asked",)), 0
    while found.failure is not None:
        cuts += 1
        found = await both(server, http, adapter, Behaviour(text="One two.", cut_after=cuts), stream=True)
    assert cuts > 5


TOOL: Final = ToolDefinition(
    name="search", description="Finds.", input_schema={"properties": {"q": {"type": "string"}}}
)
CALL: Final = ToolCallPart(tool_call_id="call_1", name="search", arguments={"q": "trams"})
PDF: Final = DocumentPart(media_type="application/pdf", data=b"%PDF-1.4", title="Page")
PROMPTS: Final = {
    "text": a_prompt(messages=(a_message("Be brief.", MessageRole.SYSTEM), a_message("What?", name="Athena"))),
    "tools": a_prompt(
        messages=(
            a_message("Search."),
            Message(role=MessageRole.ASSISTANT, parts=(text_part("I will.", USER), Part(CALL, USER))),
            Message(
                role=MessageRole.TOOL,
                parts=(Part(ToolResultPart(tool_call_id="call_1", name="search", text="found"), USER),),
            ),
        ),
        tools=(TOOL,),
        tool_choice=ToolChoice(mode=ToolChoiceMode.TOOL, name="search"),
        parallel_tool_calls=False,
    ),
    "schema": a_prompt(
        output_format=OutputFormat(
            kind=OutputKind.JSON_SCHEMA,
            name="number",
            schema={
                "type": "object",
                "properties": {"n": {"type": "integer"}},
                "required": ["n"],
                "additionalProperties": False,
            },
            strict=True,
        )
    ),
    "json": a_prompt(output_format=OutputFormat(kind=OutputKind.JSON_OBJECT)),
    "picture": a_prompt(
        messages=(
            Message(
                role=MessageRole.USER,
                parts=(
                    text_part("Look:", USER),
                    Part(ImagePart(media_type="image/png", data=b"\x89PNG", detail=ImageDetail.HIGH), USER),
                ),
            ),
        )
    ),
    "document": a_prompt(messages=(Message(role=MessageRole.USER, parts=(Part(PDF, USER),)),)),
    "sampling": a_prompt(temperature=0.5, sampling=Sampling(top_p=0.5, reasoning_effort=ReasoningEffort.LOW)),
    "stops": a_prompt(stop_sequences=("END",)),
    "top-k": a_prompt(sampling=Sampling(top_k=3)),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("case", PROMPTS)
async def test_what_is_asked_is_the_same_body_and_the_same_headers(
    server: FakeProvider, http: ProviderHttp, adapter: str, case: str, stream: bool
) -> None:
    await both(server, http, adapter, Behaviour(), prompt=PROMPTS[case], stream=stream)
    if not server.meter.calls:
        return  # Neither could tell it, and both said so.
    wire, sdk = server.meter.calls
    assert sdk.body == wire.body
    assert sdk.headers == {**wire.headers, "content-length": sdk.headers["content-length"]}
    assert sdk.hold_id == "hold_1"


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_wrong_key_is_refused_alike_and_repeated_nowhere(
    server: FakeProvider, http: ProviderHttp, adapter: str
) -> None:
    found = await both(server, http, adapter, stream=True, key="sk-wrong-secret")
    assert found.failure is not None
    assert "wrong-secret" not in str(found.failure)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_client_repeats_nothing_and_takes_nothing_from_the_environment(
    server: FakeProvider, http: ProviderHttp, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "of-the-environment")
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{OUTSIDE}:3128")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-said: of-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-said: of-the-environment")
    server.next(Behaviour(status=503))
    found = await heard(opened(adapter, AdapterForm.SDK, http, server), adapter, a_prompt(), stream=False)
    assert found.failure is not None
    (served,) = server.meter.calls
    assert "of-the-environment" not in str(served.headers)
    assert served.headers["user-agent"] == "comitia-inference"
    assert served.headers[HOLD_HEADER] == "hold_1"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("host", [OUTSIDE, "[2001:4860:4860::8888]", "169.254.169.254"])
async def test_a_client_has_no_way_around_the_rule_of_egress(
    adapter: str, host: str, stream: bool, refused_addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://{OUTSIDE}:3128")
    async with provider_http(connections=4, egress=EgressRule(Egress.MESH)) as http:
        endpoint = Endpoint(base_url=f"http://{host}:9/v1", key=Secret(KEY))
        provider = CATALOGUE[adapter].opened(AdapterForm.SDK, http, endpoint)
        found = await heard(provider, adapter, a_prompt(), stream=stream)
    assert found.failure is not None
    assert (found.failure[0], found.failure[2]) == (EgressRefused, Charge.NOTHING)
    assert refused_addresses == []


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_redirect_outside_is_not_followed_by_a_client(
    server: FakeProvider, adapter: str, refused_addresses: list[str]
) -> None:
    server.next(Behaviour(status=307, headers=(("location", f"http://{OUTSIDE}/v1"),)))
    async with provider_http(connections=4, egress=EgressRule(Egress.MESH)) as http:
        found = await heard(opened(adapter, AdapterForm.SDK, http, server), adapter, a_prompt(), stream=False)
    assert found.failure is not None
    assert (found.failure[0], refused_addresses) == (EgressRefused, [])


@pytest.mark.parametrize("form", AdapterForm)
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_closing_a_stream_closes_its_socket_at_once(
    http: ProviderHttp, server: FakeProvider, adapter: str, form: AdapterForm
) -> None:
    server.next(Behaviour(text="word " * 500, pause=0.02))
    provider = opened(adapter, form, http, server)
    call = a_provider_call(deployment_of(adapter), a_prompt(), CLEARANCE, seconds=30)
    stream = provider.stream(call)
    assert isinstance(await anext(stream), TextDelta)
    await stream.aclose()
    await server.until(lambda meter: meter.calls[0].abandoned)


@pytest.mark.parametrize("form", AdapterForm)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_cancelling_the_asker_reaches_the_provider(
    http: ProviderHttp, server: FakeProvider, adapter: str, stream: bool, form: AdapterForm
) -> None:
    server.next(Behaviour(wait=30))
    provider = opened(adapter, form, http, server)
    asking = asyncio.ensure_future(heard(provider, adapter, a_prompt(), stream=stream, seconds=60.0))
    await server.until(lambda meter: meter.calls)
    asking.cancel()
    await asyncio.wait([asking])
    await server.until(lambda meter: meter.calls[0].abandoned)
    assert asking.cancelled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_client_waits_no_longer_than_it_may(
    http: ProviderHttp, server: FakeProvider, adapter: str, stream: bool
) -> None:
    provider = opened(adapter, AdapterForm.SDK, http, server)
    # Whoever asks first has the client loaded, and what was not sent by then was for nothing.
    assert (await heard(provider, adapter, a_prompt(), stream=stream, seconds=60.0)).failure is None
    server.next(Behaviour(wait=30))
    found = await heard(provider, adapter, a_prompt(), stream=stream, seconds=0.5)
    assert found.failure is not None
    assert (found.failure[0], found.failure[2]) == (ProviderUnavailable, Charge.UNKNOWN)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_stream_that_falls_silent_is_given_up_by_a_client_too(
    http: ProviderHttp, server: FakeProvider, adapter: str
) -> None:
    call = a_provider_call(deployment_of(adapter), a_prompt(), CLEARANCE, seconds=30)
    for changed in ({"first_byte_seconds": 0.1}, {"between_seconds": 0.1}):
        server.next(Behaviour(wait=5) if "first_byte_seconds" in changed else Behaviour(pause=5))
        with pytest.raises(ProviderUnavailable, match="in time"):
            async for _ in opened(adapter, AdapterForm.SDK, http, server).stream(replace(call, **changed)):
                pass


async def test_calls_at_the_same_time_keep_their_own_holds(http: ProviderHttp, server: FakeProvider) -> None:
    provider = opened("openai", AdapterForm.SDK, http, server)

    async def ask(number: int) -> None:
        clearance = replace(CLEARANCE, hold=replace(CLEARANCE.hold, id=f"hold_{number}"))
        call = a_provider_call(deployment_of("openai"), a_prompt(messages=(a_message(f"No {number}."),)), clearance)
        await provider.whole(call)

    await asyncio.gather(*(ask(number) for number in range(8)))
    said = {served.hold_id: served.body["messages"][0]["content"] for served in server.meter.calls}
    assert said == {f"hold_{number}": f"No {number}." for number in range(8)}


async def test_a_client_that_is_not_loaded_in_time_has_sent_nothing(http: ProviderHttp, server: FakeProvider) -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(opened_http: ProviderHttp, endpoint: Endpoint) -> ModelProvider:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
        return sdk_form.chat_client(opened_http, endpoint)

    provider = sdk_form.LoadedLate(http, Endpoint(base_url=server.openai_base_url, key=Secret(KEY)), load=slow)
    found = await heard(provider, "openai", a_prompt(), stream=False, seconds=0.05)
    released.set()
    assert found.failure is not None
    assert (found.failure[2], server.meter.calls) == (Charge.NOTHING, [])
    assert (await heard(provider, "openai", a_prompt(), stream=True)).failure is None


def test_clients_are_not_loaded_before_they_are_asked() -> None:
    said = (
        "import sys, services.inference.wiring, services.inference.providers.catalogue;"
        "print(sorted({'openai', 'anthropic', 'httpx2'} & set(sys.modules)))"
    )
    made = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout.strip() == "[]"
