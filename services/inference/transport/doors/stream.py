"""Writes server-sent events as they come, and signs of life while nothing does."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, Protocol, TypeVar

from aiohttp import web

from services.inference.domain.answer import Answer, Restarted, StreamEvent, TextDelta
from services.inference.domain.errors import AnswerBrokeOff
from services.inference.transport.doors.conversation import Conversation
from services.inference.transport.doors.door import Asking, Visit, Writes
from services.inference.transport.doors.headers import answer_headers
from services.inference.usecases.asked import Asked
from services.meshkit.core.errors import Internal, MeshError

#: Pause after which a sign of life is sent, seconds.
QUIET_SECONDS: Final = 10.0

Event = TypeVar("Event")


async def with_pauses(events: AsyncGenerator[Event], *, seconds: float = QUIET_SECONDS) -> AsyncGenerator[Event | None]:
    """Gives the events, and None whenever none came for so long."""
    coming = asyncio.ensure_future(anext(events))
    try:
        while True:
            await asyncio.wait((coming,), timeout=seconds)
            if not coming.done():
                yield None
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            yield event
            coming = asyncio.ensure_future(anext(events))
    finally:
        coming.cancel()
        await asyncio.wait((coming,))
        if not coming.cancelled():
            coming.exception()  # Looked at here, so that one nobody waited for is not called unhandled.
        await events.aclose()


class Says(Protocol):
    """Writes one answer in the dialect of a door, as a whole."""

    def whole(self, answer: Answer) -> bytes:
        """Writes it."""
        ...


async def answered(
    visit: Visit, asking: Asking, asked: Asked, *, of: Conversation, said: Says, as_stream: Writes | None, quiet: bytes
) -> web.StreamResponse:
    """Makes a call and sends its answer.

    Args:
        of: what was said, by which a failure names the field at fault.
        as_stream: writes the answer as it comes; None: it is sent as a whole.
        quiet: what a stream sends when nothing came for long.
    Raises: MeshError, as `streamed`.
    """
    calls = asking.calls(asked)
    try:
        if as_stream is not None:
            return await streamed(visit, calls.stream(asked), as_stream, quiet=quiet)
        answer = await calls.answer(asked)
    except MeshError as failure:
        raise of.in_dialect(failure) from failure
    headers = {**visit.headers, **answer_headers(answer)}
    return web.Response(body=said.whole(answer), content_type="application/json", headers=headers)


async def streamed(
    visit: Visit, events: AsyncGenerator[StreamEvent], said: Writes, *, quiet: bytes
) -> web.StreamResponse:
    """Sends an answer as it comes.

    Args:
        quiet: what is sent when nothing came for long.
    Raises: MeshError; before the head of the response has left it becomes the status, after that an event.
    """
    coming = with_pauses(events)
    async with aclosing(coming):
        async for event in coming:
            match event:
                case TextDelta(text=text):
                    response = visit.begun or await _begun(visit, said)
                    await response.write(said.text(text))
                case Answer():
                    if visit.begun is None:
                        visit.headers.update(answer_headers(event))
                    response = visit.begun or await _begun(visit, said)
                    await response.write(said.end(event))
                    await response.write_eof()
                    return response
                case Restarted(deployment=deployment) if visit.begun is not None:
                    raise AnswerBrokeOff(deployment)
                case None if visit.begun is not None:
                    await visit.begun.write(quiet)
                case _:
                    pass
    raise Internal("a call of a model ended without an answer")


async def _begun(visit: Visit, said: Writes) -> web.StreamResponse:
    """Sends the head of a stream. From here on a failure is told in the stream."""
    response = web.StreamResponse(
        headers={"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **visit.headers}
    )
    await response.prepare(visit.request)
    visit.begun, visit.said = response, said
    return response
