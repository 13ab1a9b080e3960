"""A provider that speaks OpenAI's two wire formats and Anthropic's, misbehaves on request, and meters what it served.

In a test: `async with fake_provider() as provider: ...`. As a process of its own, for tests of the whole mesh:
`python -m tests.support.providers.fake --port 8099`; then `GET /meter`, `POST /behave`, `POST /release` and
`POST /ledger` take the place of attributes.

Once it knows a ledger it serves only calls whose hold stands there as dispatched, and each hold once; it refuses all
others with 402 and counts them as `unheld` (INV-7).

What it writes is synthetic: `tests/contract/wire` checks it against the official SDKs.
"""

import argparse
import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from aiohttp import web

from services.inference.providers.http import HOLD_HEADER
from tests.support.held_calls import Ledger, held_calls
from tests.support.providers.batches import FakeBatches, batch_routes

KEY = "sk-test-key"
Dialect = Literal["openai", "responses", "anthropic"]
_UNPAID = 402


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What the provider does with one request. The default answers."""

    #: As the meter calls it.
    name: str = ""
    #: Texts that a prompt must hold for this to be meant; none: for the next request, whatever it is.
    match: tuple[str, ...] = ()
    text: str = "Rivers meet. They argue about the sea!"
    #: Tool calls as (id, name, arguments as JSON).
    tool_calls: tuple[tuple[str, str, str], ...] = ()
    #: As the dialect writes it; empty for the usual one.
    finish: str = ""
    #: What a model says that refuses; OpenAI has a field of its own for it.
    refusal: str = ""
    #: What a model thinks before it answers, as far as the dialect shows it.
    thinking: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    #: False: a server that does not report usage.
    usage: bool = True
    #: False: a server that ends its stream without `[DONE]`.
    done: bool = True
    #: Seconds before the answer, and between its pieces.
    wait: float = 0.0
    pause: float = 0.0
    #: Nothing is answered before somebody has released what is held under this name.
    held: str = ""
    #: Any other than 200 refuses with a body in the dialect.
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    #: Sent instead of an answer.
    raw: str | None = None
    #: The connection breaks after so many events.
    cut_after: int | None = None


@dataclass
class Served:
    """One request as the meter counts it."""

    dialect: Dialect
    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    #: Of the hold that pays for it, as the caller says; empty when it says nothing.
    hold_id: str = ""
    #: Name of what the provider was told to do with it.
    behaviour: str = ""
    #: False when the ledger knows no such hold, or when it has paid for a call already.
    held: bool = True
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: True when the whole answer was sent: what a provider bills for certain.
    confirmed: bool = False
    #: True when the client went away before the end.
    abandoned: bool = False

    @property
    def text(self) -> str:
        """The body as a text to search in."""
        return json.dumps(self.body, ensure_ascii=False)


@dataclass
class Meter:
    """Everything that was asked and answered."""

    calls: list[Served] = field(default_factory=list[Served])

    @property
    def confirmed(self) -> list[Served]:
        return [call for call in self.calls if call.confirmed]

    @property
    def unheld(self) -> list[Served]:
        return [call for call in self.calls if not call.held]

    @property
    def prompt_tokens(self) -> int:
        return sum(call.prompt_tokens for call in self.confirmed)

    @property
    def completion_tokens(self) -> int:
        return sum(call.completion_tokens for call in self.confirmed)


class FakeProvider:
    """Serves all dialects on one port."""

    def __init__(self) -> None:
        self.address = ""
        #: None: no call needs a hold.
        self.ledger: Ledger | None = None
        #: Closed with the provider.
        self.opened = AsyncExitStack()
        self.news = asyncio.Condition()
        self.forget()

    def forget(self) -> None:
        """Starts anew."""
        self.meter = Meter()
        self.used = set[str]()
        self.behaviours: deque[Behaviour] = deque()
        self.default = Behaviour()
        self.released = set[str]()
        #: What those are answered who only look which models there are, and what they sent; no call, and not metered.
        self.look_status = 200
        self.looks: list[dict[str, str]] = []
        self.batches = FakeBatches(self)

    @property
    def openai_base_url(self) -> str:
        return f"{self.address}/v1"

    @property
    def anthropic_base_url(self) -> str:
        return self.address

    def next(self, *behaviours: Behaviour) -> None:
        """Queues what happens to the next requests, or to the next whose prompt holds what the behaviour matches."""
        self.behaviours.extend(behaviours)

    async def until(self, condition: Any, *, seconds: float = 5.0) -> None:
        """Waits until `condition(meter)` holds."""
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(lambda: condition(self.meter))

    async def release(self, name: str) -> None:
        """Lets answers go that are held under this name, also those to come."""
        self.released.add(name)
        await self._tell()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=32 * 1024 * 1024)
        application.add_routes(
            [
                web.post("/v1/chat/completions", self._openai),
                web.post("/v1/responses", self._responses),
                web.post("/v1/embeddings", self._embeddings),
                web.post("/v1/messages", self._anthropic),
                web.get("/v1/models", self._models),
                web.get("/meter", self._meter),
                web.post("/behave", self._behave),
                web.post("/release", self._release),
                web.post("/ledger", self._ledger),
                *batch_routes(lambda: self.batches),
            ]
        )
        return application

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        served, behaviour = await self._asked_of_openai(request, "openai")
        if behaviour.status != 200:
            return _refuse(behaviour, _openai_error(behaviour))
        self._count(served, behaviour)
        if not served.body.get("stream"):
            return await self._whole(request, served, behaviour, openai_completion(served, behaviour))
        usage = bool((served.body.get("stream_options") or {}).get("include_usage"))
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in openai_chunks(served, behaviour, usage=usage)]
        if behaviour.done:
            events.append("data: [DONE]\n\n")
        return await self._stream(request, served, behaviour, events)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        served, behaviour = await self._asked_of_openai(request, "responses")
        if behaviour.status != 200:
            return _refuse(behaviour, _openai_error(behaviour))
        self._count(served, behaviour)
        if not served.body.get("stream"):
            return await self._whole(request, served, behaviour, responses_response(served, behaviour))
        events = [
            f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in responses_events(served, behaviour)
        ]
        return await self._stream(request, served, behaviour, events)

    async def _asked_of_openai(self, request: web.Request, dialect: Dialect) -> tuple[Served, Behaviour]:
        """Gives what was asked, and what it is met with: who has no key gets nothing else than that."""
        served = await self._begin(request, dialect)
        behaviour = self._take(served)
        known = request.headers.get("authorization") == f"Bearer {KEY}"
        return served, behaviour if known else Behaviour(status=401)

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        served = await self._begin(request, "anthropic")
        behaviour = self._take(served)
        if request.headers.get("x-api-key") != KEY:
            behaviour = Behaviour(status=401)
        if behaviour.status != 200:
            error = {"type": _anthropic_type(behaviour.status), "message": "no"}
            return _refuse(behaviour, {"type": "error", "error": error, "request_id": "req_synthetic"})
        self._count(served, behaviour)
        if not served.body.get("stream"):
            return await self._whole(request, served, behaviour, anthropic_message(served, behaviour))
        events = [
            f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in anthropic_events(served, behaviour)
        ]
        return await self._stream(request, served, behaviour, events)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        served = await self._begin(request, "openai")
        behaviour = self._take(served)
        if behaviour.status != 200:
            return _refuse(behaviour, {"error": {"message": "no", "type": _openai_type(behaviour.status)}})
        texts: list[str] = served.body["input"]
        served.prompt_tokens = sum(_tokens(text) for text in texts)
        data = [
            {"object": "embedding", "index": index, "embedding": [float(len(text)), 1.0, 0.5]}
            for index, text in enumerate(texts)
        ]
        used = {"prompt_tokens": served.prompt_tokens, "total_tokens": served.prompt_tokens}
        answer: dict[str, Any] = {"object": "list", "model": served.model, "data": data}
        if behaviour.usage:
            answer["usage"] = used
        return await self._whole(request, served, behaviour, answer)

    async def _models(self, request: web.Request) -> web.Response:
        self.looks.append({name.lower(): value for name, value in request.headers.items()})
        return web.json_response({"object": "list", "data": []}, status=self.look_status)

    async def _meter(self, request: web.Request) -> web.Response:
        """Shows the calls, or those whose body holds `?containing=`; their bodies with `?bodies=1`."""
        wanted, bodies = request.query.get("containing", ""), "bodies" in request.query
        meter = Meter([call for call in self.meter.calls if wanted in call.text])
        calls = [{**asdict(call), "body": call.body if bodies else None, "headers": None} for call in meter.calls]
        return web.json_response(
            {
                "calls": calls,
                "confirmed": len(meter.confirmed),
                "unheld": len(meter.unheld),
                "prompt_tokens": meter.prompt_tokens,
                "completion_tokens": meter.completion_tokens,
            }
        )

    async def _behave(self, request: web.Request) -> web.Response:
        asked: dict[str, Any] = await request.json()
        asked["match"] = tuple(asked.get("match", ()))
        if asked.pop("default", False):
            self.default = Behaviour(**asked)
        else:
            self.next(Behaviour(**asked))
        return web.json_response({"queued": len(self.behaviours)})

    async def _release(self, request: web.Request) -> web.Response:
        await self.release((await request.json())["name"])
        return web.json_response({})

    async def _ledger(self, request: web.Request) -> web.Response:
        """Has it ask the cost service's database at `url` from now on."""
        self.ledger = await self.opened.enter_async_context(held_calls((await request.json())["url"]))
        return web.json_response({})

    async def _waited(self, behaviour: Behaviour) -> None:
        await asyncio.sleep(behaviour.wait)
        async with self.news:
            await self.news.wait_for(lambda: not behaviour.held or behaviour.held in self.released)

    async def _begin(self, request: web.Request, dialect: Dialect) -> Served:
        body: dict[str, Any] = await request.json()
        headers = {name.lower(): text for name, text in request.headers.items()}
        served = Served(dialect, body["model"], body, headers, hold_id=headers.get(HOLD_HEADER, ""))
        await self.hold_for(served)
        return served

    async def hold_for(self, served: Served) -> None:
        """Looks whether a prompt is paid for, and counts it."""
        if self.ledger is not None:
            used = served.hold_id in self.used
            self.used.add(served.hold_id)
            served.held = not used and await self.ledger(served.hold_id)
        self.meter.calls.append(served)
        await self._tell()

    async def _tell(self) -> None:
        async with self.news:
            self.news.notify_all()

    def take(self, served: Served) -> Behaviour:
        """Gives what is to be done with a prompt, and counts what it takes."""
        behaviour = self._take(served)
        if behaviour.status == 200:
            self._count(served, behaviour)
        return behaviour

    def _take(self, served: Served) -> Behaviour:
        if not served.held:
            return Behaviour(status=_UNPAID)
        text = served.text
        for behaviour in self.behaviours:
            # Embeddings are made in their own time, so a behaviour that matches a prompt never meets one.
            asked = served.dialect == "responses" or "messages" in served.body
            if not behaviour.match or (asked and all(part in text for part in behaviour.match)):
                self.behaviours.remove(behaviour)
                served.behaviour = behaviour.name
                return behaviour
        return self.default

    def _count(self, served: Served, behaviour: Behaviour) -> None:
        served.prompt_tokens = behaviour.prompt_tokens or max(1, _tokens(json.dumps(_prompt(served))))
        said = _tokens(behaviour.text) + sum(_tokens(arguments) for _, _, arguments in behaviour.tool_calls)
        served.completion_tokens = (behaviour.completion_tokens or said) + behaviour.reasoning_tokens

    async def _whole(
        self, request: web.Request, served: Served, behaviour: Behaviour, answer: dict[str, Any]
    ) -> web.Response:
        text = json.dumps(answer) if behaviour.raw is None else behaviour.raw
        try:
            await self._waited(behaviour)
            if behaviour.cut_after is not None:
                assert request.transport is not None
                request.transport.abort()
            served.confirmed = behaviour.raw is None and behaviour.cut_after is None
        except asyncio.CancelledError:
            served.abandoned = True
            raise
        finally:
            await asyncio.shield(self._tell())
        return web.Response(text=text, content_type="application/json")

    async def _stream(
        self, request: web.Request, served: Served, behaviour: Behaviour, events: list[str]
    ) -> web.StreamResponse:
        try:
            await self._waited(behaviour)
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for number, event in enumerate(events if behaviour.raw is None else [behaviour.raw]):
                if number == behaviour.cut_after:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if number > 0:
                    await asyncio.sleep(behaviour.pause)
                await response.write(event.encode())
            # Whoever has the last event may hang up, and owes the whole answer.
            served.confirmed = behaviour.raw is None
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            served.abandoned = not served.confirmed
            raise
        finally:
            await asyncio.shield(self._tell())
        return response


