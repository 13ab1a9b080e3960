"""Calls of models that are being made: a repeat of one attaches to it instead of asking the model again."""

from collections.abc import Callable
from typing import Final

from services.inference.domain.answer import Answer, StreamEvent
from services.inference.domain.errors import CallArgumentsDiffer, ModelBusy
from services.meshkit.calls import in_flight

#: Shows an event to whoever follows the call.
Release = Callable[[StreamEvent], None]

_NAME: Final = "inference_calls"


class CallsInFlight(in_flight.CallsInFlight[StreamEvent, Answer]):
    """All calls that this replica is making, at most `most`. One whose last follower leaves early is cancelled."""

    def __init__(self, *, most: int) -> None:
        super().__init__(_NAME, most=most, stop_unfollowed=True, differs=CallArgumentsDiffer, busy=ModelBusy)
