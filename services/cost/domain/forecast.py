"""What will have been spent when a period ends, with an interval.

What is still to come is drawn from what was: a week ahead is a week of the past that begins at the same hour of the
same weekday, so that good and bad weeks stay whole; before two weeks are known, a day ahead is a day of the past. Each
draw first draws which weeks (or days) of the past it knows, so that the interval also holds how little a few of them
say about the level. It is right as far as the time to come is like the last eight weeks; what grows ends above it.

Source: block bootstrap of a seasonal series (Künsch 1989), over resampled blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from itertools import accumulate
from random import Random
from typing import Final

from services.cost.domain.amounts import MAX_LIMIT
from services.cost.domain.hourly_spend import HOUR, HourlySpend, hour_of
from services.meshkit.core.money import NanoUsd

#: The interval holds nine in ten.
_LOW, _HIGH = 0.05, 0.95
_DRAWS: Final = 400
_SEED: Final = 5
_DAY: Final = 24
_WEEK: Final = 7
_LEAST_DAYS: Final = 2
_LEAST_WEEKS: Final = 2


class Ground(IntEnum):
    """What a forecast rests on."""

    #: Less than two days: nothing is forecast.
    TOO_LITTLE = 1
    #: Two days to two weeks: weekdays are not told apart.
    DAYS = 2
    #: Two weeks or more.
    WEEKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What will have been spent at the end of a period."""

    ground: Ground
    #: Full days that it rests on.
    days: int
    #: Spent so far.
    spent: NanoUsd
    #: Median of what will have been spent; None when too little is known.
    expected: NanoUsd | None
    #: Nine in ten ends lie from here ...
    low: NanoUsd | None
    #: ... to here.
    high: NanoUsd | None


def forecast(history: HourlySpend, *, spent: int, now: datetime, end: datetime) -> Forecast:
    """Forecasts what will have been spent at `end`.

    Args:
        history: the full hours before the one that `now` lies in.
        spent: in the period so far, this hour included.
    """
    # Each begins at the hour of the day that it is now; the newest comes first.
    days = [
        list(accumulate(history.amounts[at - _DAY : at], initial=0))
        for at in range(len(history.amounts), _DAY - 1, -_DAY)
    ]
    if len(days) < _LEAST_DAYS or history.end != hour_of(now):
        return Forecast(
            ground=Ground.TOO_LITTLE, days=len(days), spent=NanoUsd(spent), expected=None, low=None, high=None
        )
    by_weeks = len(days) >= _LEAST_WEEKS * _WEEK
    blocks = _weeks(days) if by_weeks else [[day] for day in days]
    ahead = max(0.0, (end - history.end) / HOUR)
    gone = min(ahead, (now - history.end) / HOUR)
    dice = Random(_SEED)
    ends = sorted(_drawn(blocks, ahead, gone, dice) for _ in range(_DRAWS))
    middle = _quantile(ends, 0.5)
    # The spread of a handful of blocks falls short of the true one, and is known badly.
    widening = (len(blocks) / (len(blocks) - 1)) ** 1.5

    def at(share: float) -> NanoUsd:
        rest = max(0.0, middle + (_quantile(ends, share) - middle) * widening)
        return NanoUsd(min(MAX_LIMIT, spent + round(rest)))

    return Forecast(
        ground=Ground.WEEKS if by_weeks else Ground.DAYS,
        days=len(days),
        spent=NanoUsd(spent),
        expected=at(0.5),
        low=at(_LOW),
        high=at(_HIGH),
    )


def _weeks(days: Sequence[list[int]]) -> list[list[list[int]]]:
    """Puts days into weeks, each beginning with the weekday that it is now; what is no whole week is left out."""
    return [list(reversed(days[at : at + _WEEK])) for at in range(0, len(days) - _WEEK + 1, _WEEK)]


def _drawn(blocks: Sequence[Sequence[list[int]]], ahead: float, gone: float, dice: Random) -> float:
    """Draws what will be spent in `ahead` hours from the begin of this one, without the part of it that is gone."""
    known = dice.choices(blocks, k=len(blocks))
    total, start = 0.0, 0.0
    while start < ahead:
        for sums in dice.choice(known):
            if start < ahead:
                total += _up_to(sums, ahead - start) - (_up_to(sums, gone) if start == 0 else 0)
                start += _DAY
    return total


def _up_to(sums: Sequence[int], hours: float) -> float:
    """Gives what a day cost up to some hour, in between evenly."""
    full = min(int(hours), _DAY)
    part = 0.0 if full == _DAY else (sums[full + 1] - sums[full]) * (hours - full)
    return sums[full] + part


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
