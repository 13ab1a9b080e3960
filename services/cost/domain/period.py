"""Periods of budgets: hours, days, weeks and months as the clock on a wall of some time zone shows them."""

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import cache, lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from services.meshkit.core.errors import Invalid

_INSTANT = timedelta(microseconds=1)


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


@cache
def zones() -> frozenset[str]:
    """Gives the time zones that there are: those of the package `tzdata`, so that every machine knows the same."""
    names = (files("tzdata") / "zones").read_text(encoding="utf-8").split()
    # It stands for "not set yet".
    return frozenset(names) - {"Factory"}


def checked_zone(name: str, *, field: str) -> str:
    """Accepts the name of a time zone; empty means UTC. Raises: Invalid (naming `field`)."""
    if not name:
        return "UTC"
    if name not in zones():
        raise Invalid(field, "must be the IANA name of a time zone, such as Europe/Berlin")
    return name


@lru_cache(maxsize=1024)
def place_of(zone: str) -> ZoneInfo:
    """Reads a time zone from the package `tzdata`, whatever the machine has. One that is not there counts as UTC:
    what was kept by another release must not keep a budget from being read.
    """
    found = files("tzdata") / "zoneinfo"
    for part in (zone if zone in zones() else "UTC").split("/"):
        found /= part
    with found.open("rb") as data:
        return ZoneInfo.from_file(data, key=zone)


def start_of(period: Period, zone: str, moment: datetime) -> datetime:
    """Gives when the period that `moment` lies in began, UTC."""
    place = place_of(zone)
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
    place = place_of(zone)
    # Wall clocks are set forward and back, so the next one is looked for on the wall, not by a span of time.
    local = start_of(period, zone, moment).astimezone(place).replace(tzinfo=None, fold=0)
    while True:
        local = _next(period, local)
        end = local.replace(tzinfo=place).astimezone(UTC)
        if end > moment:
            return end


@lru_cache(maxsize=4096)
def since_when(period: Period, zone: str, turn: datetime) -> datetime:
    """Gives from when on a clock may think that a period ends next at `turn`: from the begin of the one before it.

    Clocks of replicas differ, and one may have seen the period turn a little early. A clock that is further back than
    that shows that the period was turned by one that was wrong.
    """
    began = start_of(period, zone, turn - _INSTANT)
    return start_of(period, zone, began - _INSTANT)


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
