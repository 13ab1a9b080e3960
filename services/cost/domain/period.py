"""Periods of budgets: hours, days, weeks and months as the clock on a wall of some time zone shows them."""

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.meshkit.core.errors import Invalid

_MOST_ZONE: Final = 64


class Period(IntEnum):
    """After how long a budget begins anew."""

    #: Never.
    NONE = 0
    HOUR = 1
    #: From midnight to midnight.
    DAY = 2
    #: From Monday to Sunday.
    WEEK = 3
    MONTH = 4


def checked_zone(name: str, *, field: str) -> str:
    """Accepts the name of a time zone; empty means UTC. Raises: Invalid (naming `field`)."""
    if not name:
        return "UTC"
    try:
        if len(name) > _MOST_ZONE:
            raise ValueError(name)
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError) as cause:
        raise Invalid(field, "must be the IANA name of a time zone, such as Europe/Berlin") from cause
    return name


def start_of(period: Period, zone: str, moment: datetime) -> datetime:
    """Gives when the period that `moment` lies in began, UTC."""
    place = ZoneInfo(zone)
    local = moment.astimezone(place)
    hour = local.replace(minute=0, second=0, microsecond=0)
    match period:
        case Period.HOUR:
            return hour.astimezone(UTC)
        case Period.DAY:
            first = hour.replace(hour=0, fold=0)
        case Period.WEEK:
            first = hour.replace(hour=0, fold=0) - timedelta(days=local.weekday())
        case _:
            first = hour.replace(day=1, hour=0, fold=0)
    return first.astimezone(UTC)


def end_of(period: Period, zone: str, moment: datetime) -> datetime:
    """Gives when the period that `moment` lies in ends and the next one begins, UTC; always after `moment`."""
    place = ZoneInfo(zone)
    # Wall clocks are set forward and back, so the next one is looked for on the wall, not by a span of time.
    local = start_of(period, zone, moment).astimezone(place).replace(tzinfo=None, fold=0)
    while True:
        local = _next(period, local)
        end = local.replace(tzinfo=place).astimezone(UTC)
        if end > moment:
            return end


def _next(period: Period, local: datetime) -> datetime:
    match period:
        case Period.HOUR:
            return local + timedelta(hours=1)
        case Period.DAY:
            return local + timedelta(days=1)
        case Period.WEEK:
            return local + timedelta(days=7)
        case _:
            return (local.replace(day=1) + timedelta(days=32)).replace(day=1)
