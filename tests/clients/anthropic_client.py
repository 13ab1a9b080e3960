"""Anthropic's client for Python."""

# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# Newer than ours, in an environment of its own.

import asyncio
from typing import Final

from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from tests.clients.cases import KEY, MODEL, URL, WEATHER, River, Shown, asking, show

_MOST_TOKENS: Final = 100
_WEATHER: Final[ToolParam] = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
client = AsyncAnthropic(base_url=URL, api_key=KEY)


def prompt(case: str) -> list[MessageParam]:
    return [{"role": "user", "content": asking(case)}]


async def chat(case: str, *, model: str = MODEL, key: str = KEY) -> Shown:
    whose = client.with_options(api_key=key)
    answer = await whose.messages.create(
        model=model, max_tokens=_MOST_TOKENS, system="Be brief.", messages=prompt(case)
    )
    [block] = answer.content
    assert block.type == "text"
    return {"text": block.text, "used": [answer.usage.input_tokens, answer.usage.output_tokens]}


async def stream() -> Shown:
    async with client.messages.stream(model=MODEL, max_tokens=_MOST_TOKENS, messages=prompt("stream")) as events:
        pieces = [piece async for piece in events.text_stream]
        return {"pieces": pieces, "text": await events.get_final_text()}


async def tools() -> Shown:
    told = prompt("tools")
    first = await client.messages.create(model=MODEL, max_tokens=_MOST_TOKENS, messages=told, tools=[_WEATHER])
    [call] = first.content
    assert call.type == "tool_use"
    told.append({"role": "assistant", "content": first.content})
    told.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": WEATHER}]})
    second = await client.messages.create(model=MODEL, max_tokens=_MOST_TOKENS, messages=told, tools=[_WEATHER])
    [block] = second.content
    assert block.type == "text"
    return {"called": [call.name, call.input], "text": block.text}


async def schema() -> Shown:
    answer = await client.messages.parse(
        model=MODEL, max_tokens=_MOST_TOKENS, messages=prompt("schema"), output_format=River
    )
    river = answer.parsed_output
    assert isinstance(river, River)
    return river.model_dump()


asyncio.run(show(chat, stream=stream, tools=tools, schema=schema))
