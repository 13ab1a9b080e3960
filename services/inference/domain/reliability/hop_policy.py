"""What follows a failure: the same deployment again, the next one, or the end."""

from enum import Enum
from typing import Final

from services.inference.domain.errors import OutputInvalid, ProviderRateLimited, ProviderRefused, ProviderUnavailable

#: The first pause before a repeat is up to this long, seconds; each further one up to twice as long as the one before.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
#: A pause takes at most this share of the time that is left: the repeat needs some, too.
_SHARE_OF_TIME_LEFT: Final = 0.5
#: What cost says when nobody knows a model's price: the chain then goes on, for a later model may have one.
PRICE_UNKNOWN: Final = "PRICE_UNKNOWN"


class Move(Enum):
    """What follows a failure."""

    #: The same deployment is asked again, if it may be; else the next.
    AGAIN = "again"
    ON = "on"
    #: No other could do better: the caller hears of it.
    END = "end"


#: All that can be helped by another attempt; whatever is not here ends the call. A provider that refuses a request
#: refuses it again, while another may have another key, or take what this one does not.
_MOVES: Final = {
    ProviderUnavailable.reason: Move.AGAIN,
    ProviderRateLimited.reason: Move.AGAIN,
    ProviderRefused.reason: Move.ON,
    OutputInvalid.reason: Move.ON,
    PRICE_UNKNOWN: Move.ON,
}


def move_after(reason: str, *, tried: int, tries: int) -> Move:
    """Says what follows a failure.

    Args:
        tried: times that this deployment was asked in this call, >= 1.
        tries: times that it may be.
    """
    move = _MOVES.get(reason, Move.END)
    return Move.ON if move is Move.AGAIN and tried >= tries else move


def pause_before_repeat(*, tried: int, asked_for: float, left: float, dice: float) -> float | None:
    """Gives how long to wait before a deployment is asked again, seconds; None: there is no time for that.

    Full jitter, so that callers that failed together do not come back together; never before the provider asked for.
    Source: Brooker, Exponential Backoff And Jitter, 2015.

    Args:
        tried: times that it was asked in this call, >= 1.
        asked_for: seconds that the provider asked to wait, >= 0.
        left: seconds until the deadline.
        dice: 0 to 1.
    """
    most = min(_FIRST_PAUSE * 2.0 ** (tried - 1), _LONGEST_PAUSE)
    pause = asked_for + most * dice
    return pause if pause <= left * _SHARE_OF_TIME_LEFT else None
