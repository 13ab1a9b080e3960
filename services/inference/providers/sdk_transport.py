"""How official clients of providers are asked: over our connections, as everything goes that goes to a provider.

So egress, time limits, sizes, the hold in the headers and the meaning of failures are the same in both forms, and there
is no way around them. Loaded with a client only.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx2
import msgspec

from services.inference.domain.errors import ProviderFailure
from services.inference.providers import failures
from services.inference.providers.http import ProviderHttp
from services.inference.providers.sdk_shape import (
    MAX_OBJECTS,
    Shape,
    most_bytes,
    most_objects_of_stream,
    objects_in,
)
from services.inference.providers.sse import SseEvent
from services.inference.usecases.ports import ProviderCall

#: What a client is told in the place of the key: the real one goes into no object and no log of another package.
NO_KEY: Final = "kept-by-comitia"
_DONE: Final = b"[DONE]"
_JSON: Final = {"content-type": "application/json"}
_EVENTS: Final = {"content-type": "text/event-stream"}


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One call that a client makes."""

    call: ProviderCall
    streamed: bool
    shape: Shape
    #: What its answer had so far.
    objects: int = 0
    #: True once the stream said that it ends, which clients keep to themselves.
    done: bool = False


#: The call that is made in this task: clients take no word of ours along to their transport.
_MAKING: Final[ContextVar[Exchange]] = ContextVar("comitia_sdk_exchange")


class OfficialClient:
    """Asks by one method of an official client.

    Args:
        create: the method. Untyped: it is given the body of the wire form, which tests hold against the client's types.
        error: what the client raises for whatever went wrong on the way.
    """

    def __init__(self, create: Callable[..., Awaitable[Any]], *, error: type[Exception]) -> None:
        self._create = create
        self._error = error

    async def events(self, exchange: Exchange, arguments: Mapping[str, object]) -> AsyncGenerator[bytes]:
        """Gives what the client understood of each event, as JSON. Raises: ProviderFailure."""
        with self._failures_told(exchange):
            stream = await self._made(exchange, arguments)
            async with stream:
                async for event in stream:
                    yield _json(event, exchange)

    async def body(self, exchange: Exchange, arguments: Mapping[str, object]) -> bytes:
        """Gives what the client understood of the whole answer, as JSON. Raises: ProviderFailure."""
        with self._failures_told(exchange):
            return _json(await self._made(exchange, arguments), exchange)

    async def _made(self, exchange: Exchange, arguments: Mapping[str, object]) -> Any:
        token = _MAKING.set(exchange)
        try:
            return await self._create(**arguments)
        finally:
            _MAKING.reset(token)

    @contextmanager
    def _failures_told(self, exchange: Exchange) -> Generator[None]:
        name = exchange.call.deployment.name
        try:
            yield
        except self._error as cause:
            if isinstance(cause.__cause__, ProviderFailure):
                raise cause.__cause__ from None
            # An error inside a stream; of one client it is what stands under `error`, of the other all of it.
            body: Any = getattr(cause, "body", None)
            all_of_it = isinstance(body, dict) and "error" in body
            raise failures.error_event(name, msgspec.json.encode(body if all_of_it else {"error": body})) from cause
        except (ValueError, RecursionError) as cause:
            # What was given to the client is no JSON.
            raise failures.garbage(name) from cause


def _json(said: Any, exchange: Exchange) -> bytes:
    if not hasattr(said, "to_json"):
        raise failures.garbage(exchange.call.deployment.name)
    written: str = said.to_json(indent=None, warnings=False)
    return written.encode()


def client_over(http: ProviderHttp, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    """Gives what a client sends its requests by.

    Args:
        headers: all that goes with each: nothing of what a client says of itself, its machine or its environment.
    """
    return httpx2.AsyncClient(transport=_OverOurConnections(http, headers), trust_env=False, follow_redirects=False)


class _OverOurConnections(httpx2.AsyncBaseTransport):
    def __init__(self, http: ProviderHttp, headers: Mapping[str, str]) -> None:
        self._http = http
        self._headers = headers

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Posts; what is no answer is raised as a failure, so a client sees answers only."""
        exchange = _MAKING.get()
        call, url, body = exchange.call, str(request.url), await request.aread()
        if exchange.streamed:
            events = self._http.events(
                call.deployment.name,
                url,
                self._headers,
                body,
                call.clearance,
                seconds=call.seconds,
                first_byte_seconds=call.first_byte_seconds,
                between_seconds=call.between_seconds,
                most_bytes=most_bytes(call, body, streamed=True),
            )
            return httpx2.Response(200, headers=_EVENTS, stream=_Stream(events, exchange))
        raw = await self._http.body(
            call.deployment.name,
            url,
            self._headers,
            body,
            call.clearance,
            seconds=call.seconds,
            between_seconds=call.between_seconds,
            most_bytes=most_bytes(call, body, streamed=False),
        )
        return httpx2.Response(200, headers=_JSON, content=_handed(exchange, raw))


class _Stream(httpx2.AsyncByteStream):
    """The events as bytes again. Closing it closes the socket."""

    def __init__(self, events: AsyncGenerator[SseEvent], exchange: Exchange) -> None:
        self._events = events
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._exchange.done:
            return
        async for event in self._events:
            self._exchange.done = event.data == _DONE
            if self._exchange.done:
                yield _written(event)
                return
            yield _written(replace(event, data=_handed(self._exchange, event.data)))
            # However many came at once, other calls go on between them.
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        await self._events.aclose()


def _handed(exchange: Exchange, data: bytes) -> bytes:
    """Gives what a client is handed of an answer or an event. Raises: ProviderFailure: it is none."""
    name = exchange.call.deployment.name
    try:
        handed, arguments = exchange.shape(data)
        objects = objects_in(handed) - arguments
    except failures.UNREADABLE as cause:
        raise failures.garbage(name) from cause
    exchange.objects += objects
    if objects > MAX_OBJECTS or exchange.objects > most_objects_of_stream(exchange.call):
        raise failures.garbage(name)
    return handed


def _written(event: SseEvent) -> bytes:
    kind = b"event: %b\n" % event.type.encode() if event.type else b""
    return b"%b%b\n" % (kind, b"".join(b"data: %b\n" % line for line in event.data.split(b"\n")))
