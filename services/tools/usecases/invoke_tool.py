"""Calls a tool and waits for its result."""

from functools import partial

from services.tools.domain.invocation import Invocation
from services.tools.usecases.asked import Asked
from services.tools.usecases.calls_in_flight import CallsInFlight
from services.tools.usecases.tool_call import ToolCall


class InvokeTool:
    """Gives one outcome per call id, however often it is asked for."""

    def __init__(self, *, tool_call: ToolCall, in_flight: CallsInFlight) -> None:
        self._tool_call = tool_call
        self._in_flight = in_flight

    async def __call__(self, asked: Asked) -> Invocation:
        """Makes the call, or attaches to the one in flight. See `ToolCall` for what it raises."""
        work = partial(self._tool_call, asked, streamed=False)
        async with self._in_flight.join(asked.key, asked.arguments_hash, work) as flight:
            return (await flight.answer()).raised(asked.choice)
