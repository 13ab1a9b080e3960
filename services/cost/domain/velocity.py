"""How fast money goes."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.meshkit.core.money import NanoUsd

#: What "now" means.
RECENT: Final = timedelta(minutes=5)
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Velocity:
    """Money per minute, over three spans that end now; nano-USD a minute, rounded down."""

    #: Over the last five minutes.
    now: NanoUsd
    hour: NanoUsd
    day: NanoUsd


def velocity_of(recent: int, hour: int, day: int) -> Velocity:
    """Makes rates of the sums of the last five minutes, hour and day.

    Corrections may have taken back more than was charged in a span; money does not flow backwards, so it stands at 0.
    """
    return Velocity(now=_rate(recent, RECENT), hour=_rate(hour, timedelta(hours=1)), day=_rate(day, timedelta(days=1)))


def _rate(amount: int, span: timedelta) -> NanoUsd:
    return NanoUsd(max(0, amount) // (span // _MINUTE))
