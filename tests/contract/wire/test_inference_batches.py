"""Our batch adapters against the official SDKs: what is sent and read has their types, and faults have their price."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from anthropic.types.messages.batch_create_params import BatchCreateParams as AnthropicBatchParams
from openai.types import Batch, FileObject
from openai.types.batch_create_params import BatchCreateParams
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from services.inference.domain.answer import StopReason
from services.inference.domain.errors import Charge, ProviderFailure, ProviderRateLimited, ProviderRefused
from services.inference.domain.prompt import Sampling
from services.inference.providers.http import ProviderHttp, provider_http
from services.inference.usecases.batch_ports import BatchProgress, BatchResult
from services.meshkit.content import Usage
from tests.support.batch_exchanges import (
    DEPLOYMENTS,
    FIXTURES,
    OUR_BATCH,
    PROMPTS,
    BatchDialect,
    batcher_of,
    calls_of,
    exchanged,
)
from tests.support.inference import a_prompt
from tests.support.providers.fake import KEY, FakeProvider, fake_provider

BOTH: list[BatchDialect] = ["openai", "anthropic"]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
async def server() -> AsyncIterator[FakeProvider]:
    async with fake_provider() as provider:
        yield provider


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    async with provider_http(connections=4) as opened:
        yield opened


def fixture_of(dialect: BatchDialect) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{dialect}.json").read_text())


@pytest.mark.parametrize("dialect", BOTH)
async def test_the_fixtures_are_what_goes_over_the_wire_today(dialect: BatchDialect) -> None:
    made, _ = await exchanged(dialect)
    kept = fixture_of(dialect)
    assert kept["synthetic"]
    assert {**kept, "sdk": None} == {**json.loads(json.dumps(made)), "sdk": None}


def test_what_openai_is_sent_and_answers_is_what_its_sdk_knows() -> None:
    fixture = fixture_of("openai")
    asked = {one["request"]: one for one in fixture["exchanges"]}
    TypeAdapter(BatchCreateParams).validate_python(asked["POST /v1/batches"]["body"])
    FileObject.model_validate(asked["POST /v1/files"]["answer"][0])
    jobs = [
        one["answer"][0] for name, one in asked.items() if name.startswith(("GET /v1/batches/", "POST /v1/batches"))
    ]
    for job in (*jobs, *asked["GET /v1/batches?limit=100"]["answer"][0]["data"]):
        Batch.model_validate(job)
    lines = fixture["files"]["file-1"]
    assert [line["custom_id"] for line in lines] == list(PROMPTS)
    for line in lines:
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(line["body"])
    for line in fixture["files"]["file-batch_1-output"]:
        ChatCompletion.model_validate(line["response"]["body"])


def test_what_anthropic_is_sent_and_answers_is_what_its_sdk_knows() -> None:
    asked = {one["request"]: one for one in fixture_of("anthropic")["exchanges"]}
    sent = asked["POST /v1/messages/batches"]
    TypeAdapter(AnthropicBatchParams).validate_python(sent["body"])
    assert [one["custom_id"] for one in sent["body"]["requests"]] == list(PROMPTS)
    listed = asked["GET /v1/messages/batches?limit=100"]["answer"][0]["data"]
    for batch in (sent["answer"][0], asked["GET /v1/messages/batches/msgbatch_1"]["answer"][0], *listed):
        MessageBatch.model_validate(batch)
    for line in asked["GET /v1/messages/batches/msgbatch_1/results"]["answer"]:
        MessageBatchIndividualResponse.model_validate(line)


@pytest.mark.parametrize("dialect", BOTH)
async def test_results_are_read_by_their_holds(dialect: BatchDialect) -> None:
    _, results = await exchanged(dialect)
    by_name = {result.name: result for result in results}
    text, tools, refused, late = (by_name[name] for name in PROMPTS)
    assert text.answer is not None
    assert (text.answer.text, text.answer.finished.stop_reason) == ("They carry many.", StopReason.STOP)
    assert isinstance(text.answer.finished.usage, Usage)
    assert tools.answer is not None
    assert [dict(call.arguments) for call in tools.answer.finished.tool_calls] == [{"query": "trams"}]
    assert isinstance(refused.failure, ProviderRefused)
    assert refused.failure.charge is Charge.NOTHING
    assert late == BatchResult(name="hold_late", not_asked="BATCH_EXPIRED")


@pytest.mark.parametrize("dialect", BOTH)
async def test_a_result_that_cannot_be_read_keeps_no_other_from_being_read(
    server: FakeProvider, http: ProviderHttp, dialect: BatchDialect
) -> None:
    batcher, deployment = batcher_of(dialect, http, server), DEPLOYMENTS[dialect]
    name = await batcher.submit(OUR_BATCH, calls_of(dialect))
    torn, *others = PROMPTS
    server.batches.all[-1].torn = {torn}
    assert (await batcher.look(deployment, name)).ended
    read: list[str] = []
    with pytest.raises(ProviderFailure):
        async for result in batcher.results(deployment, name):
            read.append(result.name)  # noqa: PERF401  # it raises in the end
    assert read == others


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    ("mishap", "reason", "charge"),
    [
        ("busy", ProviderRateLimited.reason, Charge.NOTHING),
        ("refused", ProviderRefused.reason, Charge.NOTHING),
        ("unavailable", "PROVIDER_UNAVAILABLE", Charge.NOTHING),
        ("taken and broken off", "PROVIDER_UNAVAILABLE", Charge.UNKNOWN),
        ("taken and failed", "PROVIDER_UNAVAILABLE", Charge.UNKNOWN),
    ],
)
async def test_a_submission_that_fails_says_whether_it_may_be_there(
    server: FakeProvider, http: ProviderHttp, dialect: BatchDialect, mishap: Any, reason: str, charge: Charge
) -> None:
    server.batches.mishaps.append(mishap)
    with pytest.raises(ProviderFailure) as failed:
        await batcher_of(dialect, http, server).submit(OUR_BATCH, calls_of(dialect))
    assert (failed.value.reason, failed.value.charge) == (reason, charge)


@pytest.mark.parametrize("dialect", BOTH)
async def test_where_nobody_listens_nothing_is_there(
    server: FakeProvider, http: ProviderHttp, dialect: BatchDialect
) -> None:
    server.address = "http://127.0.0.1:9"
    with pytest.raises(ProviderFailure) as failed:
        await batcher_of(dialect, http, server).submit(OUR_BATCH, calls_of(dialect))
    assert failed.value.charge is Charge.NOTHING


async def test_a_batch_of_another_is_not_found(server: FakeProvider, http: ProviderHttp) -> None:
    for dialect in BOTH:
        batcher = batcher_of(dialect, http, server)
        await batcher.submit(OUR_BATCH, calls_of(dialect))
        names = frozenset({"hold_1", "hold_2", "hold_3", "hold_4"})
        assert not await batcher.find(DEPLOYMENTS[dialect], "batch_other", names, LONG_AGO)
        # Nor one that was there long before.
        later = datetime.now(UTC) + timedelta(hours=1)
        if batcher.blind:
            assert not await batcher.find(DEPLOYMENTS[dialect], OUR_BATCH, frozenset(PROMPTS), later)


async def test_only_a_stopped_batch_counts_what_it_left_out(server: FakeProvider, http: ProviderHttp) -> None:
    batcher, deployment = batcher_of("openai", http, server), DEPLOYMENTS["openai"]
    name = await batcher.submit(OUR_BATCH, calls_of("openai"))
    assert await batcher.look(deployment, name) == BatchProgress(ended=True)
    server.batches.refuse()
    assert await batcher.look(deployment, name) == BatchProgress(ended=True, refused=True)


async def test_lines_that_are_none_and_names_that_lead_elsewhere_are_no_answers(
    server: FakeProvider, http: ProviderHttp
) -> None:
    batcher, deployment = batcher_of("openai", http, server), DEPLOYMENTS["openai"]
    name = await batcher.submit(OUR_BATCH, calls_of("openai"))
    await batcher.look(deployment, name)
    server.batches.all[-1].id = "../../v1/models"
    with pytest.raises(ProviderFailure):
        await batcher.find(deployment, OUR_BATCH, frozenset(PROMPTS), LONG_AGO)
    with pytest.raises(ProviderFailure):
        await batcher.look(deployment, "batch_of_nobody")


@pytest.mark.parametrize(("dialect", "way"), [("openai", Sampling(top_k=3)), ("anthropic", Sampling(seed=7))])
async def test_what_the_dialect_has_no_words_for_is_refused_by_field(
    server: FakeProvider, http: ProviderHttp, dialect: BatchDialect, way: Sampling
) -> None:
    prompt = a_prompt(sampling=way)
    with pytest.raises(ProviderRefused) as refused:
        batcher_of(dialect, http, server, key=KEY).check(DEPLOYMENTS[dialect], prompt)
    assert refused.value.metadata["field"] == f"sampling.{next(iter(way.asked()))}"