def openai_chunks(served: Served, behaviour: Behaviour, *, usage: bool) -> list[dict[str, Any]]:
    """Writes a stream as OpenAI does: a role, pieces, a reason, and usage where it was asked for."""
    shape = {"id": "chatcmpl-synthetic", "object": "chat.completion.chunk", "created": 1, "model": served.model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**shape, "choices": [choice], "usage": None}

    chunks = [chunk({"role": "assistant", "content": "", "refusal": None})]
    chunks += [chunk({"reasoning_content": piece}) for piece in _pieces(behaviour.thinking)]
    chunks += [chunk({"refusal": piece}) for piece in _pieces(behaviour.refusal)]
    chunks += [chunk({"content": piece}) for piece in _pieces(behaviour.text)]
    for index, (call, name, arguments) in enumerate(behaviour.tool_calls):
        start = {"index": index, "id": call, "type": "function", "function": {"name": name, "arguments": ""}}
        chunks.append(chunk({"tool_calls": [start]}))
        chunks += [
            chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}) for piece in _pieces(arguments)
        ]
    chunks.append(chunk({}, behaviour.finish or ("tool_calls" if behaviour.tool_calls else "stop")))
    if usage and behaviour.usage:
        chunks.append({**shape, "choices": [], "usage": _openai_usage(served, behaviour)})
    if not usage or not behaviour.usage:
        for item in chunks:
            del item["usage"]
    return chunks


