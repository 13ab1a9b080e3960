"""Agents of openai-agents, on chat completions or on responses."""

# pyright: basic, reportMissingImports=false
# In an environment of its own.

import asyncio
from typing import Any

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

from tests.clients.cases import KEY, MODEL, RESPONSES, URL, WEATHER, River, Shown, asking, show


def agent(model: str = MODEL, key: str = KEY, **more: Any) -> Agent[None]:
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=key)
    spoken = (OpenAIResponsesModel if RESPONSES else OpenAIChatCompletionsModel)(model=model, openai_client=client)
    return Agent(name="Ada", instructions="Be brief.", model=spoken, **more)


async def chat(case: str, *, model: str = MODEL, key: str = KEY) -> Shown:
    done = await Runner.run(agent(model, key), asking(case))
    used = done.context_wrapper.usage
    return {"text": done.final_output, "used": [used.input_tokens, used.output_tokens]}


async def stream() -> Shown:
    running = Runner.run_streamed(agent(), asking("stream"))
    pieces = [
        event.data.delta
        async for event in running.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return {"pieces": pieces, "text": running.final_output}


async def tools() -> Shown:
    called: list[object] = []

    @function_tool
    def weather(city: str) -> str:
        """Tells the weather."""
        called.extend(["weather", {"city": city}])
        return WEATHER

    done = await Runner.run(agent(tools=[weather]), asking("tools"))
    return {"called": called, "text": done.final_output}


async def schema() -> Shown:
    done = await Runner.run(agent(output_type=River), asking("schema"))
    return done.final_output.model_dump()


# Traces would go to OpenAI itself.
set_tracing_disabled(True)
asyncio.run(show(chat, stream=stream, tools=tools, schema=schema))
