"""What an hour usually costs, by the hour of the week, and from where on it is unusual.

Both come from the tenant's own hours. The usual amount is a median, so that a spike of last week does not raise it. How
far hours stray from it is learnt from all hours together: each is compared, on a logarithmic scale, with the median of
the *other* hours of its kind, as an hour to come will be. An hour is unusual when it strays further than four times the
usual (by the median of the deviations, scaled to a normal distribution), and further than all but 1 in 200 hours did.
The second condition bounds false alarms whatever the distribution is: of hours like those before, no more than about
1 in 200 are unusual.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from statistics import median
from typing import Final

from services.cost.domain.amounts import MAX_LIMIT
from services.cost.domain.hourly_spend import HOUR, HourlySpend
from services.meshkit.core.money import NanoUsd

#: Hours that a baseline rests on at most: eight weeks.
MOST_HOURS: Final = 8 * 7 * 24
#: Hours below which there is no baseline: two days.
LEAST_HOURS: Final = 48
_DAY: Final = 24
_WEEK: Final = 7 * _DAY
_LEAST_DAYS: Final = 5
_LEAST_WEEKS: Final = 4
_STRAYS: Final = 4.0
#: Makes the median of absolute deviations of a normal distribution its standard deviation.
_MAD_SCALE: Final = 1.4826
#: An hour strays by a tenth at least, however regular the past was.
_LEAST_SPREAD: Final = 0.1
_RARE: Final = 0.995


class Basis(IntEnum):
    """Which hours are compared."""

    #: Those of the same hour of the week: four weeks of history or more.
    HOUR_OF_WEEK = 1
    #: Those of the same hour of the day: five days or more.
    HOUR_OF_DAY = 2
    #: All: two days or more.
    ANY_HOUR = 3


_PERIODS: Final = {Basis.HOUR_OF_WEEK: _WEEK, Basis.HOUR_OF_DAY: _DAY, Basis.ANY_HOUR: 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What one hour usually costs."""

    basis: Basis
    #: How many full hours it was learnt from.
    hours: int
    #: The usual amount.
    expected: NanoUsd
    #: An hour that costs more is unusual.
    high: NanoUsd
    #: An hour that costs less is usual again: half as far off, on the scale of deviations.
    calm: NanoUsd


def baseline_of(history: HourlySpend, hour: datetime, *, floor: int) -> Baseline | None:
    """Tells what the hour that begins at `hour` usually costs; None when less than two days are known.

    Args:
        floor: amount that nobody needs to hear of, nano-USD, > 0: `high` is above the usual by at least that.
    """
    amounts = history.amounts[-MOST_HOURS:]
    if len(amounts) < LEAST_HOURS:
        return None
    basis = _basis_of(len(amounts))
    period = _PERIODS[basis]
    first = history.end - len(amounts) * HOUR
    # Amounts far below what is usual for this tenant are noise, and must not look like manifold rises.
    noise = max(floor, int(median(amounts)) // 10)
    strays = sorted(stray for place in range(period) for stray in _strays(amounts[place::period], noise))
    spread = max(_LEAST_SPREAD, _MAD_SCALE * median(abs(stray) for stray in strays))
    rare = strays[min(len(strays), math.ceil(_RARE * (len(strays) + 1))) - 1]
    limit = max(_STRAYS * spread, rare)
    usual = median(amounts[((hour - first) // HOUR) % period :: period])

    def above(stray: float) -> NanoUsd:
        risen = (usual + noise) * math.exp(stray) - noise
        return NanoUsd(min(MAX_LIMIT, math.ceil(max(risen, usual + floor))))

    return Baseline(
        basis=basis, hours=len(amounts), expected=NanoUsd(round(usual)), high=above(limit), calm=above(limit / 2)
    )


def _basis_of(hours: int) -> Basis:
    if hours >= _LEAST_WEEKS * _WEEK:
        return Basis.HOUR_OF_WEEK
    return Basis.HOUR_OF_DAY if hours >= _LEAST_DAYS * _DAY else Basis.ANY_HOUR


def _strays(amounts: Sequence[int], noise: int) -> list[float]:
    """Compares each amount with the median of the others."""
    ordered = sorted(amounts)
    last = len(ordered) - 1
    strays: list[float] = []
    for place, amount in enumerate(ordered):
        # Without the one at `place`, what lies above moves down by one.
        low, high = (last - 1) // 2, last // 2
        others = (ordered[low + (place <= low)] + ordered[high + (place <= high)]) / 2
        strays.append(math.log((amount + noise) / (others + noise)))
    return strays