def openai_completion(served: Served, behaviour: Behaviour) -> dict[str, Any]:
    """Writes a whole answer as OpenAI does."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": behaviour.text or None,
        "refusal": behaviour.refusal or None,
    }
    if behaviour.thinking:
        message["reasoning_content"] = behaviour.thinking
    if behaviour.tool_calls:
        message["tool_calls"] = [
            {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call, name, arguments in behaviour.tool_calls
        ]
    finish = behaviour.finish or ("tool_calls" if behaviour.tool_calls else "stop")
    return {
        "id": "chatcmpl-synthetic",
        "object": "chat.completion",
        "created": 1,
        "model": served.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        **({"usage": _openai_usage(served, behaviour)} if behaviour.usage else {}),
    }


def _openai_usage(served: Served, behaviour: Behaviour) -> dict[str, Any]:
    return {
        "prompt_tokens": served.prompt_tokens,
        "completion_tokens": served.completion_tokens,
        "total_tokens": served.prompt_tokens + served.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": behaviour.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": behaviour.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def responses_events(served: Served, behaviour: Behaviour) -> list[dict[str, Any]]:
    """Writes a stream as OpenAI does in its newer dialect: items that are added, grow and are done."""
    whole = responses_response(served, behaviour)
    begun = {**whole, "status": "in_progress", "output": [], "incomplete_details": None, "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(whole["output"]):
        place = {"item_id": item["id"], "output_index": index}
        empty: dict[str, Any] = {"message": {"content": []}, "reasoning": {"summary": []}}.get(
            item["type"], {"arguments": ""}
        )
        start = {**item, **empty, "status": "in_progress"}
        events.append({"type": "response.output_item.added", "output_index": index, "item": start})
        events += [{**event, **place} for event in _growth(item)]
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": f"response.{whole['status']}", "response": whole})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _growth(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Writes how an item of a stream grows to what it is."""
    match item:
        case {"type": "reasoning", "summary": [part]}:
            kind, text, at = "reasoning_summary_text", part["text"], {"summary_index": 0}
            frame, name, beside = "reasoning_summary_part", "text", {}
        case {"type": "message", "content": [{"refusal": str(text)} as part]}:
            kind, at, frame, name, beside = "refusal", {"content_index": 0}, "content_part", "refusal", {}
        case {"type": "message", "content": [part]}:
            kind, text, at = "output_text", part["text"], {"content_index": 0}
            frame, name, beside = "content_part", "text", {"logprobs": []}
        case _:
            kind, said = "response.function_call_arguments", item["arguments"]
            done = {"type": f"{kind}.done", "arguments": said, "name": item["name"]}
            return [*({"type": f"{kind}.delta", "delta": piece} for piece in _pieces(said)), done]
    return [
        {"type": f"response.{frame}.added", **at, "part": {**part, name: ""}},
        *({"type": f"response.{kind}.delta", **at, "delta": piece, **beside} for piece in _pieces(text)),
        {"type": f"response.{kind}.done", **at, name: text, **beside},
        {"type": f"response.{frame}.done", **at, "part": part},
    ]


