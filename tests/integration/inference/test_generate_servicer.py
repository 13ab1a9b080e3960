"""Generate and StreamGenerate from the wire to the provider and back: reply, status, reason, record, money."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from google.protobuf import struct_pb2

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, model_service_pb2
from comitia.inference.v1 import inference_service_pb2 as pb
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.grpc.errors import remote_error
from services.meshkit.testing import failpoints
from tests.integration.inference.conftest import (
    InferenceMesh,
    StartInference,
    Surroundings,
    a_context,
    a_message,
    a_request,
)
from tests.support.pictures import a_png
from tests.support.providers.fake import KEY, Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWER = Behaviour().text


async def settled(mesh: InferenceMesh) -> list[Any]:
    """Waits until nothing is pending, at most 10 s, and gives states, charges and tokens."""
    async with asyncio.timeout(10):
        while any(row.settle_state == "pending" for row in await mesh.rows()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return [tuple(row) for row in await mesh.rows("settle_state, charged_nano_usd, token")]


async def test_an_answer_is_judged_recorded_and_paid_for(mesh: InferenceMesh) -> None:
    answer = await mesh.generate(path="rounds/1/Athena")
    assert answer.parts[0].text.text == ANSWER
    assert answer.parts[0].label.integrity == content_pb2.INTEGRITY_USER
    assert list(answer.parts[0].label.sources) == ["model:gpt-4o-mini", "user:anna"]
    assert (answer.provider, answer.model) == ("openai", "gpt-4o-mini")
    assert answer.stop_reason == generation_pb2.STOP_REASON_STOP
    assert mesh.law.stages() == ["before", "after"]
    assert len(answer.verdict_ids) == 2
    assert answer.bundle_digest == "cd" * 32
    (charge,) = await mesh.charges()
    assert charge.hold_id == answer.hold_id
    assert charge.cost_nano_usd == answer.cost_nano_usd > 0
    assert charge.usage.input_tokens == mesh.provider.meter.prompt_tokens
    assert charge.usage.output_tokens == mesh.provider.meter.completion_tokens
    assert (await mesh.budget()).held_nano_usd == 0
    assert await settled(mesh) == [("settled", answer.cost_nano_usd, None)]


async def test_nothing_of_a_conversation_is_readable_in_the_table(mesh: InferenceMesh) -> None:
    await mesh.generate(path="rounds/1/Athena")
    (row,) = await mesh.rows("call::text")
    for secret in ("Rivers", "Should cities", mesh.principal.token.reveal()):
        assert secret not in row[0]
        assert secret.encode().hex() not in row[0]


async def test_the_stub_answers_by_name(mesh: InferenceMesh) -> None:
    answer = await mesh.generate(model="stub")
    assert answer.stub
    assert answer.parts[0].text.text.startswith("This is the stub model")
    assert answer.cost_nano_usd == 0
    assert not mesh.provider.meter.calls


async def test_the_stub_is_not_there_unless_it_is_enabled(start: StartInference) -> None:
    async with start(stub_enabled=False) as mesh:
        assert await mesh.refused("Generate", a_request(model="stub")) == "not_found/MODEL_NOT_FOUND"


async def test_the_settings_have_providers_asked_by_their_official_clients(
    start: StartInference, surroundings: Surroundings
) -> None:
    provider = surroundings.provider
    async with start(
        openai_form="sdk",
        anthropic_form="sdk",
        anthropic_api_key=KEY,
        anthropic_base_url=provider.anthropic_base_url,
    ) as mesh:
        for model in ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"):
            assert (await mesh.generate(model=model)).parts[0].text.text == Behaviour().text
        asked = len(provider.meter.calls)
        provider.next(Behaviour(status=503))
        assert (await mesh.generate()).provider == "anthropic"
        assert len(provider.meter.calls) == asked + 2, "a client repeats nothing by itself"


async def test_tools_and_their_calls_travel_both_ways(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(text="", tool_calls=(("call_1", "search", '{"q": "trams", "most": 3}'),)))
    schema = struct_pb2.Struct()
    schema.update({"type": "object", "properties": {"q": {"type": "string"}}})
    tool = generation_pb2.ToolDefinition(name="search", description="Finds.", input_schema=schema)
    answer = await mesh.generate(tools=[tool])
    assert answer.stop_reason == generation_pb2.STOP_REASON_TOOL_CALLS
    call = answer.parts[0].tool_call
    assert (call.tool_call_id, call.name, dict(call.arguments)) == ("call_1", "search", {"q": "trams", "most": 3})
    assert mesh.provider.meter.calls[0].body["tools"][0]["function"]["name"] == "search"


async def test_several_tools_are_called_at_once_and_a_choice_of_them_reaches_the_provider(mesh: InferenceMesh) -> None:
    calls = (("call_1", "search", '{"q": "trams"}'), ("call_2", "search", '{"q": "buses"}'))
    mesh.provider.next(Behaviour(text="", tool_calls=calls))
    answer = await mesh.generate(
        tools=[generation_pb2.ToolDefinition(name="search")],
        tool_choice=generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_TOOL, name="search"),
        parallel_tool_calls=True,
    )
    assert [part.tool_call.tool_call_id for part in answer.parts] == ["call_1", "call_2"]
    body = mesh.provider.meter.calls[0].body
    assert body["tool_choice"] == {"type": "function", "function": {"name": "search"}}
    assert body["parallel_tool_calls"] is True
    assert "stream" not in body, "nobody watches, so nothing is streamed"


async def test_a_refusal_of_the_model_is_told_as_one(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(text="", refusal="I will not help with that."))
    answer = await mesh.generate()
    assert answer.stop_reason == generation_pb2.STOP_REASON_REFUSAL
    assert answer.parts[0].text.text == "I will not help with that."


async def test_an_answer_keeps_its_schema_or_is_repaired_and_every_attempt_is_paid_for(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(text='{"n": "three"}'), Behaviour(text='{"n": 3}'))
    schema = struct_pb2.Struct()
    schema.update({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    wanted = generation_pb2.JsonSchema(name="number", schema=schema)
    answer = await mesh.generate(output_format=generation_pb2.OutputFormat(json_schema=wanted))
    assert (answer.parts[0].text.text, answer.repairs) == ('{"n": 3}', 1)
    assert len(mesh.provider.meter.calls) == 2
    assert len(await mesh.charges()) == 2
    assert not mesh.provider.meter.unheld


def showing(data: bytes, media_type: str = "image/png") -> list[content_pb2.Message]:
    picture = content_pb2.ImagePart(media_type=media_type, data=data, detail=content_pb2.IMAGE_DETAIL_LOW)
    return [content_pb2.Message(role=content_pb2.MESSAGE_ROLE_USER, parts=[content_pb2.Part(image=picture)])]


async def test_a_picture_reaches_the_model_while_the_law_reads_which_one_it_is(mesh: InferenceMesh) -> None:
    picture = a_png(padding=3_000_000)
    await mesh.generate(messages=showing(picture))
    (shown,) = mesh.provider.meter.calls[0].body["messages"][0]["content"]
    assert shown["image_url"]["detail"] == "low"
    assert base64.b64decode(shown["image_url"]["url"].removeprefix("data:image/png;base64,")) == picture


async def test_a_picture_that_lies_or_weighs_too_much_is_refused_before_anything_is_spent(mesh: InferenceMesh) -> None:
    lie = a_request(messages=showing(a_png(), "image/jpeg"))
    refused = await mesh.refused("Generate", lie)
    assert refused == "invalid/MEDIA_INVALID/messages[0].parts[0].image.media_type"
    heavy = a_request(messages=showing(a_png(padding=5_000_000)))
    assert await mesh.refused("Generate", heavy) == "invalid/REQUEST_TOO_LARGE"
    assert not mesh.provider.meter.calls


async def test_a_schema_that_no_model_keeps_is_said_with_the_place(mesh: InferenceMesh) -> None:
    mesh.provider.default = Behaviour(text="no")
    wanted = generation_pb2.OutputFormat(json_object=generation_pb2.JsonObject())
    assert await mesh.refused("Generate", a_request(output_format=wanted)) == "precondition/OUTPUT_INVALID"


async def test_a_repeat_is_answered_from_the_record_by_any_replica(start: StartInference) -> None:
    async with start() as first, start() as second:
        one = await first.generate(path="rounds/1/Athena")
        again = await second.generate(path="rounds/1/Athena")
        assert again.replayed
        assert (again.parts, again.hold_id, again.cost_nano_usd) == (one.parts, one.hold_id, one.cost_nano_usd)
        assert len(first.provider.meter.calls) == 1
        other = a_request(path="rounds/1/Athena", max_output_tokens=65)
        assert await second.refused("Generate", other) == "conflict/CALL_ARGUMENTS_DIFFER"


async def test_the_same_id_of_another_tenant_is_another_call(mesh: InferenceMesh) -> None:
    one = await mesh.generate(path="rounds/1/Athena")
    other = mesh.speaking_as(mesh.keys.principal(tenant=TenantId(uuid4())))
    theirs = await other.generate(path="rounds/1/Athena", max_output_tokens=63)
    assert not theirs.replayed
    assert theirs.hold_id != one.hold_id
    assert len(await other.charges()) == 1


A_RUN = "run_01jd0000000000000000000000"
ANOTHER_RUN = "run_01jd0000000000000000000001"


@pytest.mark.parametrize("kind", [pb.GenerateRequest, pb.StreamGenerateRequest])
@pytest.mark.parametrize(
    ("run_of_token", "run_id"),
    [
        (None, A_RUN),
        (None, "run_made_up"),
        (None, "direct_01jd0000000000000000000000"),
        (ANOTHER_RUN, A_RUN),
        (ANOTHER_RUN, "essay_01"),
    ],
)
async def test_nobody_takes_the_call_ids_of_a_run_but_that_run(
    mesh: InferenceMesh, kind: Any, run_of_token: str | None, run_id: str
) -> None:
    run = mesh.speaking_as(mesh.keys.principal(tenant=mesh.principal.tenant, run_id=A_RUN))
    await run.generate(context=a_context("rounds/1/Athena", run_id=A_RUN))
    intruder = mesh.speaking_as(mesh.keys.principal(tenant=mesh.principal.tenant, run_id=run_of_token))
    request = a_request(kind=kind, context=a_context("rounds/1/Athena", run_id=run_id))
    refused = "invalid/INVALID_FIELD/context.call_id.run_id"
    if kind is pb.GenerateRequest:
        assert await intruder.refused("Generate", request) == refused
    else:
        with pytest.raises(grpc.aio.AioRpcError) as stopped:
            async for _ in intruder.stream(context=request.context):
                pass
        assert remote_error(stopped.value).field == "context.call_id.run_id"
    assert len(mesh.provider.meter.calls) == 1
    assert (await run.generate(context=a_context("rounds/1/Athena", run_id=A_RUN))).replayed


async def test_a_run_may_ask_without_a_call_id(mesh: InferenceMesh) -> None:
    run = mesh.speaking_as(mesh.keys.principal(tenant=mesh.principal.tenant, run_id=A_RUN))
    assert not (await run.generate()).replayed


async def test_the_next_model_of_the_chain_takes_over(start: StartInference, surroundings: Surroundings) -> None:
    async with start(anthropic_api_key=KEY, anthropic_base_url=surroundings.provider.anthropic_base_url) as mesh:
        mesh.provider.next(Behaviour(status=500))
        answer = await mesh.generate()
        assert answer.provider == "anthropic"
        assert list(answer.failed_attempts) == ["openai/gpt-4o-mini: PROVIDER_UNAVAILABLE"]
        (charge,) = await mesh.charges()
        assert charge.provider == "anthropic"
        assert (await mesh.budget()).held_nano_usd == 0, "the failed attempt was not billed"


@pytest.mark.parametrize(
    ("behaviour", "refusal"),
    [
        (Behaviour(status=401), "precondition/PROVIDER_REFUSED"),
        (Behaviour(status=429), "exhausted/PROVIDER_RATE_LIMITED"),
        (Behaviour(status=500), "unavailable/PROVIDER_UNAVAILABLE"),
        (Behaviour(raw="<html>"), "unavailable/PROVIDER_UNAVAILABLE"),
        (Behaviour(raw=""), "unavailable/PROVIDER_UNAVAILABLE"),
        (Behaviour(text=""), "unavailable/PROVIDER_UNAVAILABLE"),
        (Behaviour(cut_after=3), "unavailable/PROVIDER_UNAVAILABLE"),
    ],
)
async def test_a_provider_that_misbehaves_gives_a_status_and_a_reason(
    mesh: InferenceMesh, behaviour: Behaviour, refusal: str
) -> None:
    mesh.provider.next(behaviour)
    assert await mesh.refused("Generate", a_request(path="x")) == refusal
    assert all(row.outcome is None for row in await mesh.rows()), "nothing half-written"
    answer = await mesh.generate(path="x")
    assert answer.parts[0].text.text == ANSWER, "the same id may be asked again"


async def test_a_used_up_budget_stops_the_call_before_a_byte_leaves(mesh: InferenceMesh) -> None:
    await mesh.generate()
    await mesh.limit((await mesh.budget()).spent_nano_usd)
    assert await mesh.refused("Generate", a_request()) == "exhausted/BUDGET_EXHAUSTED"
    assert len(mesh.provider.meter.calls) == 1
    assert (await mesh.generate(model="stub")).stub, "what is free still works"


async def test_a_budget_that_degrades_gets_the_cheapest_of_the_chain(
    start: StartInference, surroundings: Surroundings
) -> None:
    anthropic = {"anthropic_api_key": KEY, "anthropic_base_url": surroundings.provider.anthropic_base_url}
    async with start(openai_model="gpt-4-turbo", anthropic_model="claude-3-haiku-20240307", **anthropic) as mesh:
        assert (await mesh.generate()).provider == "openai"
        spent = (await mesh.budget()).spent_nano_usd
        await mesh.degrade(limit=100 * spent, warn_at_percent=1)
        answer = await mesh.generate()
        assert answer.provider == "anthropic"
        assert list(answer.failed_attempts) == ["openai/gpt-4-turbo: BUDGET_DEGRADES"]
        assert await mesh.refused("Generate", a_request(model="openai/gpt-4-turbo")) == "exhausted/BUDGET_DEGRADES"


async def test_a_model_without_a_price_is_refused(start: StartInference) -> None:
    async with start(openai_model="gpt-nobody-knows") as mesh:
        assert await mesh.refused("Generate", a_request()) == "precondition/PRICE_UNKNOWN"
        assert not mesh.provider.meter.calls


async def test_law_that_blocks_leaves_nothing_held(mesh: InferenceMesh) -> None:
    mesh.law.blocked.add("cars")
    assert await mesh.refused("Generate", a_request()) == "denied/LAW_BLOCKED"
    assert not mesh.provider.meter.calls
    assert (await mesh.budget()).held_nano_usd == 0
    mesh.law.blocked = {"sea"}
    for _ in range(2):
        assert await mesh.refused("Generate", a_request("Rivers?", path="x")) == "denied/LAW_BLOCKED"
    assert len(mesh.provider.meter.calls) == 1, "the outcome is recorded"
    assert len(await mesh.charges()) == 1, "and paid for"


async def test_law_redacts_what_is_sent_and_what_comes_back(mesh: InferenceMesh) -> None:
    mesh.law.redacted = {"cars": "[vehicles]", "sea": "[water]"}
    answer = await mesh.generate()
    assert mesh.provider.meter.calls[0].body["messages"][0]["content"] == "Should cities ban [vehicles]?"
    assert answer.parts[0].text.text == ANSWER.replace("sea", "[water]")
    assert {rule.status for rule in answer.rules} == {"redact"}


async def test_without_law_or_money_nothing_leaves(start: StartInference) -> None:
    async with start(policy_target="127.0.0.1:1") as mesh:
        assert (await mesh.refused("Generate", a_request())).startswith("unavailable/")
        assert (await mesh.budget()).held_nano_usd == 0
    async with start(cost_target="127.0.0.1:1") as mesh:
        assert (await mesh.refused("Generate", a_request())).startswith("unavailable/")
        assert not mesh.provider.meter.calls


async def test_text_streams_once_law_has_passed_it(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(pause=0.05))
    events = [event async for event in mesh.stream(path="s")]
    assert [event.sequence for event in events] == [1, 2, 3]
    assert [event.WhichOneof("event") for event in events] == ["text_delta", "text_delta", "generation"]
    assert "".join(event.text_delta for event in events) == ANSWER
    assert mesh.law.stages() == ["before", "during", "after"]
    again = [event async for event in mesh.stream(path="s")]
    assert [event.generation.replayed for event in again] == [True]


async def test_a_stream_that_law_stops_ends_with_its_status(mesh: InferenceMesh) -> None:
    mesh.law.blocked.add("argue")
    mesh.provider.next(Behaviour(text="Rivers meet. They argue. And so on.", pause=0.01))
    seen: list[Any] = []
    with pytest.raises(grpc.aio.AioRpcError) as stopped:
        async for event in mesh.stream():
            seen.append(event)  # noqa: PERF401  # what came before the refusal is looked at
    error = remote_error(stopped.value)
    assert (error.reason, error.metadata["stage"]) == ("LAW_BLOCKED", "during")
    assert "".join(event.text_delta for event in seen) == "Rivers meet. "


async def test_a_client_that_goes_away_stops_the_provider(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(text="A word. " * 400, pause=0.02))
    stream = mesh.stream()
    await stream.read()
    stream.cancel()
    await mesh.provider.until(lambda meter: meter.calls[0].abandoned)


async def test_the_deadline_of_the_caller_reaches_the_provider(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(wait=30))
    refusal = await mesh.refused("Generate", a_request(), timeout=0.8)
    assert refusal.split("/")[0] in ("unavailable", "deadline")
    await mesh.provider.until(lambda meter: meter.calls[0].abandoned)


async def test_a_repeat_at_the_same_time_waits_for_the_call_in_flight(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(wait=0.2))
    answers = await asyncio.gather(*(mesh.generate(path="x") for _ in range(5)))
    assert len({answer.hold_id for answer in answers}) == 1
    assert len(mesh.provider.meter.calls) == 1


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no messages": (lambda: pb.GenerateRequest(), "messages"),
    "no role": (lambda: a_request(messages=[a_message(role=0)]), "messages[0].role"),
    "an unknown role": (lambda: a_request(messages=[a_message(role=9)]), "messages[0].role"),
    "an empty message": (
        lambda: a_request(messages=[content_pb2.Message(role=content_pb2.MESSAGE_ROLE_USER)]),
        "messages[0].parts",
    ),
    "an empty part": (
        lambda: a_request(
            messages=[content_pb2.Message(role=content_pb2.MESSAGE_ROLE_USER, parts=[content_pb2.Part()])]
        ),
        "messages[0].parts[0]",
    ),
    "256 KB and more": (lambda: a_request("x" * (256 * 1024 + 1)), "messages"),
    "only instructions": (
        lambda: a_request(messages=[a_message(role=content_pb2.MESSAGE_ROLE_SYSTEM)]),
        "messages",
    ),
    "a negative limit": (lambda: a_request(max_output_tokens=-1), "max_output_tokens"),
    "40,000 tokens": (lambda: a_request(max_output_tokens=40_000), "max_output_tokens"),
    "a hot temperature": (lambda: a_request(temperature=3.0), "temperature"),
    "an empty stop": (lambda: a_request(stop_sequences=[""]), "stop_sequences[0]"),
    "a long model": (lambda: a_request(model="m" * 300), "model"),
    "a long path": (lambda: a_request(context=a_context("p" * 600)), "context.call_id.path"),
    "a negative index": (
        lambda: a_request(context=content_pb2.CallContext(call_id=content_pb2.CallId(run_id="run_1", call_index=-1))),
        "context.call_id.call_index",
    ),
    "many budgets": (
        lambda: a_request(context=a_context("x", budget_ids=["budget_1"] * 17)),
        "context.budget_ids",
    ),
    "the budget of a run": (
        lambda: a_request(context=a_context("x", budget_ids=["budget_01jd0000000000000000000000"])),
        "context.budget_ids",
    ),
    "a budget that is none": (lambda: a_request(context=a_context("x", budget_ids=["mine"])), "context.budget_ids[0]"),
    "a long project": (lambda: a_request(context=a_context("x", project="p" * 129)), "context.project"),
    "a tool without a name": (lambda: a_request(tools=[generation_pb2.ToolDefinition()]), "tools[0].name"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_with_its_field(mesh: InferenceMesh, case: str) -> None:
    request, field = BAD[case]
    assert await mesh.refused("Generate", request()) == f"invalid/INVALID_FIELD/{field}"
    assert not mesh.provider.meter.calls
    assert not await mesh.rows()


async def test_who_may_not_is_refused(mesh: InferenceMesh) -> None:
    auditor = mesh.speaking_as(mesh.keys.principal(Role.AUDITOR))
    assert await auditor.refused("Generate", a_request()) == "denied/PERMISSION_MISSING"
    assert (await auditor.call("ListModels", model_service_pb2.ListModelsRequest())).models


async def test_an_answer_that_could_not_be_settled_is_settled_by_the_sweep(start: StartInference) -> None:
    async with start() as mesh:
        failpoints.arm("cost.before_settle_commit=error@1")
        try:
            assert not (await mesh.generate(path="x")).replayed
        finally:
            failpoints.arm("")
        assert [tuple(row) for row in await mesh.rows("settle_state, token IS NULL")] == [("pending", False)]
    async with start(sweep_seconds=0.05) as mesh:
        await settled(mesh)
        (charge,) = await mesh.charges()
        assert charge.usage.output_tokens == mesh.provider.meter.completion_tokens
        assert (await mesh.generate(path="x")).cost_nano_usd == charge.cost_nano_usd


async def test_a_repeat_settles_what_was_left_pending(start: StartInference) -> None:
    async with start() as mesh:
        failpoints.arm("cost.before_settle_commit=error@1")
        try:
            await mesh.generate(path="x")
        finally:
            failpoints.arm("")
        answer = await mesh.generate(path="x")
        assert answer.replayed
        (charge,) = await mesh.charges()
        assert charge.cost_nano_usd == answer.cost_nano_usd
        assert len(mesh.provider.meter.calls) == 1


async def test_an_answer_that_law_could_not_judge_is_paid_once_and_judged_at_the_repeat(start: StartInference) -> None:
    async with start() as mesh:
        mesh.law.faults.next(Unavailable("rules"), after=1)
        assert (await mesh.refused("Generate", a_request(path="x"))).startswith("unavailable/")
        (row,) = await mesh.rows("unjudged, call::text")
        assert row[0]
        assert "Rivers" not in row[1]
        assert b"Rivers".hex() not in row[1]
    async with start() as mesh:
        mesh.law.redacted = {"sea": "[water]"}
        answer = await mesh.generate(path="x")
        assert answer.replayed
        assert answer.parts[0].text.text == ANSWER.replace("sea", "[water]")
        assert len(mesh.provider.meter.calls) == 1
        (charge,) = await mesh.charges()
        assert charge.cost_nano_usd == answer.cost_nano_usd
        assert (await mesh.generate(path="x")).verdict_ids == answer.verdict_ids


async def test_law_that_breaks_down_is_not_taken_for_consent(mesh: InferenceMesh) -> None:
    mesh.law.faults.next(Unavailable("rules"))
    assert (await mesh.refused("Generate", a_request())).startswith("unavailable/")
    assert not mesh.provider.meter.calls
