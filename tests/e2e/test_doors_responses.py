"""OpenAI's own client, unmodified, at `/v1/responses` of a whole mesh: answers, streams, tools, forms and errors."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import FunctionToolParam
from pydantic import BaseModel

from tests.e2e.conftest import Tenant, until
from tests.e2e.test_doors_openai import MODEL, SOON, asked, asking, opened
from tests.support.mesh import RunningMesh
from tests.support.pictures import a_png

WEATHER: Final[FunctionToolParam] = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
LONG: Final = "Rivers meet, and then they argue about the sea. Nobody wins. The sea takes all of them in the end."


@pytest.fixture
async def ai(mesh: RunningMesh, tenant: Tenant) -> AsyncIterator[AsyncOpenAI]:
    """Gives OpenAI's client of a tenant of its own."""
    async with opened(mesh, tenant.key) as client:
        yield client


async def test_a_question_is_answered_and_counted(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("They meet.", prompt_tokens=40, completion_tokens=7, cached_tokens=16, reasoning_tokens=3)
    raw = await ai.responses.with_raw_response.create(
        model=MODEL,
        instructions="Be brief.",
        input=f"How are rivers? {tenant.mark}",
        max_output_tokens=50,
        temperature=0.5,
        store=False,
        metadata={"order": "1"},
    )
    response = raw.parse()
    assert (response.status, response.output_text, response.model) == ("completed", "They meet.", MODEL)
    assert (response.instructions, response.metadata) == ("Be brief.", {"order": "1"})
    used = response.usage
    assert used is not None
    assert (used.input_tokens, used.output_tokens, used.total_tokens) == (40, 10, 50)
    assert (used.input_tokens_details.cached_tokens, used.output_tokens_details.reasoning_tokens) == (16, 3)
    assert raw.headers["x-comitia-deployment"] == f"openai/{MODEL}"
    assert raw.headers["x-ratelimit-limit-requests"].isdecimal()
    [call] = asked(tenant)
    assert (call["body"]["max_completion_tokens"], call["body"]["temperature"]) == (50, 0.5)
    assert [message["role"] for message in call["body"]["messages"]] == ["system", "user"]
    assert call["hold_id"] == raw.headers["x-comitia-hold-id"]


async def test_a_stream_comes_in_pieces_and_in_order(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says(LONG, pause=0.005)
    stream = await ai.responses.create(model=MODEL, input=asking(tenant), stream=True)
    events = [event async for event in stream]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == LONG
    assert len(pieces) > 1, "text is shown while it comes"
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == LONG
    assert last.response.usage is not None
    assert last.response.usage.output_tokens > 0


async def test_a_tool_is_called_and_its_result_is_read(ai: AsyncOpenAI, tenant: Tenant) -> None:
    calls = [("call_1", "weather", '{"city":"Ulm"}'), ("call_2", "weather", '{"city":"Bonn"}')]
    for streamed in (False, True):
        tenant.says("", tool_calls=calls)
        tenant.says("It rains.", match=("cloudburst",))
        said: list[Any] = asking(tenant, "How is the weather in Ulm and Bonn?")
        if streamed:
            async with ai.responses.stream(model=MODEL, input=said, tools=[WEATHER]) as stream:
                kinds = {event.type async for event in stream}
                assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds
                first: Any = await stream.get_final_response()
        else:
            first = await ai.responses.create(model=MODEL, input=said, tools=[WEATHER], tool_choice="auto")
        made = [item for item in first.output if item.type == "function_call"]
        assert [(item.call_id, item.name, json.loads(item.arguments)) for item in made] == [
            ("call_1", "weather", {"city": "Ulm"}),
            ("call_2", "weather", {"city": "Bonn"}),
        ]
        said += first.output  # as clients do: with all that it holds
        said += [{"type": "function_call_output", "call_id": item.call_id, "output": "cloudburst"} for item in made]
        second = await ai.responses.create(model=MODEL, input=said, tools=[WEATHER])
        assert second.output_text == "It rains."
        sent = asked(tenant)[-1]["body"]["messages"]
        assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool", "tool"]
        assert len(sent[2]["tool_calls"]) == 2, "both calls were one answer"
        said += [*second.output, *asking(tenant)]
        third = await ai.responses.create(model="stub", input=said)
        assert third.output_text


async def test_what_a_model_is_told_besides_its_prompt_reaches_it(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("", tool_calls=[("call_1", "weather", '{"city":"Ulm"}')])
    picture = f"data:image/png;base64,{base64.b64encode(a_png()).decode()}"
    shown: list[Any] = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": f"Where is this? {tenant.mark}"},
                {"type": "input_image", "image_url": picture, "detail": "low"},
            ],
        }
    ]
    response = await ai.responses.create(
        model=MODEL,
        input=shown,
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        top_p=0.5,
        reasoning={"effort": "low"},
    )
    assert response.output[0].type == "function_call"
    sent = asked(tenant)[-1]["body"]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    told = {name: sent[name] for name in ("parallel_tool_calls", "top_p", "reasoning_effort")}
    assert told == {"parallel_tool_calls": False, "top_p": 0.5, "reasoning_effort": "low"}
    assert sent["messages"][0]["content"][1]["image_url"] == {"url": picture, "detail": "low"}


