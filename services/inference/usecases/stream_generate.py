"""Asks a model and shows the answer as it comes, once the law has passed it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from services.inference.domain.answer import StreamEvent
from services.inference.usecases.asked import Asked
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.model_call import ModelCall


class StreamGenerate:
    """Streams one answer per call id; who attaches later gets what was released before, too."""

    def __init__(self, *, model_call: ModelCall, in_flight: CallsInFlight) -> None:
        self._model_call = model_call
        self._in_flight = in_flight

    async def __call__(self, asked: Asked) -> AsyncGenerator[StreamEvent]:
        """Gives text, restarts, and the answer as the last event. See `ModelCall` for what it raises."""
        work = partial(self._model_call, asked, streamed=True)
        async with (
            self._in_flight.join(asked.key, asked.arguments_hash, work, when_left=asked.seconds_alone) as flight,
            aclosing(flight.follow()) as events,
        ):
            async for event in events:
                yield event
            yield await flight.answer()
