"""Anthropic's own client, unmodified, at the doors of a whole mesh: messages, streams, tools, errors and retries."""

from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from tests.e2e.conftest import Tenant
from tests.support.mesh import RunningMesh

MODEL: Final = "gpt-4o-mini"
WEATHER: Final[ToolParam] = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SOON: Final = [["retry-after-ms", "10"]]


def opened(mesh: RunningMesh, key: str, *, max_retries: int = 0) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=mesh.url, api_key=key, max_retries=max_retries)


@pytest.fixture
async def claude(mesh: RunningMesh, tenant: Tenant) -> AsyncIterator[AsyncAnthropic]:
    """Gives Anthropic's client of a tenant of its own."""
    async with opened(mesh, tenant.key) as client:
        yield client


def asking(tenant: Tenant, text: str = "How are rivers?") -> list[MessageParam]:
    return [{"role": "user", "content": f"{text} {tenant.mark}"}]


def asked(tenant: Tenant) -> list[dict[str, Any]]:
    return tenant.provider.meter(tenant.mark)["calls"]


async def test_a_message_is_answered_and_counted(claude: AsyncAnthropic, tenant: Tenant) -> None:
    tenant.says("They meet.", prompt_tokens=40, completion_tokens=7, cached_tokens=16, reasoning_tokens=3)
    raw = await claude.messages.with_raw_response.create(
        model=MODEL, system="Be brief.", messages=asking(tenant), max_tokens=50
    )
    answer = await raw.parse()

    [block] = answer.content
    assert block.type == "text"
    assert (block.text, answer.stop_reason, answer.role, answer.model) == ("They meet.", "end_turn", "assistant", MODEL)
    used = answer.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.output_tokens) == (24, 16, 10)
    assert raw.headers["anthropic-ratelimit-requests-limit"].isdecimal()
    assert raw.headers["request-id"]
    [call] = asked(tenant)
    assert call["body"]["max_completion_tokens"] == 50
    assert [message["role"] for message in call["body"]["messages"]] == ["system", "user"]


async def test_a_stream_comes_in_pieces_and_ends_with_what_it_used(claude: AsyncAnthropic, tenant: Tenant) -> None:
    said = "Rivers meet, and then they argue about the sea. Nobody wins. The sea takes all of them in the end."
    tenant.says(said, pause=0.005, prompt_tokens=40, completion_tokens=7)
    async with claude.messages.stream(model=MODEL, messages=asking(tenant), max_tokens=50) as stream:
        pieces = [text async for text in stream.text_stream]
        answer = await stream.get_final_message()
    assert "".join(pieces) == said
    assert len(pieces) > 1, "text is shown while it comes"
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("end_turn", 40, 7)


async def test_a_tool_is_called_and_its_result_is_read(claude: AsyncAnthropic, tenant: Tenant) -> None:
    for streamed in (False, True):
        tenant.says("", tool_calls=[("call_1", "weather", '{"city":"Ulm"}')])
        tenant.says("It rains in Ulm.", match=("cloudburst",))
        messages = asking(tenant, "How is the weather in Ulm?")
        if streamed:
            async with claude.messages.stream(model=MODEL, messages=messages, tools=[WEATHER], max_tokens=50) as stream:
                first = await stream.get_final_message()
        else:
            first = await claude.messages.create(model=MODEL, messages=messages, tools=[WEATHER], max_tokens=50)
        assert first.stop_reason == "tool_use"
        [made] = first.content
        assert made.type == "tool_use"
        assert (made.id, made.name, made.input) == ("call_1", "weather", {"city": "Ulm"})
        result: Any = [{"type": "tool_result", "tool_use_id": made.id, "content": "cloudburst"}]
        messages.append({"role": "assistant", "content": first.content})
        messages.append({"role": "user", "content": result})
        second = await claude.messages.create(model=MODEL, messages=messages, tools=[WEATHER], max_tokens=50)
        [block] = second.content
        assert block.type == "text"
        assert block.text == "It rains in Ulm."
        assert asked(tenant)[-1]["body"]["messages"][-1]["role"] == "tool"


