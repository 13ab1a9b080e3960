"""Writes the wire fixtures of providers: `make record`, or `python -m tests.support.record_fixtures`.

Without keys they are synthetic: written by the fake provider, validated by the types of the official SDKs, and marked
so. With COMITIA_RECORD_OPENAI_KEY or COMITIA_RECORD_ANTHROPIC_KEY the providers themselves are asked (a few cents), and
their answers are kept as they came. Either way `tests/contract/wire/test_inference_*` reads them.
"""

import asyncio
import json
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import Prompt, ToolDefinition
from services.inference.providers.anthropic import wire as anthropic_wire
from services.inference.providers.openai import chat_wire as openai_wire
from services.inference.providers.openai import responses_wire
from services.inference.providers.openai.chat import OPENAI
from tests.support.inference import a_message, a_prompt
from tests.support.providers.fake import (
    Behaviour,
    Dialect,
    Served,
    anthropic_events,
    anthropic_message,
    openai_chunks,
    openai_completion,
    responses_events,
    responses_response,
)

FIXTURES = Path(__file__).parents[1] / "contract" / "wire" / "fixtures" / "inference"

SEARCH = ToolDefinition(
    name="search",
    description="Finds pages.",
    input_schema={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)
ASK = a_prompt(messages=(a_message("Name one argument for trams, in one sentence."),), temperature=0.0)
ASK_TOOL = a_prompt(messages=(a_message("Search for the history of trams."),), tools=(SEARCH,))
ASK_SCHEMA = a_prompt(
    messages=(a_message("Name one argument for trams."),),
    output_format=OutputFormat(
        kind=OutputKind.JSON_SCHEMA,
        name="argument",
        schema={
            "type": "object",
            "properties": {"argument": {"type": "string"}},
            "required": ["argument"],
            "additionalProperties": False,
        },
        strict=True,
    ),
)
ASK_SHORT = a_prompt(messages=(a_message("Tell a long story."),), max_output_tokens=16)

#: Case by name: what is asked, and what the synthetic provider does.
CASES: dict[str, tuple[Prompt, dict[Dialect, Behaviour]]] = {
    "text": (
        ASK,
        {
            "openai": Behaviour(text="Trams carry many people — quietly. 🚋", prompt_tokens=16),
            "responses": Behaviour(text="Trams carry many people — quietly. 🚋", prompt_tokens=16),
            "anthropic": Behaviour(text="Trams carry many people — quietly. 🚋", prompt_tokens=17),
        },
    ),
    "tool_calls": (
        ASK_TOOL,
        {
            "openai": Behaviour(
                text="",
                tool_calls=(("call_a1", "search", '{"query": "history of trams"}'), ("call_a2", "search", "{}")),
            ),
            "responses": Behaviour(
                text="I will search.",
                tool_calls=(("call_a1", "search", '{"query": "history of trams"}'), ("call_a2", "search", "{}")),
            ),
            "anthropic": Behaviour(
                text="I will search.", tool_calls=(("toolu_a1", "search", '{"query": "history of trams"}'),)
            ),
        },
    ),
    "length": (
        ASK_SHORT,
        {
            "openai": Behaviour(finish="length"),
            "responses": Behaviour(finish="max_output_tokens"),
            "anthropic": Behaviour(finish="max_tokens"),
        },
    ),
    "cache_and_reasoning": (
        ASK,
        {
            "openai": Behaviour(prompt_tokens=2000, cached_tokens=1536, reasoning_tokens=64),
            "responses": Behaviour(
                thinking="People, then noise.",
                prompt_tokens=2000,
                cached_tokens=1536,
                cache_write_tokens=256,
                reasoning_tokens=64,
            ),
            "anthropic": Behaviour(prompt_tokens=2000, cached_tokens=1500, cache_write_tokens=300, reasoning_tokens=64),
        },
    ),
    "withheld": (
        ASK,
        {
            "openai": Behaviour(text="", finish="content_filter"),
            "responses": Behaviour(text="", finish="content_filter"),
            "anthropic": Behaviour(text="", finish="refusal"),
        },
    ),
    "refusal": (
        ASK,
        {
            "openai": Behaviour(text="", refusal="I cannot help with that."),
            "responses": Behaviour(text="", refusal="I cannot help with that."),
            "anthropic": Behaviour(text="I cannot help with that.", finish="refusal"),
        },
    ),
    "schema": (
        ASK_SCHEMA,
        {
            "openai": Behaviour(text='{"argument": "They carry many."}'),
            "responses": Behaviour(text='{"argument": "They carry many."}'),
            "anthropic": Behaviour(text='{"argument": "They carry many."}'),
        },
    ),
}
MODELS: dict[Dialect, str] = {"openai": "gpt-4o-mini", "responses": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
URLS: dict[Dialect, str] = {
    "openai": "https://api.openai.com/v1/chat/completions",
    "responses": "https://api.openai.com/v1/responses",
    "anthropic": "https://api.anthropic.com/v1/messages",
}


#: Whose official client speaks which dialect.
SDKS: dict[Dialect, str] = {"openai": "openai", "responses": "openai", "anthropic": "anthropic"}


def request_of(dialect: Dialect, prompt: Prompt) -> dict[str, Any]:
    """Gives the request as our adapter sends it."""
    if dialect == "openai":
        body = openai_wire.request_body(prompt, model=MODELS[dialect], manners=OPENAI, stream=True)
    elif dialect == "responses":
        body = responses_wire.request_body(prompt, model=MODELS[dialect], stream=True)
    else:
        body = anthropic_wire.request_body(prompt, model=MODELS[dialect], schemas=True, stream=True)
    return json.loads(body)


def synthetic(dialect: Dialect, case: str) -> dict[str, Any]:
    """Makes a fixture by the fake provider and has each of its events validated by the SDK's type for it."""
    prompt, behaviours = CASES[case]
    behaviour = behaviours[dialect]
    request = request_of(dialect, prompt)
    served = Served(dialect, MODELS[dialect], request, {})
    served.prompt_tokens = behaviour.prompt_tokens or 20
    served.completion_tokens = max(1, len(behaviour.text) // 4) + behaviour.reasoning_tokens
    stream = _validated(dialect, served, behaviour)
    whole = _validated_whole(dialect, served, behaviour)
    return {
        "synthetic": True,
        "dialect": dialect,
        "case": case,
        "sdk": f"{SDKS[dialect]} {version(SDKS[dialect])}",
        "request": request,
        "stream": stream,
        "whole": whole,
    }


def _validated_whole(dialect: Dialect, served: Served, behaviour: Behaviour) -> dict[str, Any]:
    # The SDKs take a second to import, which only this needs.
    if dialect == "openai":
        from openai.types.chat import ChatCompletion

        written = openai_completion(served, behaviour)
        return ChatCompletion.model_validate(written, strict=True).model_dump(exclude_unset=True)
    if dialect == "responses":
        from openai.types.responses import Response

        written = responses_response(served, behaviour)
        return Response.model_validate(written, strict=True).model_dump(exclude_unset=True)
    from anthropic.types import Message

    written = anthropic_message(served, behaviour)
    return Message.model_validate(written, strict=True).model_dump(exclude_unset=True)


def _validated(dialect: Dialect, served: Served, behaviour: Behaviour) -> str:
    # The SDKs take a second to import, which only this needs.
    if dialect == "openai":
        from openai.types.chat import ChatCompletionChunk

        chunks = openai_chunks(served, behaviour, usage=True)
        written = [
            ChatCompletionChunk.model_validate(chunk, strict=True).model_dump(exclude_unset=True) for chunk in chunks
        ]
        return _openai_stream(written)
    from anthropic.types import RawMessageStreamEvent
    from openai.types.responses import ResponseStreamEvent
    from pydantic import TypeAdapter

    newer = dialect == "responses"
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent if newer else RawMessageStreamEvent)
    events: list[dict[str, Any]] = []
    for event in (responses_events if newer else anthropic_events)(served, behaviour):
        # Pings are part of the wire and of no type.
        known = event["type"] != "ping"
        events.append(adapter.validate_python(event, strict=True).model_dump(exclude_unset=True) if known else event)
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


def _openai_stream(chunks: Iterable[dict[str, Any]]) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


async def recorded(dialect: Dialect, case: str, key: str) -> dict[str, Any]:
    """Asks the provider itself and keeps what it answers as it came."""
    request = request_of(dialect, CASES[case][0])
    headers = (
        {"authorization": f"Bearer {key}"}
        if SDKS[dialect] == "openai"
        else {"x-api-key": key, "anthropic-version": "2023-06-01"}
    )
    asked = {"whole": {name: request[name] for name in request if not name.startswith("stream")}, "stream": request}
    answers: dict[str, str] = {}
    async with aiohttp.ClientSession() as session:
        for form, body in asked.items():
            async with session.post(URLS[dialect], json=body, headers=headers) as answer:
                answer.raise_for_status()
                answers[form] = await answer.text()
    return {
        "synthetic": False,
        "dialect": dialect,
        "case": case,
        "request": request,
        "stream": answers["stream"],
        "whole": json.loads(answers["whole"]),
    }


async def main() -> None:
    """Writes all fixtures anew."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for dialect in MODELS:
        key = os.environ.get(f"COMITIA_RECORD_{SDKS[dialect].upper()}_KEY", "")
        for case in CASES:
            # Neither caching nor a refusal can be ordered from a real model.
            live = key and case in ("text", "tool_calls", "length")
            fixture = await recorded(dialect, case, key) if live else synthetic(dialect, case)
            path = FIXTURES / f"{dialect}_{case}.json"
            path.write_text(json.dumps(fixture, indent=1, ensure_ascii=False) + "\n")
            print(path.name, "recorded" if live else "synthetic")


if __name__ == "__main__":
    asyncio.run(main())
