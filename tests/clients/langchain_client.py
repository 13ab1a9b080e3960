"""`ChatOpenAI` of langchain-openai, on chat completions or on responses."""

# pyright: basic, reportMissingImports=false
# In an environment of its own.

import asyncio

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.clients.cases import KEY, MODEL, RESPONSES, URL, WEATHER, River, Shown, asking, show


@tool
def weather(city: str) -> str:
    """Tells the weather."""
    return WEATHER


def prompt(case: str) -> list[BaseMessage]:
    return [SystemMessage("Be brief."), HumanMessage(asking(case))]


def opened(model: str = MODEL, key: str = KEY) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{URL}/v1", api_key=key, model=model, use_responses_api=RESPONSES)


async def chat(case: str, *, model: str = MODEL, key: str = KEY) -> Shown:
    answer = await opened(model, key).ainvoke(prompt(case))
    used = answer.usage_metadata
    return {"text": answer.text, "used": [used["input_tokens"], used["output_tokens"]]}


async def stream() -> Shown:
    whole, pieces = None, []
    async for chunk in opened().astream(prompt("stream")):
        whole = chunk if whole is None else whole + chunk
        pieces.append(chunk.text)
    assert whole is not None
    return {"pieces": pieces, "text": whole.text}


async def tools() -> Shown:
    model, messages = opened().bind_tools([weather]), prompt("tools")
    first = await model.ainvoke(messages)
    [call] = first.tool_calls
    second = await model.ainvoke([*messages, first, ToolMessage(WEATHER, tool_call_id=call["id"])])
    return {"called": [call["name"], call["args"]], "text": second.text}


async def schema() -> Shown:
    river = await opened().with_structured_output(River).ainvoke(prompt("schema"))
    return river.model_dump()


asyncio.run(show(chat, stream=stream, tools=tools, schema=schema))