async def test_what_a_model_is_told_besides_its_prompt_reaches_it(claude: AsyncAnthropic, tenant: Tenant) -> None:
    tenant.says("", tool_calls=[("call_1", "weather", '{"city":"Ulm"}')])
    answer = await claude.messages.create(
        model=MODEL,
        messages=asking(tenant),
        tools=[WEATHER],
        max_tokens=50,
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        extra_body={"top_p": 0.5},
    )
    assert answer.stop_reason == "tool_use"
    sent = asked(tenant)[-1]["body"]
    assert (sent["tool_choice"]["function"]["name"], sent["parallel_tool_calls"], sent["top_p"]) == (
        "weather",
        False,
        0.5,
    )


async def test_errors_are_those_that_the_client_knows(
    claude: AsyncAnthropic, tenant: Tenant, mesh: RunningMesh
) -> None:
    messages = asking(tenant)
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await claude.messages.create(model="claude-17", messages=messages, max_tokens=5)
    assert unknown.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as limit:
        await claude.messages.create(model=MODEL, messages=messages, max_tokens=0)
    assert "max_tokens" in limit.value.message
    with pytest.raises(anthropic.BadRequestError) as thinking:
        await claude.messages.create(
            model=MODEL, messages=messages, max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1024}
        )
    assert "thinking" in thinking.value.message
    with pytest.raises(anthropic.BadRequestError) as result:
        await claude.messages.create(
            model=MODEL,
            messages=[{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "none"}]}],
            max_tokens=5,
        )
    assert result.value.message.count("messages[0].content[0].tool_use_id: ") == 1
    # OpenAI has no words for it.
    with pytest.raises(anthropic.BadRequestError) as untold:
        await claude.messages.create(model=MODEL, messages=messages, max_tokens=5, extra_body={"top_k": 3})
    assert "top_k: " in untold.value.message
    assert "sampling" not in untold.value.message
    async with opened(mesh, "nonsense") as nobody:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await nobody.messages.create(model=MODEL, messages=messages, max_tokens=5)
    assert refused.value.type == "authentication_error"
    assert asked(tenant) == []
    await tenant.client.costs.set_budget(1000)
    with pytest.raises(anthropic.APIStatusError) as poor:
        await claude.messages.create(model=MODEL, messages=messages, max_tokens=5)
    assert (poor.value.status_code, poor.value.type) == (402, "billing_error")


async def test_the_client_tries_again_what_may_pass(mesh: RunningMesh, tenant: Tenant) -> None:
    tenant.provider.behave(match=[tenant.mark], status=500, headers=SOON)
    tenant.says("At last.")
    async with opened(mesh, tenant.key, max_retries=2) as claude:
        raw = await claude.messages.with_raw_response.create(model=MODEL, messages=asking(tenant), max_tokens=50)
    assert raw.retries_taken == 1


async def test_a_stream_that_breaks_off_is_an_error(claude: AsyncAnthropic, tenant: Tenant) -> None:
    tenant.says("One sentence. And another one. And a third that nobody hears.", pause=0.01, cut_after=9)
    with pytest.raises(anthropic.APIStatusError) as broken:
        async with claude.messages.stream(model=MODEL, messages=asking(tenant), max_tokens=50) as stream:
            async for _ in stream:
                pass
    assert broken.value.type == "api_error"


async def test_tokens_are_counted_and_models_are_listed(claude: AsyncAnthropic, tenant: Tenant) -> None:
    counted = await claude.messages.count_tokens(model=MODEL, messages=asking(tenant, "word " * 100))
    assert 100 <= counted.input_tokens <= 200
    models = [model.id async for model in claude.models.list()]
    assert {"default", f"openai/{MODEL}"} <= set(models)
