"""Streams that outlive a broken connection."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from random import random
from typing import Final, Protocol, TypeVar

from comitia_sdk.errors import ComitiaError, InternalFailure, MeshUnavailable, TimedOut

#: So many times in a row a stream is taken up again without an event in between; about half a minute.
TRIES: Final = 10
#: First and longest pause between two tries, seconds.
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
#: A stream that lived as long as this was well, even if nothing was said on it, seconds.
_WELL: Final = 10.0
#: Reasons of failures that the transport reports, not the mesh.
_TRANSPORT: Final = frozenset({"INTERNAL", "UNKNOWN", "CANCELLED"})


class Event(Protocol):
    """A message of a stream, numbered."""

    @property
    def sequence(self) -> int:
        """Its number."""
        ...


OneEvent = TypeVar("OneEvent", bound=Event)


async def resumed(
    open_after: Callable[[int], AsyncGenerator[OneEvent]],
    after: int,
    *,
    recorded: Callable[[OneEvent], bool],
    last: Callable[[OneEvent], bool],
    over: Callable[[int], Awaitable[bool]],
) -> AsyncGenerator[OneEvent]:
    """Gives a stream's events; a stream that breaks is taken up after its last recorded event, which never comes twice.

    Args:
        open_after: opens the stream after a sequence.
        recorded: tells whether an event will come again; the others are only live.
        last: tells whether nothing comes after an event; the stream then ends however it ends.
        over: asked when the stream ends in peace: whether nothing comes after this sequence any more.
    Raises: ComitiaError: it could not be opened at all, was refused, or broke too many times in a row.
    """
    tries = 0
    begun = ended = False
    while True:
        opened = time.monotonic()
        heard = False
        failure: ComitiaError | None = None
        try:
            async with aclosing(open_after(after)) as events:
                async for event in events:
                    heard = True
                    if recorded(event):
                        if event.sequence <= after:
                            continue
                        after = event.sequence
                    ended = ended or last(event)
                    yield event
        except ComitiaError as error:
            if not _may_pass(error):
                raise
            failure = error
        if ended or (failure is None and await over(after)):
            return
        well = heard or time.monotonic() - opened > _WELL
        begun = begun or well
        if failure is not None and not begun:
            raise failure
        tries = 0 if well else tries + 1
        if tries >= TRIES:
            raise failure or MeshUnavailable("the stream ended again and again", reason="STREAM_ENDED")
        await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries) * (0.5 + random() / 2))


def _may_pass(error: ComitiaError) -> bool:
    """Tells whether another try may go well: the connection broke, or its time was up."""
    if isinstance(error, InternalFailure):
        return error.reason in _TRANSPORT
    return isinstance(error, MeshUnavailable | TimedOut)
