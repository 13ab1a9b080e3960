"""OpenAI by its official client: it writes the request and reads the answer, and we read what it understood.

Loaded with the first call that wants it (`providers/sdk_form.py`).
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec
from openai import APIError, AsyncOpenAI

from services.inference.domain.answer import Piece, TextDelta, Whole
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import OPENAI, ChatReader, Endpoint, chat_body
from services.inference.providers.openai.chat_wire import Chunk, Manners
from services.inference.providers.openai.responses import ResponseReader, responses_body
from services.inference.providers.openai.responses_wire import WireEvent, WireResponse
from services.inference.providers.sdk_shape import MAX_CHOICES, raise_if_longer
from services.inference.providers.sdk_transport import NO_KEY, Exchange, OfficialClient, client_over
from services.inference.usecases.ports import ProviderCall

_CHUNKS: Final = msgspec.json.Decoder(Chunk)
_EVENTS: Final = msgspec.json.Decoder(WireEvent)
_RESPONSES: Final = msgspec.json.Decoder(WireResponse)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: What a response says again of its request, and what stands in its place.
_ECHOED: Final = {"tools": msgspec.Raw(b"[]"), "instructions": msgspec.Raw(b"null"), "text": msgspec.Raw(b"null")}
# Its log shows prompts where it is told to by the environment.
logging.getLogger("openai").setLevel(logging.WARNING)


def _client(http: ProviderHttp, endpoint: Endpoint) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key=NO_KEY,
        base_url=endpoint.base_url,
        max_retries=0,
        timeout=None,
        http_client=client_over(http, endpoint.headers()),
    )


def _chat_shape(data: bytes) -> tuple[bytes, int]:
    chunk = _CHUNKS.decode(data)
    if len(chunk.choices) > MAX_CHOICES:
        raise msgspec.ValidationError("more answers than were asked for")
    for choice in chunk.choices:
        for said in (choice.delta, choice.message):
            raise_if_longer(said.calls if said is not None else ())
    return data, 0


def _response_shape(data: bytes) -> tuple[bytes, int]:
    _check(_RESPONSES.decode(data))
    return _without_echo(data), 0


def _event_shape(data: bytes) -> tuple[bytes, int]:
    response = _EVENTS.decode(data).response
    if response is None:
        return data, 0
    _check(response)
    fields = _FIELDS.decode(data)
    return msgspec.json.encode({**fields, "response": msgspec.Raw(_without_echo(fields["response"]))}), 0


def _check(response: WireResponse) -> None:
    items = response.output or ()
    raise_if_longer(items, *(item.content or () for item in items))


def _without_echo(response: bytes | msgspec.Raw) -> bytes:
    """Leaves out what was asked and is only said again: tools alone would be most of the objects."""
    fields = _FIELDS.decode(response)
    return msgspec.json.encode({**fields, **{name: _ECHOED[name] for name in fields.keys() & _ECHOED.keys()}})


class ChatBySdk:
    """Asks for chat completions."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint, manners: Manners = OPENAI) -> None:
        self._client = OfficialClient(_client(http, endpoint).chat.completions.create, error=APIError)
        self._manners = manners

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        answer = ChatReader(call.deployment)
        exchange = Exchange(call=call, streamed=True, shape=_chat_shape)
        arguments = msgspec.json.decode(chat_body(call, self._manners, stream=True))
        async with aclosing(self._client.events(exchange, arguments)) as chunks:
            async for chunk in chunks:
                for piece in answer.take(chunk):
                    yield piece
        answer.done = exchange.done
        yield answer.finished(ends_with_done=self._manners.ends_with_done)

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        arguments = msgspec.json.decode(chat_body(call, self._manners, stream=False))
        raw = await self._client.body(Exchange(call=call, streamed=False, shape=_chat_shape), arguments)
        answer = ChatReader(call.deployment)
        text = "".join(piece.text for piece in answer.take(raw) if isinstance(piece, TextDelta))
        return Whole(text=text, finished=answer.finished(ends_with_done=False))


class ResponsesBySdk:
    """Asks for responses."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        self._client = OfficialClient(_client(http, endpoint).responses.create, error=APIError)

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        answer = ResponseReader(call.deployment)
        arguments = msgspec.json.decode(responses_body(call, stream=True))
        async with aclosing(
            self._client.events(Exchange(call=call, streamed=True, shape=_event_shape), arguments)
        ) as events:
            async for event in events:
                for piece in answer.take(event):
                    yield piece
                if answer.ended:
                    break
        yield answer.finished()

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        arguments = msgspec.json.decode(responses_body(call, stream=False))
        raw = await self._client.body(Exchange(call=call, streamed=False, shape=_response_shape), arguments)
        answer = ResponseReader(call.deployment)
        return Whole(text=answer.take_whole(raw), finished=answer.finished())
