"""OpenAI's client for Python."""

import asyncio
import json
from typing import Any, Final

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.clients.cases import KEY, MODEL, URL, WEATHER, River, Shown, asking, show

_WEATHER: Final[ChatCompletionToolParam] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY)
chats = client.chat.completions


def prompt(case: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asking(case)}]


async def chat(case: str, *, model: str = MODEL, key: str = KEY) -> Shown:
    whose = client.with_options(api_key=key)
    answer = await whose.chat.completions.create(model=model, messages=prompt(case))
    assert answer.usage is not None
    used = [answer.usage.prompt_tokens, answer.usage.completion_tokens]
    return {"text": answer.choices[0].message.content, "used": used}


async def stream() -> Shown:
    async with chats.stream(model=MODEL, messages=prompt("stream")) as events:
        pieces = [event.delta async for event in events if event.type == "content.delta"]
        whole = await events.get_final_completion()
    return {"pieces": pieces, "text": whole.choices[0].message.content}


async def tools() -> Shown:
    messages = prompt("tools")
    first = await chats.create(model=MODEL, messages=messages, tools=[_WEATHER])
    said = first.choices[0].message
    [call] = said.tool_calls or []
    assert call.type == "function"
    answered: Any = said  # as people do: with all that it holds
    messages.append(answered)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": WEATHER})
    second = await chats.create(model=MODEL, messages=messages, tools=[_WEATHER])
    called = [call.function.name, json.loads(call.function.arguments)]
    return {"called": called, "text": second.choices[0].message.content}


async def schema() -> Shown:
    answer = await chats.parse(model=MODEL, messages=prompt("schema"), response_format=River)
    river = answer.choices[0].message.parsed
    assert isinstance(river, River)
    return river.model_dump()


asyncio.run(show(chat, stream=stream, tools=tools, schema=schema))
