"""Times as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from comitia_sdk.cli.failure import CommandFailed
from comitia_sdk.cli.periods import Period, read_period

#: A Wednesday, the first of a month that ends no year.
NOW = datetime(2026, 4, 1, 13, 30, tzinfo=UTC)


def day(year: int, month: int, number: int) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "span"),
    [
        ("today", (day(2026, 4, 1), None)),
        ("yesterday", (day(2026, 3, 31), day(2026, 4, 1))),
        ("week", (day(2026, 3, 30), None)),
        ("last-week", (day(2026, 3, 23), day(2026, 3, 30))),
        ("month", (day(2026, 4, 1), None)),
        ("last-month", (day(2026, 3, 1), day(2026, 4, 1))),
        ("Year", (day(2026, 1, 1), None)),
        ("last-year", (day(2025, 1, 1), day(2026, 1, 1))),
        ("24h", (NOW - timedelta(hours=24), None)),
        ("4w", (NOW - timedelta(weeks=4), None)),
        ("99999d", (day(1970, 1, 1), None)),
        ("", (None, None)),
    ],
)
def test_a_period_has_a_name_or_a_length(period: str, span: Period) -> None:
    assert read_period(period, "", "", now=NOW) == span


def test_dates_are_of_utc_unless_they_say_otherwise() -> None:
    assert read_period("", "2026-03-01", "2026-03-02T01:00+01:00", now=NOW) == (day(2026, 3, 1), day(2026, 3, 2))


@pytest.mark.parametrize("period", ["0h", "-1d", "5m", "moon", "123456h"])
def test_what_is_no_period_is_refused(period: str) -> None:
    with pytest.raises(CommandFailed, match="--period"):
        read_period(period, "", "", now=NOW)
