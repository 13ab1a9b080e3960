"""How a span of time is put together from sums by day and by hour."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cost.domain.rollup import MOST_STEPS, Cover, Span, Step, cover, exact, stepped, steps_of
from services.meshkit.core.errors import Invalid

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MOMENTS = st.timedeltas(timedelta(), timedelta(days=5)).map(lambda passed: datetime(2026, 1, 1, tzinfo=UTC) + passed)
ROUND = MOMENTS.map(Step.HOUR.floor) | MOMENTS.map(Step.DAY.floor) | MOMENTS


def holds(spans: tuple[Span, ...], moment: datetime) -> int:
    return sum(
        (span.start is None or span.start <= moment) and (span.end is None or moment < span.end) for span in spans
    )


@given(
    start=st.none() | ROUND, end=st.none() | ROUND, asked=st.lists(ROUND, min_size=1, max_size=20), days=st.booleans()
)
def test_a_cover_holds_each_moment_of_its_span_once(
    start: datetime | None, end: datetime | None, asked: list[datetime], days: bool
) -> None:
    parts = cover(Span(start, end), days=days)
    for moment in asked:
        inside = (start is None or start <= moment) and (end is None or moment < end)
        assert holds((*parts.days, *parts.hours, *parts.moments), moment) - holds(parts.gaps, moment) == int(inside)
        assert holds(parts.gaps, moment) <= holds(parts.hours, moment)


@given(start=ROUND, end=ROUND)
def test_a_cover_takes_the_coarsest_sums(start: datetime, end: datetime) -> None:
    parts = cover(Span(start, end))
    for span, step in [(one, Step.DAY) for one in parts.days] + [(one, Step.HOUR) for one in parts.hours]:
        assert span.start is not None
        assert span.end is not None
        assert (step.floor(span.start), step.floor(span.end)) == (span.start, span.end)
    hours = sum((one.end - one.start for one in parts.hours if one.start and one.end), timedelta())
    assert hours < timedelta(days=2)
    rest = [one.end - one.start for one in (*parts.moments, *parts.gaps) if one.start and one.end]
    assert sum(rest, timedelta()) <= timedelta(hours=1), "half an hour of single entries at each end"
    assert len(parts.hours) <= 4
    assert len(rest) <= 2


def test_all_time_is_days_alone() -> None:
    assert cover(Span()) == Cover(days=(Span(),))


def test_a_span_that_ends_before_it_begins_covers_nothing() -> None:
    assert cover(Span(NOON, NOON - timedelta(days=1))) == Cover()


def test_the_ends_of_time_are_no_trouble() -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert cover(Span(first, last)) == Cover(days=(Span(),))
    assert cover(Span(None, first)) == Cover()
    assert stepped(Span(last - timedelta(days=3), last), Step.HOUR, now=NOON).end == datetime(9999, 12, 30, tzinfo=UTC)
    with pytest.raises(Invalid, match="end_time"):
        stepped(Span(first, first), Step.DAY, now=NOON)
    assert stepped(Span(None, first), Step.DAY, now=NOON).end == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("field", ["start_time", "end_time"])
def test_a_moment_within_an_hour_whose_entries_are_gone_is_refused(field: str) -> None:
    half_past = NOON - timedelta(minutes=30)
    span = Span(half_past, NOON + timedelta(days=1)) if field == "start_time" else Span(None, half_past)
    with pytest.raises(Invalid, match=field):
        exact(span, kept_from=NOON, step=Step.HOUR)
    assert exact(Span(NOON - timedelta(hours=3)), kept_from=NOON, step=Step.HOUR)
    assert exact(span, kept_from=None, step=Step.HOUR) == span


def test_a_series_has_whole_steps() -> None:
    span = stepped(Span(NOON + timedelta(minutes=5), NOON + timedelta(minutes=70)), Step.HOUR, now=NOON)
    assert list(steps_of(NOON, NOON + timedelta(hours=2), Step.HOUR)) == [NOON, NOON + timedelta(hours=1)]
    assert span == Span(NOON, NOON + timedelta(hours=2))
    assert stepped(Span(), Step.DAY, now=NOON) == Span(
        datetime(2026, 2, 9, tzinfo=UTC), datetime(2026, 3, 11, tzinfo=UTC)
    )


def test_a_series_that_is_too_long_is_refused() -> None:
    with pytest.raises(Invalid, match=str(MOST_STEPS)):
        stepped(Span(NOON - timedelta(days=60), NOON), Step.HOUR, now=NOON)
    with pytest.raises(Invalid, match="end_time"):
        stepped(Span(NOON, NOON - timedelta(days=1)), Step.HOUR, now=NOON)
