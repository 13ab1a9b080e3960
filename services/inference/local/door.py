"""The HTTP door of the local model: /health, /v1/models, /v1/chat/completions and /v1/embeddings in OpenAI's dialect.

aiohttp serves it, since the process needs a plain loopback server and nothing that a framework adds.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec
from aiohttp import web

from services.inference.local.chat import Chat
from services.inference.local.embedder import Embedder
from services.inference.local.settings import LocalModelSettings
from services.inference.local.whole_answer import whole_answer
from services.meshkit.core.errors import Exhausted

#: Longest request, bytes: the longest prompt that inference sends, with room for its JSON.
_MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
_MAX_TEXTS: Final = 256
_ERROR: Final = b'{"error"'
_JSON: Final = "application/json"


class _Messages(msgspec.Struct):
    messages: list[dict[str, Any]]
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None


class _Texts(msgspec.Struct):
    input: str | list[str]


class _ErrorBody(msgspec.Struct):
    code: int = 500


class _ErrorChunk(msgspec.Struct):
    error: _ErrorBody


class Door:
    """Answers HTTP requests by the two models."""

    def __init__(self, settings: LocalModelSettings, chat: Chat, embedder: Embedder | None) -> None:
        self._settings = settings
        self._chat = chat
        self._embedder = embedder

    def application(self) -> web.Application:
        """Makes the application to serve."""
        application = web.Application(client_max_size=_MAX_REQUEST_BYTES, middlewares=[_mapped_errors])
        application.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat_completions),
                web.post("/v1/embeddings", self._embeddings),
            ]
        )
        return application

    async def _health(self, _: web.Request) -> web.Response:
        state = {
            "status": "ok",
            "answers_waiting": self._chat.admitted,
            "texts_waiting": self._embedder.waiting_texts if self._embedder is not None else None,
        }
        return _json(state)

    async def _models(self, _: web.Request) -> web.Response:
        names = [self._settings.model, *([self._settings.embedding_model] if self._embedder is not None else [])]
        return _json({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def _chat_completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = msgspec.json.decode(body, type=_Messages)
        if not asked.messages:
            return _error(400, "messages must hold at least one message")
        # Checked above; the rest of the object is handed on as it came.
        fields: dict[str, Any] = msgspec.json.decode(body)
        async with aclosing(self._chat.stream(fields)) as chunks:
            first = await anext(chunks, b"")
            if not first or first.startswith(_ERROR):
                return _refusal(first)
            if not asked.stream:
                return _json(whole_answer([first, *[chunk async for chunk in chunks]]))
            response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
            await response.prepare(request)
            await response.write(b"data: %b\n\n" % first)
            async for chunk in chunks:
                await response.write(b"data: %b\n\n" % chunk)
            await response.write(b"data: [DONE]\n\n")
            return response

    async def _embeddings(self, request: web.Request) -> web.Response:
        if self._embedder is None:
            return _error(404, "the embedding model is not installed; run `make setup`")
        asked = msgspec.json.decode(await request.read(), type=_Texts)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not 1 <= len(texts) <= _MAX_TEXTS:
            return _error(400, f"input must hold 1 to {_MAX_TEXTS} texts")
        made = await self._embedder.embed(texts)
        used = sum(text.tokens for text in made)
        return _json(
            {
                "object": "list",
                "model": self._settings.embedding_model,
                "data": [
                    {"object": "embedding", "index": index, "embedding": text.vector} for index, text in enumerate(made)
                ],
                "usage": {"prompt_tokens": used, "total_tokens": used},
            }
        )


@web.middleware
async def _mapped_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except msgspec.MsgspecError as error:
        return _error(400, f"the body is no such request: {error}")
    except Exhausted as error:
        return _error(429, error.message, headers={"retry-after": "1"})


def _refusal(chunk: bytes) -> web.Response:
    if not chunk:
        return _error(500, "the model gave no answer")
    code = msgspec.json.decode(chunk, type=_ErrorChunk).error.code
    return web.Response(status=code if 400 <= code < 600 else 500, body=chunk, content_type=_JSON)


def _error(status: int, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error", "code": status}}),
        content_type=_JSON,
        headers=headers,
    )


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type=_JSON)
