"""Calls a tool and shows its result as it comes, once the law has passed it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Final

from services.meshkit.content import text_of
from services.tools.domain.invocation import Invocation
from services.tools.usecases.asked import Asked
from services.tools.usecases.calls_in_flight import CallsInFlight
from services.tools.usecases.tool_call import ToolCall

#: Longest piece of text in one event, characters.
_PIECE: Final = 16_384


class StreamInvokeTool:
    """Streams one outcome per call id; who attaches later gets what was released before, too."""

    def __init__(self, *, tool_call: ToolCall, in_flight: CallsInFlight) -> None:
        self._tool_call = tool_call
        self._in_flight = in_flight

    async def __call__(self, asked: Asked) -> AsyncGenerator[str | Invocation]:
        """Gives text, and the finished call as the last event. See `ToolCall` for what it raises.

        What of the result was not released while it came is released before the end. A result whose beginning the law
        changed after it was released stands in the finished call only.
        """
        work = partial(self._tool_call, asked, streamed=True)
        released: list[str] = []
        async with (
            self._in_flight.join(asked.key, asked.arguments_hash, work) as flight,
            aclosing(flight.follow()) as pieces,
        ):
            async for piece in pieces:
                released.append(piece)
                yield piece
            invocation = await flight.answer()
        shown, whole = "".join(released), text_of(invocation.parts)
        if whole.startswith(shown):
            for start in range(len(shown), len(whole), _PIECE):
                yield whole[start : start + _PIECE]
        yield invocation.raised(asked.choice)
