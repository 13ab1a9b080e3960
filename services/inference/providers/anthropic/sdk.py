"""Anthropic by its official client: it writes the request and reads the answer, and we read what it understood.

Loaded with the first call that wants it (`providers/sdk_form.py`).
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec
from anthropic import AnthropicError, AsyncAnthropic

from services.inference.domain.answer import Piece, Whole
from services.inference.providers.anthropic.messages import MessageReader, anthropic_headers, messages_body
from services.inference.providers.anthropic.wire import Event
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import Endpoint
from services.inference.providers.sdk_shape import objects_in, raise_if_longer
from services.inference.providers.sdk_transport import NO_KEY, Exchange, OfficialClient, client_over
from services.inference.usecases.ports import ProviderCall

#: Taken by the dialect, and named by the client no more.
_UNNAMED: Final = ("temperature", "top_p", "top_k")
_EVENTS: Final = msgspec.json.Decoder(Event)
# Its log shows prompts where it is told to by the environment.
logging.getLogger("anthropic").setLevel(logging.WARNING)


class MessagesBySdk:
    """Asks for messages."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        client = AsyncAnthropic(
            api_key=NO_KEY,
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=None,
            # Calls have spans of ours.
            open_telemetry=False,
            http_client=client_over(http, anthropic_headers(endpoint)),
        )
        self._client = OfficialClient(client.messages.create, error=AnthropicError)

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        answer = MessageReader(call.deployment)
        exchange = Exchange(call=call, streamed=True, shape=_shape)
        async with aclosing(self._client.events(exchange, _arguments(call, stream=True))) as events:
            async for event in events:
                piece = answer.take(event)
                if piece is not None:
                    yield piece
                if answer.stopped:
                    break
        yield answer.finished()

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        raw = await self._client.body(Exchange(call=call, streamed=False, shape=_shape), _arguments(call, stream=False))
        answer = MessageReader(call.deployment)
        text = answer.take_whole(raw)
        return Whole(text=text, finished=answer.finished())


def _arguments(call: ProviderCall, *, stream: bool) -> dict[str, object]:
    body: dict[str, object] = msgspec.json.decode(messages_body(call, stream=stream))
    unnamed = {name: body.pop(name) for name in _UNNAMED if name in body}
    return {**body, "extra_body": unnamed}


def _shape(data: bytes) -> tuple[bytes, int]:
    content = _EVENTS.decode(data).content
    raise_if_longer(content)
    written = (msgspec.json.encode(block.input) for block in content if block.type == "tool_use" and block.input)
    return data, sum(objects_in(one) for one in written)
