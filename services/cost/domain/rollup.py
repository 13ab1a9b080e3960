"""Roll-ups: sums of the ledger by hour and by day, and how a span of time is put together from them.

A day that lies whole in the span is read from the sums by day, an hour at its edges from the sums by hour, and only
what is left, less than an hour at each end, from the entries themselves: those that lie in the span, or those of the
hour that do not, whichever is less time. Hours and days are those of UTC.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from itertools import chain
from typing import Final

from services.meshkit.core.errors import Invalid

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
#: Nothing was spent before; what is earlier is taken as the beginning.
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)
#: Most steps of one series: a month of hours, or two years of days.
MOST_STEPS: Final = 750


class Step(IntEnum):
    """How long the time is that one sum stands for."""

    HOUR = 1
    DAY = 2

    @property
    def length(self) -> timedelta:
        """Its length."""
        return _HOUR if self is Step.HOUR else _DAY

    def floor(self, moment: datetime) -> datetime:
        """Gives the beginning of the step that a moment lies in."""
        hour = 0 if self is Step.DAY else moment.hour
        return moment.replace(hour=hour, minute=0, second=0, microsecond=0)

    def ceil(self, moment: datetime) -> datetime:
        """Gives the first beginning of a step that is not before a moment."""
        floor = self.floor(moment)
        return floor if floor == moment else floor + self.length


@dataclass(frozen=True, slots=True)
class Span:
    """Time from `start` up to, not including, `end`; None is without bound."""

    start: datetime | None = None
    end: datetime | None = None

    @property
    def empty(self) -> bool:
        """True when no moment lies in it."""
        return self.start is not None and self.end is not None and self.start >= self.end

    def within(self, other: "Span") -> "Span":
        """Gives what lies in both."""
        starts = [one.start for one in (self, other) if one.start is not None]
        ends = [one.end for one in (self, other) if one.end is not None]
        return Span(max(starts, default=None), min(ends, default=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """Spans that are a span together: days, hours and moments do not overlap, and gaps are what hours have too much."""

    #: Whole days.
    days: tuple[Span, ...] = ()
    #: Whole hours.
    hours: tuple[Span, ...] = ()
    #: What is half an hour at most.
    moments: tuple[Span, ...] = ()
    #: What of `hours` lies outside of the span, less than half an hour in each of its hours.
    gaps: tuple[Span, ...] = ()


def cover(span: Span, *, days: bool = True) -> Cover:
    """Puts a span together from days, hours and rests, the coarsest first.

    Args:
        days: False where there are no sums by day.
    """
    bounded = Span(
        None if span.start is None or span.start < _EARLIEST else span.start,
        None if span.end is None or span.end > _LATEST else span.end,
    )
    if bounded.empty or (span.end is not None and span.end < _EARLIEST):
        return Cover()
    inner, rests = _split(bounded, Step.DAY) if days else (None, [bounded])
    hours: list[Span] = []
    moments: list[Span] = []
    gaps: list[Span] = []
    for rest in rests:
        whole, left = _split(rest, Step.HOUR)
        hours += [whole] if whole is not None else []
        for hour, part in chain.from_iterable(map(_by_hour, left)):
            outside = [gap for gap in (Span(hour.start, part.start), Span(part.end, hour.end)) if not gap.empty]
            if sum(map(_length, outside), timedelta()) >= _HOUR / 2:
                moments.append(part)
            else:
                hours.append(hour)
                gaps += outside
    return Cover(days=() if inner is None else (inner,), hours=tuple(hours), moments=tuple(moments), gaps=tuple(gaps))


def _by_hour(rest: Span) -> Iterator[tuple[Span, Span]]:
    """Gives the hours that a bounded span touches, each with the part of the span that lies in it."""
    if rest.start is None or rest.end is None:
        raise ValueError("hours of a span without bounds cannot be counted")
    start = Step.HOUR.floor(rest.start)
    while start < rest.end:
        hour = Span(start, start + _HOUR)
        yield hour, rest.within(hour)
        start += _HOUR


def _length(span: Span) -> timedelta:
    if span.start is None or span.end is None:
        raise ValueError("a span without bounds has no length")
    return span.end - span.start


def _split(span: Span, step: Step) -> tuple[Span | None, list[Span]]:
    """Gives the whole steps within a span, None if there are none, and what is left at its ends."""
    start = None if span.start is None else step.ceil(span.start)
    end = None if span.end is None else step.floor(span.end)
    inner = Span(start, end)
    if inner.empty:
        return None, [span]
    rests = [Span(span.start, start) if start is not None else None, Span(end, span.end) if end is not None else None]
    return inner, [rest for rest in rests if rest is not None and not rest.empty]


def exact(span: Span, *, kept_from: datetime | None, step: Step) -> Span:
    """Accepts a span whose sums can be told exactly.

    Args:
        kept_from: entries before are gone, and only their sums are left; None: all are there.
        step: of the sums that are left.
    Raises: Invalid: an end lies within a step of which only the sum is left.
    """
    for field, moment in (("start_time", span.start), ("end_time", span.end)):
        if moment is None or kept_from is None or moment >= kept_from or step.floor(moment) == moment:
            continue
        name = step.name.lower()
        raise Invalid(
            field,
            f"must be a full {name} of UTC: of what was spent before {kept_from:%Y-%m-%d} only sums by {name} are kept",
        )
    return span


def stepped(span: Span, step: Step, *, now: datetime) -> Span:
    """Gives the span of a series: whole steps that take in what was asked for.

    Args:
        span: without an end it ends now; without a start it has 24 hours, or 30 days.
    Raises: Invalid: it ends before it begins, or has more than `MOST_STEPS` steps.
    """
    end = step.ceil(max(_EARLIEST, min(span.end or now, _LATEST)))
    default = 24 if step is Step.HOUR else 30
    start = step.floor(max(span.start, _EARLIEST)) if span.start is not None else end - default * step.length
    if start >= end:
        raise Invalid("end_time", "must be after start_time")
    if (end - start) // step.length > MOST_STEPS:
        raise Invalid("start_time", f"makes more than {MOST_STEPS} steps; ask for less time, or for days")
    return Span(start, end)


def steps_of(start: datetime, end: datetime, step: Step) -> Iterator[datetime]:
    """Gives the beginnings of the steps from `start` to `end`."""
    while start < end:
        yield start
        start += step.length