class River(BaseModel):
    """What a client may want to read."""

    name: str
    km: int


async def test_an_answer_has_the_form_that_was_asked_for(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says('{"name": "Danube", "km": "long"}')
    tenant.says('{"name": "Danube", "km": 2850}', match=("km",))
    response = await ai.responses.parse(model=MODEL, input=asking(tenant), text_format=River)
    assert response.output_parsed == River(name="Danube", km=2850)
    assert len(asked(tenant)) == 2, "what broke the form is asked for again"
    tenant.says('{"name": "Rhine", "km": 1230}')
    async with ai.responses.stream(model=MODEL, input=asking(tenant), text_format=River) as stream:
        streamed = await stream.get_final_response()
    assert streamed.output_parsed == River(name="Rhine", km=1230)


async def test_an_answer_that_is_cut_off_or_refused_says_so(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("They", finish="length")
    short = await ai.responses.create(model=MODEL, input=asking(tenant), max_output_tokens=16)
    assert short.status == "incomplete"
    assert short.incomplete_details is not None
    assert (short.incomplete_details.reason, short.output_text) == ("max_output_tokens", "They")
    tenant.says("They", finish="length")
    stream = await ai.responses.create(model=MODEL, input=asking(tenant), stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.incomplete"
    tenant.says("", refusal="I cannot help with that.")
    refused: Any = await ai.responses.create(model=MODEL, input=asking(tenant))
    assert (refused.output[0].content[0].type, refused.output_text) == ("refusal", "")
    assert refused.output[0].content[0].refusal == "I cannot help with that."


async def test_errors_are_those_that_the_client_knows(ai: AsyncOpenAI, tenant: Tenant, mesh: RunningMesh) -> None:
    said = asking(tenant)
    with pytest.raises(openai.NotFoundError) as unknown:
        await ai.responses.create(model="gpt-17", input=said)
    assert (unknown.value.code, unknown.value.type) == ("model_not_found", "invalid_request_error")
    kept: list[dict[str, Any]] = [
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"conversation": "conv_1"},
        {"include": ["reasoning.encrypted_content"]},
    ]
    for wanted in kept:
        with pytest.raises(openai.BadRequestError) as refused:
            await ai.responses.create(model=MODEL, input=said, **wanted)
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", next(iter(wanted)))
    with pytest.raises(openai.BadRequestError) as hosted:
        await ai.responses.create(model=MODEL, input=said, tools=[{"type": "web_search"}])
    assert (hosted.value.code, hosted.value.param) == ("unsupported_parameter", "tools[0].type")
    assert "web_search" in hosted.value.message
    with pytest.raises(openai.BadRequestError) as output:
        await ai.responses.create(
            model=MODEL, input=[*said, {"type": "function_call_output", "call_id": "none", "output": "x"}]
        )
    assert (output.value.param, output.value.code) == ("input[2].call_id", "invalid_field")
    async with opened(mesh, f"{tenant.key[:-3]}xyz") as nobody:
        with pytest.raises(openai.AuthenticationError) as stranger:
            await nobody.responses.create(model=MODEL, input=said)
    assert stranger.value.code == "invalid_api_key"
    assert asked(tenant) == []


async def test_what_the_law_blocks_and_what_no_budget_holds_is_refused(mesh: RunningMesh, tenant: Tenant) -> None:
    rule = "rules: [{name: no_swords, type: keyword, keywords: [sword], action: block, stages: [before, after]}]"
    await tenant.client.policies.apply(rule, name="arms", version="1.0.0")
    async with opened(mesh, tenant.key, max_retries=5) as ai:
        with pytest.raises(openai.BadRequestError) as blocked:
            await ai.responses.create(model=MODEL, input=asking(tenant), instructions="Draw a sword.")
        assert blocked.value.code == "content_policy_violation"
        await tenant.client.costs.set_budget(1000)
        with pytest.raises(openai.RateLimitError) as empty:
            await ai.responses.create(model=MODEL, input=asking(tenant))
    assert (empty.value.code, empty.value.type) == ("insufficient_quota", "insufficient_quota")
    assert empty.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert asked(tenant) == []


async def test_the_client_tries_again_what_may_pass(mesh: RunningMesh, tenant: Tenant) -> None:
    for status in (500, 429):
        tenant.provider.behave(match=[tenant.mark], status=status, headers=SOON)
        tenant.says("At last.")
        async with opened(mesh, tenant.key, max_retries=2) as ai:
            raw = await ai.responses.with_raw_response.create(model=MODEL, input=asking(tenant))
        assert raw.parse().output_text == "At last."
        assert raw.retries_taken == 1


async def test_a_stream_that_breaks_off_is_an_error_and_no_short_answer(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("One sentence. And another one. And a third that nobody hears.", pause=0.01, cut_after=9)
    stream = await ai.responses.create(model=MODEL, input=asking(tenant), stream=True)
    heard: list[Any] = []
    with pytest.raises(openai.APIError) as broken:
        async for event in stream:
            heard.append(event)  # noqa: PERF401  # what came before the error counts
    assert "".join(event.delta for event in heard if hasattr(event, "delta")).startswith("One sentence.")
    assert (heard[-1].type, heard[-1].response.status) == ("response.failed", "failed")
    assert broken.value.code == "answer_broke_off"


async def test_who_hangs_up_stops_the_provider(ai: AsyncOpenAI, tenant: Tenant) -> None:
    # To its end it would take longer than is waited for below.
    tenant.says("One sentence. " * 1000, pause=0.02)
    stream = await ai.responses.create(model=MODEL, input=asking(tenant), stream=True)
    await anext(aiter(stream))
    await stream.close()

    async def abandoned() -> bool:
        return any(call["abandoned"] for call in asked(tenant))

    assert await until(abandoned)


async def test_a_request_with_a_key_of_its_own_is_answered_once(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("They meet. They argue.")
    ids: list[str] = []
    for number in range(2):
        raw = await ai.responses.with_raw_response.create(
            model=MODEL, input=asking(tenant), extra_headers={"idempotency-key": "order-1"}
        )
        assert raw.parse().output_text == "They meet. They argue."
        assert raw.headers.get("idempotent-replayed") == (None if number == 0 else "true")
        ids.append(raw.parse().id)
    assert ids[0] == ids[1]
    assert len(asked(tenant)) == 1
    with pytest.raises(openai.ConflictError) as differs:
        await ai.responses.create(
            model=MODEL, input=asking(tenant, "Something else"), extra_headers={"idempotency-key": "order-1"}
        )
    assert differs.value.code == "call_arguments_differ"