def responses_response(served: Served, behaviour: Behaviour) -> dict[str, Any]:
    """Writes a whole answer as OpenAI does in its newer dialect."""
    status = "incomplete" if behaviour.finish else "completed"
    output: list[dict[str, Any]] = []
    if behaviour.thinking:
        summary = [{"type": "summary_text", "text": behaviour.thinking}]
        output.append({"id": "rs_synthetic", "type": "reasoning", "summary": summary})
    said = [{"type": "refusal", "refusal": behaviour.refusal}] if behaviour.refusal else []
    if behaviour.text:
        said = [{"type": "output_text", "annotations": [], "logprobs": [], "text": behaviour.text}]
    if said:
        message = {"id": "msg_synthetic", "type": "message", "status": status, "role": "assistant", "content": said}
        output.append(message)
    output += [
        {
            "id": f"fc_synthetic_{call}",
            "type": "function_call",
            "status": "completed",
            "arguments": arguments,
            "call_id": call,
            "name": name,
        }
        for call, name, arguments in behaviour.tool_calls
    ]
    used = {
        "input_tokens": served.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": behaviour.cached_tokens,
            "cache_write_tokens": behaviour.cache_write_tokens,
        },
        "output_tokens": served.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": behaviour.reasoning_tokens},
        "total_tokens": served.prompt_tokens + served.completion_tokens,
    }
    return {
        "id": "resp_synthetic",
        "object": "response",
        "created_at": 1,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": behaviour.finish} if behaviour.finish else None,
        "model": served.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": used if behaviour.usage else None,
    }


