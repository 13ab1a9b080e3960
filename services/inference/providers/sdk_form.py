"""The form `sdk` of an adapter: what it is asked by is the official client of its provider."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from services.inference.domain.answer import Piece, Whole
from services.inference.providers import failures
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import AZURE, Endpoint
from services.inference.usecases.ports import ModelProvider, ProviderCall

#: Loads an official client and opens it at an address.
Load = Callable[[ProviderHttp, Endpoint], ModelProvider]


class LoadedLate:
    """Asks by a client that is loaded with the first call: it takes a second and 25 MB, which most never need.

    Args:
        load: runs in a thread, so that other calls go on meanwhile.
    """

    def __init__(self, http: ProviderHttp, endpoint: Endpoint, *, load: Load) -> None:
        self._http = http
        self._endpoint = endpoint
        self._load = load
        self._loading = asyncio.Lock()
        self._loaded: ModelProvider | None = None

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        provider, call = await self._ready(call)
        async with aclosing(provider.stream(call)) as pieces:
            async for piece in pieces:
                yield piece

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        provider, call = await self._ready(call)
        return await provider.whole(call)

    async def _ready(self, call: ProviderCall) -> tuple[ModelProvider, ProviderCall]:
        """Gives the client, and the call with the time that is left for it."""
        if self._loaded is not None:
            return self._loaded, call
        loop = asyncio.get_running_loop()
        until = loop.time() + call.seconds
        try:
            async with asyncio.timeout_at(until), self._loading:
                if self._loaded is None:
                    self._loaded = await asyncio.to_thread(self._load, self._http, self._endpoint)
        except TimeoutError as cause:
            raise failures.unreachable(call.deployment.name) from cause
        return self._loaded, replace(call, seconds=until - loop.time())


def chat_client(http: ProviderHttp, endpoint: Endpoint) -> ModelProvider:
    """Loads OpenAI's client, for chat completions."""
    from services.inference.providers.openai.sdk import ChatBySdk

    return ChatBySdk(http, endpoint)


def responses_client(http: ProviderHttp, endpoint: Endpoint) -> ModelProvider:
    """Loads OpenAI's client, for responses."""
    from services.inference.providers.openai.sdk import ResponsesBySdk

    return ResponsesBySdk(http, endpoint)


def azure_client(http: ProviderHttp, endpoint: Endpoint) -> ModelProvider:
    """Loads OpenAI's client, for Azure."""
    from services.inference.providers.openai.sdk import ChatBySdk

    return ChatBySdk(http, endpoint, AZURE)


def messages_client(http: ProviderHttp, endpoint: Endpoint) -> ModelProvider:
    """Loads Anthropic's client."""
    from services.inference.providers.anthropic.sdk import MessagesBySdk

    return MessagesBySdk(http, endpoint)
