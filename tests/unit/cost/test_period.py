"""Periods follow the wall clock of their zone, whatever it does."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, reset_tzpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cost.domain.period import Period, checked_zone, end_of, place_of, start_of, zones
from services.meshkit.core.errors import Invalid
from tests.support.examples import examples

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Asia/Beirut",
)
PERIODS = st.sampled_from([period for period in Period if period])
MOMENTS = st.integers(0, 12_000 * 86_400).map(
    lambda seconds: datetime(2001, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@settings(max_examples=examples(300))
@given(period=PERIODS, zone=st.sampled_from(ZONES), moment=MOMENTS)
def test_a_moment_lies_in_its_period_and_the_next_begins_where_it_ends(
    period: Period, zone: str, moment: datetime
) -> None:
    start, end = start_of(period, zone, moment), end_of(period, zone, moment)
    assert start <= moment < end
    assert end_of(period, zone, end) > end
    local = end.astimezone(ZoneInfo(zone))
    if period is not Period.HOUR and local.hour == 0:
        assert (local.minute, local.second) == (0, 0)
    if period is Period.WEEK and local.hour == 0:
        assert local.weekday() == 0
    if period is Period.MONTH:
        assert local.day == 1


@pytest.mark.parametrize(
    ("period", "zone", "moment", "start", "end"),
    [
        (Period.DAY, "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        (Period.DAY, "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        (Period.MONTH, "America/New_York", "2026-03-01T04:59", "2026-02-01T05:00", "2026-03-01T05:00"),
        (Period.WEEK, "UTC", "2026-01-01T00:00", "2025-12-29T00:00", "2026-01-05T00:00"),
        (Period.HOUR, "Asia/Kolkata", "2026-01-01T00:10", "2025-12-31T23:30", "2026-01-01T00:30"),
    ],
)
def test_days_are_as_long_as_the_wall_clock_says(period: Period, zone: str, moment: str, start: str, end: str) -> None:
    there = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    assert start_of(period, zone, there) == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert end_of(period, zone, there) == datetime.fromisoformat(end).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "name",
    [
        *("Mars/Olympus", "../../etc/passwd", "/etc/localtime", "a" * 65, "Europe", "UTC\0"),
        *("posixrules", "localtime", "right/Europe/Berlin", "posix/UTC", "Factory", "europe/berlin", "tzdata.zi"),
    ],
)
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        checked_zone(name, field="zone")
    assert checked_zone("", field="zone") == "UTC"


def test_a_span_of_a_year_has_twelve_months() -> None:
    moment, ends = datetime(2026, 1, 1, tzinfo=UTC), 0
    while moment < datetime(2027, 1, 1, tzinfo=UTC):
        moment = end_of(Period.MONTH, "UTC", moment)
        ends += 1
    assert (ends, moment) == (12, datetime(2027, 1, 1, tzinfo=UTC))
    assert moment - timedelta(days=31) == start_of(Period.MONTH, "UTC", moment - timedelta(seconds=1))


def test_zones_come_from_the_package_and_not_from_the_machine() -> None:
    place_of.cache_clear()
    reset_tzpath(to=())
    try:
        assert all(place_of(zone).utcoffset(datetime(2026, 7, 1, tzinfo=UTC)) is not None for zone in zones())
    finally:
        reset_tzpath()
        place_of.cache_clear()
    assert len(zones()) > 400


def test_a_zone_that_another_release_kept_counts_as_utc() -> None:
    moment = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
    for zone in ("right/Europe/Berlin", "posixrules", "Mars/Olympus"):
        assert end_of(Period.DAY, zone, moment) == datetime(2026, 7, 2, tzinfo=UTC)