def anthropic_events(served: Served, behaviour: Behaviour) -> list[dict[str, Any]]:
    """Writes a stream as Anthropic does: blocks that start, grow and stop, usage at the start and at the end."""
    start = anthropic_message(served, behaviour)
    start["usage"]["output_tokens"] = 1
    start.update(content=[], stop_reason=None)
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    index = 0
    if behaviour.thinking:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [
            {"type": "content_block_delta", "index": index, "delta": {"type": "thinking_delta", "thinking": piece}}
            for piece in _pieces(behaviour.thinking)
        ]
        events.append({"type": "content_block_stop", "index": index})
        index += 1
    if behaviour.text:
        block = {"type": "text", "text": "", "citations": None}
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "ping"})
        events += [
            {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}}
            for piece in _pieces(behaviour.text)
        ]
        events.append({"type": "content_block_stop", "index": index})
        index += 1
    for call, name, arguments in behaviour.tool_calls:
        block = {"type": "tool_use", "id": call, "name": name, "input": {}, "caller": {"type": "direct"}}
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [
            {
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": "input_json_delta", "partial_json": piece},
            }
            for piece in ("", *_pieces(arguments))
        ]
        events.append({"type": "content_block_stop", "index": index})
        index += 1
    end: dict[str, Any] = {"output_tokens": served.completion_tokens}
    if behaviour.reasoning_tokens:
        end["output_tokens_details"] = {"thinking_tokens": behaviour.reasoning_tokens}
    delta = {"stop_reason": _anthropic_finish(behaviour), "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": end})
    events.append({"type": "message_stop"})
    return events


