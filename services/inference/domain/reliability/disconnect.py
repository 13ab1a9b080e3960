"""What becomes of a call when the last one who followed it has left."""

from math import inf
from typing import Final

from services.inference.domain.call_policy import OnDisconnect

#: How long an answer that nobody waits for is read on to learn its usage, seconds, and how many are at once.
DRAIN_SECONDS: Final = 60.0
MOST_DRAINED: Final = 64


def seconds_alone(policy: OnDisconnect, *, repeatable: bool, others: int) -> float:
    """Gives how long a call goes on without anybody who follows it, seconds; 0: it is cancelled at once.

    Args:
        repeatable: True when it has an id by which somebody can come back for the answer.
        others: calls that go on alone already.
    """
    match policy:
        case OnDisconnect.DETACH if repeatable:
            return inf
        case OnDisconnect.CANCEL:
            return 0.0
        case _:
            # One that nobody can come back for is read on for its usage only.
            return DRAIN_SECONDS if others < MOST_DRAINED else 0.0
