"""Calls of tools that are being made: a repeat of one attaches to it instead of running the tool again."""

from collections.abc import Callable
from typing import Final

from services.meshkit.calls import in_flight
from services.tools.domain.errors import CallArgumentsDiffer, TooManyToolCalls
from services.tools.domain.invocation import Invocation

#: Releases text to whoever follows the call.
Release = Callable[[str], None]

_NAME: Final = "tool_calls"


class CallsInFlight(in_flight.CallsInFlight[str, Invocation]):
    """All calls that this replica is making, at most `most`.

    A call runs to its end whatever happens to its askers: tools only read, and their time is short. So its record and
    its money are always dealt with, and who asks again finds the outcome.
    """

    def __init__(self, *, most: int) -> None:
        super().__init__(_NAME, most=most, stop_unfollowed=False, differs=CallArgumentsDiffer, busy=TooManyToolCalls)