def anthropic_message(served: Served, behaviour: Behaviour) -> dict[str, Any]:
    """Writes a whole answer as Anthropic does."""
    content: list[dict[str, Any]] = []
    if behaviour.thinking:
        content.append({"type": "thinking", "thinking": behaviour.thinking, "signature": "c2ln"})
    if behaviour.text:
        content.append({"type": "text", "text": behaviour.text, "citations": None})
    content += [
        {"type": "tool_use", "id": call, "name": name, "input": _object(arguments), "caller": {"type": "direct"}}
        for call, name, arguments in behaviour.tool_calls
    ]
    usage: dict[str, Any] = {
        "input_tokens": served.prompt_tokens - behaviour.cached_tokens - behaviour.cache_write_tokens,
        "cache_creation_input_tokens": behaviour.cache_write_tokens,
        "cache_read_input_tokens": behaviour.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": behaviour.cache_write_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": served.completion_tokens,
        "service_tier": "standard",
    }
    if behaviour.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": behaviour.reasoning_tokens}
    return {
        "id": "msg_synthetic",
        "type": "message",
        "role": "assistant",
        "model": served.model,
        "content": content,
        "stop_reason": _anthropic_finish(behaviour),
        "stop_sequence": None,
        "usage": usage,
    }


def _anthropic_finish(behaviour: Behaviour) -> str:
    return behaviour.finish or ("tool_use" if behaviour.tool_calls else "end_turn")


def _refuse(behaviour: Behaviour, body: dict[str, Any]) -> web.Response:
    text = json.dumps(body) if behaviour.raw is None else behaviour.raw
    return web.Response(
        status=behaviour.status, text=text, content_type="application/json", headers=dict(behaviour.headers)
    )


def _openai_error(behaviour: Behaviour) -> dict[str, Any]:
    return {"error": {"message": "no", "type": _openai_type(behaviour.status), "param": None, "code": None}}


def _openai_type(status: int) -> str:
    kinds = {401: "invalid_request_error", 429: "requests", 400: "invalid_request_error"}
    return kinds.get(status, "server_error")


def _anthropic_type(status: int) -> str:
    kinds = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
    kinds |= {404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
    return kinds.get(status, "api_error")


def _object(arguments: str) -> dict[str, Any]:
    try:
        return json.loads(arguments)
    except ValueError:
        return {}


def _pieces(text: str) -> list[str]:
    """Cuts text as a model's tokens would: words with the space before them."""
    words = text.split(" ")
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)] if text else []


def _prompt(served: Served) -> Any:
    return served.body["input" if served.dialect == "responses" else "messages"]


def _tokens(text: str) -> int:
    return -(-len(text) // 4)


@asynccontextmanager
async def fake_provider(*, port: int = 0) -> AsyncGenerator[FakeProvider]:
    """Serves on the loopback while the block runs."""
    provider = FakeProvider()
    runner = web.AppRunner(provider.application(), handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        provider.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with provider.opened:
            yield provider
    finally:
        await runner.cleanup()


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    async with fake_provider(port=parser.parse_args().port) as provider:
        print(provider.address, flush=True)
        await asyncio.Event().wait()


async def collected(stream: AsyncIterator[Any]) -> list[Any]:
    """Gives everything a stream gives."""
    return [item async for item in stream]


if __name__ == "__main__":
    asyncio.run(_main())
