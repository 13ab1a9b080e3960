"""OpenAI's own client, unmodified, at the doors of a whole mesh: chat, streams, tools, errors and retries."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.e2e.conftest import Tenant, until
from tests.support.mesh import RunningMesh

MODEL: Final = "gpt-4o-mini"
WEATHER: Final[ChatCompletionToolParam] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
#: What a provider that fails says, so that nobody waits long.
SOON: Final = [["retry-after-ms", "10"]]


def opened(mesh: RunningMesh, key: str, *, max_retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{mesh.url}/v1", api_key=key, max_retries=max_retries)


@pytest.fixture
async def ai(mesh: RunningMesh, tenant: Tenant) -> AsyncIterator[AsyncOpenAI]:
    """Gives OpenAI's client of a tenant of its own."""
    async with opened(mesh, tenant.key) as client:
        yield client


def asking(tenant: Tenant, text: str = "How are rivers?") -> list[Any]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{text} {tenant.mark}"}]


def asked(tenant: Tenant) -> list[dict[str, Any]]:
    """Gives what reached the provider."""
    return tenant.provider.meter(tenant.mark)["calls"]


async def test_a_chat_is_answered_and_counted(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("They meet.", prompt_tokens=40, completion_tokens=7, cached_tokens=16, reasoning_tokens=3)
    raw = await ai.chat.completions.with_raw_response.create(model=MODEL, messages=asking(tenant), max_tokens=50)
    answer = raw.parse()

    [choice] = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == ("They meet.", "assistant", "stop")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    used = answer.usage
    assert used is not None
    assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (40, 10, 50)
    assert used.prompt_tokens_details is not None
    assert used.completion_tokens_details is not None
    assert (used.prompt_tokens_details.cached_tokens, used.completion_tokens_details.reasoning_tokens) == (16, 3)
    assert raw.headers["x-comitia-deployment"] == f"openai/{MODEL}"
    assert raw.headers["x-ratelimit-limit-requests"].isdecimal()
    assert raw.request_id
    [call] = asked(tenant)
    assert call["body"]["max_completion_tokens"] == 50
    assert call["hold_id"] == raw.headers["x-comitia-hold-id"]


async def test_a_request_without_a_limit_gets_the_doors_own(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("They meet.")
    await ai.chat.completions.create(model="default", messages=asking(tenant))
    assert asked(tenant)[0]["body"]["max_completion_tokens"] == 4096


async def test_a_stream_comes_in_pieces_and_ends_with_what_it_used(ai: AsyncOpenAI, tenant: Tenant) -> None:
    said = "Rivers meet, and then they argue about the sea. Nobody wins. The sea takes all of them in the end."
    tenant.says(said, pause=0.005)
    stream = await ai.chat.completions.create(
        model=MODEL, messages=asking(tenant), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == said
    assert len(pieces) > 1, "text is shown while it comes"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_tool_is_called_and_its_result_is_read(ai: AsyncOpenAI, tenant: Tenant) -> None:
    call = ("call_1", "weather", '{"city":"Ulm"}')
    for streamed in (False, True):
        tenant.says("", tool_calls=[call])
        tenant.says("It rains in Ulm.", match=("cloudburst",))
        messages = asking(tenant, "How is the weather in Ulm?")
        if streamed:
            async with ai.chat.completions.stream(model=MODEL, messages=messages, tools=[WEATHER]) as stream:
                first = await stream.get_final_completion()
        else:
            first = await ai.chat.completions.create(
                model=MODEL, messages=messages, tools=[WEATHER], tool_choice="auto"
            )
        [choice] = first.choices
        assert choice.finish_reason == "tool_calls"
        [made] = choice.message.tool_calls or []
        assert made.type == "function"
        assert (made.id, made.function.name, json.loads(made.function.arguments)) == (
            "call_1",
            "weather",
            {"city": "Ulm"},
        )
        messages += [
            choice.message,  # as clients do: with all that it holds
            {"role": "tool", "tool_call_id": made.id, "content": "cloudburst"},
        ]
        second = await ai.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
        assert second.choices[0].message.content == "It rains in Ulm."
        sent = asked(tenant)[-1]["body"]["messages"]
        assert sent[-1] == {"role": "tool", "tool_call_id": "call_1", "content": "cloudburst"}


async def test_what_a_model_is_told_besides_its_prompt_reaches_it(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("", tool_calls=[("call_1", "weather", '{"city":"Ulm"}')])
    answer = await ai.chat.completions.create(
        model=MODEL,
        messages=asking(tenant),
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        top_p=0.5,
        seed=7,
        frequency_penalty=0.25,
    )
    assert answer.choices[0].message.tool_calls
    sent = asked(tenant)[-1]["body"]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    told = {name: sent[name] for name in ("parallel_tool_calls", "top_p", "seed", "frequency_penalty")}
    assert told == {"parallel_tool_calls": False, "top_p": 0.5, "seed": 7, "frequency_penalty": 0.25}
    with pytest.raises(openai.BadRequestError) as refused:
        await ai.chat.completions.create(model=MODEL, messages=asking(tenant), tool_choice="required")
    assert refused.value.param == "tool_choice"


class River(BaseModel):
    """What a client may want to read."""

    name: str
    km: int


async def test_an_answer_has_the_form_that_was_asked_for(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says('{"name": "Danube", "km": "long"}')
    tenant.says('{"name": "Danube", "km": 2850}', match=("km",))
    answer = await ai.chat.completions.parse(model=MODEL, messages=asking(tenant), response_format=River)
    assert answer.choices[0].message.parsed == River(name="Danube", km=2850)
    assert len(asked(tenant)) == 2, "what broke the form is asked for again"
    tenant.says('{"name": "Rhine", "km": 1230}')
    async with ai.chat.completions.stream(model=MODEL, messages=asking(tenant), response_format=River) as stream:
        streamed = await stream.get_final_completion()
    assert streamed.choices[0].message.parsed == River(name="Rhine", km=1230)
    with pytest.raises(openai.BadRequestError) as refused:
        await ai.chat.completions.create(
            model=MODEL,
            messages=asking(tenant),
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )
    assert str(refused.value.param).startswith("response_format")


async def test_errors_are_those_that_the_client_knows(ai: AsyncOpenAI, tenant: Tenant, mesh: RunningMesh) -> None:
    messages = asking(tenant)
    with pytest.raises(openai.NotFoundError) as unknown:
        await ai.chat.completions.create(model="gpt-17", messages=messages)
    assert (unknown.value.code, unknown.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as field:
        await ai.chat.completions.create(model=MODEL, messages=messages, logit_bias={"1": 1})
    assert (field.value.code, field.value.param) == ("unsupported_parameter", "logit_bias")
    with pytest.raises(openai.BadRequestError) as limit:
        await ai.chat.completions.create(model=MODEL, messages=messages, max_tokens=-1)
    assert (limit.value.param, limit.value.code) == ("max_tokens", "invalid_field")
    with pytest.raises(openai.BadRequestError) as result:
        await ai.chat.completions.create(
            model=MODEL, messages=[*messages, {"role": "tool", "tool_call_id": "none", "content": "x"}]
        )
    assert result.value.param == "messages[2].tool_call_id"
    for key in ("nonsense", f"ck_{'0' * 26}_{'x' * 43}", f"{tenant.key[:-3]}xyz"):
        async with opened(mesh, key) as nobody:
            with pytest.raises(openai.AuthenticationError) as refused:
                await nobody.chat.completions.create(model=MODEL, messages=messages)
            assert refused.value.code == "invalid_api_key"
    assert asked(tenant) == []


async def test_what_the_law_blocks_is_refused_and_costs_nothing(ai: AsyncOpenAI, tenant: Tenant) -> None:
    rule = "rules: [{name: no_swords, type: keyword, keywords: [sword], action: block, stages: [before, after]}]"
    await tenant.client.policies.apply(rule, name="arms", version="1.0.0")
    budget = await tenant.client.costs.set_budget(10**9)
    with pytest.raises(openai.BadRequestError) as blocked:
        await ai.chat.completions.create(model=MODEL, messages=asking(tenant, "A sword"))
    assert blocked.value.code == "content_policy_violation"
    assert "no_swords" in blocked.value.message
    assert asked(tenant) == []

    async def free() -> bool:
        now = await tenant.client.costs.budget(budget.budget_id)
        return (now.spent_nano_usd, now.held_nano_usd) == (0, 0)

    assert await until(free)
    tenant.says("I draw a sword.")
    with pytest.raises(openai.BadRequestError) as after:
        await ai.chat.completions.create(model=MODEL, messages=asking(tenant))
    assert after.value.code == "content_policy_violation"

    async def paid() -> bool:
        now = await tenant.client.costs.budget(budget.budget_id)
        return now.spent_nano_usd > 0 and now.held_nano_usd == 0

    assert await until(paid)


async def test_an_empty_budget_refuses_once_and_nothing_is_sent(mesh: RunningMesh, tenant: Tenant) -> None:
    await tenant.client.costs.set_budget(1000)
    async with opened(mesh, tenant.key, max_retries=5) as ai:
        with pytest.raises(openai.RateLimitError) as refused:
            await ai.chat.completions.create(model=MODEL, messages=asking(tenant))
    assert (refused.value.code, refused.value.type) == ("insufficient_quota", "insufficient_quota")
    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert asked(tenant) == []


async def test_the_client_tries_again_what_may_pass(mesh: RunningMesh, tenant: Tenant) -> None:
    for status in (500, 429):
        tenant.provider.behave(match=[tenant.mark], status=status, headers=SOON)
        tenant.says("At last.")
        async with opened(mesh, tenant.key, max_retries=2) as ai:
            raw = await ai.chat.completions.with_raw_response.create(model=MODEL, messages=asking(tenant))
        assert raw.parse().choices[0].message.content == "At last."
        assert raw.retries_taken == 1


async def test_a_stream_that_breaks_off_is_an_error_and_no_short_answer(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("One sentence. And another one. And a third that nobody hears.", pause=0.01, cut_after=9)
    stream = await ai.chat.completions.create(model=MODEL, messages=asking(tenant), stream=True)
    heard = ""
    with pytest.raises(openai.APIError) as broken:
        async for chunk in stream:
            heard += chunk.choices[0].delta.content or ""
    assert heard.startswith("One sentence.")
    assert broken.value.code == "answer_broke_off"


async def test_who_hangs_up_stops_the_provider(ai: AsyncOpenAI, tenant: Tenant) -> None:
    # To its end it would take longer than is waited for below.
    tenant.says("One sentence. " * 1000, pause=0.02)
    stream = await ai.chat.completions.create(model=MODEL, messages=asking(tenant), stream=True)
    await anext(aiter(stream))
    await stream.close()

    async def abandoned() -> bool:
        return any(call["abandoned"] for call in asked(tenant))

    assert await until(abandoned)


async def test_what_each_key_used_is_shown_for_that_key(mesh: RunningMesh, tenant: Tenant) -> None:
    made = [await tenant.client.identity.create_key(name, roles=["tenant_user"]) for name in ("web", "batch")]
    for key, times in zip(made, (1, 2), strict=True):
        async with opened(mesh, key.secret) as ai:
            for _ in range(times):
                tenant.says("They meet.", prompt_tokens=100, completion_tokens=10)
                await ai.chat.completions.create(model=MODEL, messages=asking(tenant))

    async def settled() -> list[dict[str, Any]] | None:
        shown = await asyncio.to_thread(
            mesh.comitia, *("costs", "--by", "agent", "-o", "json"), COMITIA_API_KEY=tenant.key, COMITIA_URL=mesh.url
        )
        lines: list[dict[str, Any]] = json.loads(shown.stdout)["lines"]
        return lines if sum(int(line["event_count"]) for line in lines) == 3 else None

    lines = await until(settled)
    counts = {line["key"]: int(line["event_count"]) for line in lines}
    assert counts == {made[0].api_key.api_key_id: 1, made[1].api_key.api_key_id: 2}


async def test_a_request_with_a_key_of_its_own_is_answered_once(ai: AsyncOpenAI, tenant: Tenant) -> None:
    tenant.says("They meet. They argue.")
    said: list[str | None] = []
    for number in range(2):
        raw = await ai.chat.completions.with_raw_response.create(
            model=MODEL, messages=asking(tenant), extra_headers={"idempotency-key": "order-1"}
        )
        said.append(raw.parse().choices[0].message.content)
        assert raw.headers.get("idempotent-replayed") == (None if number == 0 else "true")
    assert said == ["They meet. They argue."] * 2
    stream = await ai.chat.completions.create(
        model=MODEL, messages=asking(tenant), stream=True, extra_headers={"idempotency-key": "order-1"}
    )
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "They meet. They argue."
    assert len(asked(tenant)) == 1
    with pytest.raises(openai.ConflictError) as differs:
        await ai.chat.completions.create(
            model=MODEL, messages=asking(tenant, "Something else"), extra_headers={"idempotency-key": "order-1"}
        )
    assert differs.value.code == "call_arguments_differ"
    assert "this Idempotency-Key was used for another request" in differs.value.message
