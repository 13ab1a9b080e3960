"""Agents of pydantic-ai, on OpenAI's chat completions or on its responses."""

# pyright: basic, reportMissingImports=false
# In an environment of its own.

import asyncio
from typing import Any

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.cases import KEY, MODEL, RESPONSES, URL, WEATHER, River, Shown, asking, show


def agent(model: str = MODEL, key: str = KEY, **more: Any) -> Agent[None, Any]:
    provider = OpenAIProvider(base_url=f"{URL}/v1", api_key=key)
    spoken = (OpenAIResponsesModel if RESPONSES else OpenAIChatModel)(model, provider=provider)
    return Agent(spoken, instructions="Be brief.", **more)


async def chat(case: str, *, model: str = MODEL, key: str = KEY) -> Shown:
    done = await agent(model, key).run(asking(case))
    return {"text": done.output, "used": [done.usage.input_tokens, done.usage.output_tokens]}


async def stream() -> Shown:
    async with agent().run_stream(asking("stream")) as running:
        pieces = [piece async for piece in running.stream_text(delta=True, debounce_by=None)]
        return {"pieces": pieces, "text": await running.get_output()}


async def tools() -> Shown:
    called: list[object] = []
    speaker = agent()

    @speaker.tool_plain
    def weather(city: str) -> str:
        """Tells the weather."""
        called.extend(["weather", {"city": city}])
        return WEATHER

    done = await speaker.run(asking("tools"))
    return {"called": called, "text": done.output}


async def schema() -> Shown:
    done = await agent(output_type=NativeOutput(River)).run(asking("schema"))
    return done.output.model_dump()


asyncio.run(show(chat, stream=stream, tools=tools, schema=schema))
