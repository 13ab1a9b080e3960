"""Asks a model and waits for the whole answer."""

from functools import partial

from services.inference.domain.answer import Answer
from services.inference.usecases.asked import Asked
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.model_call import ModelCall


class Generate:
    """Gives one answer per call id, however often it is asked for."""

    def __init__(self, *, model_call: ModelCall, in_flight: CallsInFlight) -> None:
        self._model_call = model_call
        self._in_flight = in_flight

    async def __call__(self, asked: Asked) -> Answer:
        """Makes the call, or attaches to the one in flight. See `ModelCall` for what it raises."""
        work = partial(self._model_call, asked, streamed=False)
        async with self._in_flight.join(asked.key, asked.arguments_hash, work, when_left=asked.seconds_alone) as flight:
            return await flight.answer()
