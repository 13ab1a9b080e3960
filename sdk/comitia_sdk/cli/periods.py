"""Times as people write them: `--period month`, `--period 24h`, `--from 2026-11-01`. All of UTC."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed

_LENGTH: Final = re.compile(r"([1-9]\d{0,4})([hdw])")
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_NAMES: Final = ("today", "yesterday", "week", "last-week", "month", "last-month", "year", "last-year")
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)

PERIOD_HELP: Final = f"{', '.join(_NAMES)}, or the last `24h`, `7d`, `4w`; of UTC."
TIME_HELP: Final = "A date or time of UTC, such as 2026-11-01 or 2026-11-01T12:30."

#: From, until; None is without bound.
Period = tuple[datetime | None, datetime | None]


def read_period(period: str, since: str, until: str, *, now: datetime) -> Period:
    """Reads the three options of a command. Raises: CommandFailed."""
    if period and (since or until):
        raise CommandFailed("give --period, or --from and --to", code=EXIT_USAGE)
    if period:
        return _named(period.lower(), now)
    start, end = (_moment(text, option) if text else None for text, option in ((since, "--from"), (until, "--to")))
    if start is not None and end is not None and end <= start:
        raise CommandFailed("--to must be after --from", code=EXIT_USAGE)
    return start, end


def _named(period: str, now: datetime) -> Period:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday())
    first = today.replace(day=1)
    year = first.replace(month=1)
    known: dict[str, Period] = {
        "today": (today, None),
        "yesterday": (today - timedelta(days=1), today),
        "week": (monday, None),
        "last-week": (monday - timedelta(weeks=1), monday),
        "month": (first, None),
        "last-month": ((first - timedelta(days=1)).replace(day=1), first),
        "year": (year, None),
        "last-year": (year.replace(year=year.year - 1), year),
    }
    if period in known:
        return known[period]
    length = _LENGTH.fullmatch(period)
    if length is None:
        raise CommandFailed(f"--period: {period!r} is none of {PERIOD_HELP}", code=EXIT_USAGE)
    span = int(length[1]) * _UNITS[length[2]]
    return (now - span if now - _EARLIEST > span else _EARLIEST), None


def _moment(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandFailed(f"{option}: {text!r} is no date or time, such as 2026-11-01", code=EXIT_USAGE) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
