"""The time of the database, on machines whose clocks are wrong."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from services.meshkit.core.errors import Unavailable
from services.meshkit.sql.database_clock import DatabaseClock, Reading
from services.meshkit.testing.fake_clock import NOON, FakeClock
from tests.support.jumping_clock import JumpingClock
from tests.support.log_lines import log_lines

SECOND = timedelta(seconds=1)


class FakeDatabase:
    """A database with a clock of its own; its answers take as long as a test says."""

    def __init__(self, time: FakeClock) -> None:
        self.time = time
        #: By how much its clock is off the time that passes.
        self.ahead = timedelta()
        #: Seconds of the way there, and of the way back.
        self.ways = (0.0, 0.0)
        self.away = False

    async def read(self) -> Reading:
        if self.away:
            raise Unavailable("postgres")
        there, back = self.ways
        asked = self.time.monotonic()
        self.time.advance(seconds=there)
        shown = self.now()
        self.time.advance(seconds=back)
        return Reading(shown=shown, asked=asked, answered=self.time.monotonic())

    def now(self) -> datetime:
        return self.time.now() + self.ahead


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase(FakeClock())


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    """Gives what is logged."""
    with log_lines() as lines:
        yield lines


async def clock_of(database: FakeDatabase, *, machine: JumpingClock | None = None) -> DatabaseClock:
    return DatabaseClock(await database.read(), database.read, clock=machine or database.time, service="tested")


async def test_a_machine_that_is_ahead_and_jumps_shows_the_time_of_the_database(database: FakeDatabase) -> None:
    machine = JumpingClock(timedelta(days=40), of=database.time)
    clock = await clock_of(database, machine=machine)
    assert clock.now() == NOON
    machine.jump(timedelta(days=-80))
    database.time.advance(seconds=2)
    assert clock.now() == NOON + 2 * SECOND
    clock.follow(await database.read())
    assert clock.now() == NOON + 2 * SECOND


async def test_two_machines_agree_to_within_a_round_trip(database: FakeDatabase) -> None:
    database.ways = (0.03, 0.01)
    one = await clock_of(database, machine=JumpingClock(timedelta(hours=1), of=database.time))
    database.ways = (0.0, 0.02)
    other = await clock_of(database, machine=JumpingClock(timedelta(hours=-1), of=database.time))
    assert abs(one.now() - other.now()) <= 0.03 * SECOND


async def test_while_the_database_is_away_time_goes_on_from_the_last_reading(
    database: FakeDatabase, lines: list[EventDict]
) -> None:
    clock = await clock_of(database)
    database.away = True
    running = asyncio.ensure_future(clock())
    for _ in range(10):
        await database.time.until_someone_sleeps()
        database.time.advance(seconds=5)
    assert clock.now() == NOON + 50 * SECOND
    await database.time.until_someone_sleeps()
    assert [line["event"] for line in lines] == ["the database's clock is not read right now"]
    # Another one took over, whose clock is another one: it is followed a second later.
    database.away, database.ahead = False, 30 * SECOND
    database.time.advance(seconds=1)
    await database.time.until_someone_sleeps()
    assert clock.now() == NOON + 81 * SECOND
    running.cancel()


async def test_what_a_slow_round_trip_leaves_open_moves_nothing(database: FakeDatabase) -> None:
    clock = await clock_of(database)
    database.ways = (3.0, 0.0)
    clock.follow(await database.read())
    database.ways = (0.0, 3.0)
    clock.follow(await database.read())
    assert clock.now() == database.now() == NOON + 6 * SECOND


async def test_it_stands_still_until_the_database_is_as_far(database: FakeDatabase) -> None:
    clock = await clock_of(database)
    database.ahead = -10 * SECOND
    clock.follow(await database.read())
    assert clock.now() == NOON
    database.time.advance(seconds=9)
    clock.follow(await database.read())
    assert clock.now() == NOON
    database.time.advance(seconds=2)
    assert clock.now() == database.now() == NOON + SECOND


async def test_a_database_that_was_set_back_is_followed_and_told_of(
    database: FakeDatabase, lines: list[EventDict]
) -> None:
    clock = await clock_of(database)
    database.ahead = timedelta(hours=-2)
    clock.follow(await database.read())
    assert clock.now() == database.now()
    assert [(line["event"], line["log_level"]) for line in lines] == [("the database's clock was set back", "error")]


async def test_a_machine_whose_clock_differs_is_told_of_once(database: FakeDatabase, lines: list[EventDict]) -> None:
    machine = JumpingClock(of=database.time)
    clock = await clock_of(database, machine=machine)
    running = asyncio.ensure_future(clock())
    for jump in (0, 0, 3600, 0, 0, -3600, 0, -60, 0):
        machine.jump(jump * SECOND)
        await database.time.until_someone_sleeps()
        database.time.advance(seconds=5)
    await database.time.until_someone_sleeps()
    running.cancel()
    assert [line["seconds_ahead"] for line in lines] == [3600, -60]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 20),  # seconds until the next reading
            st.floats(0, 2),  # the way there
            st.floats(0, 2),  # the way back
            st.floats(-0.01, 0.01),  # drift of the database meanwhile
        ),
        max_size=20,
    )
)
def test_it_never_goes_back_and_is_never_further_off_than_a_round_trip(
    readings: list[tuple[float, float, float, float]],
) -> None:
    async def read_them() -> None:
        database = FakeDatabase(FakeClock())
        clock = await clock_of(database)
        last = clock.now()
        for pause, there, back, drift in readings:
            database.time.advance(seconds=pause)
            database.ahead += drift * SECOND
            assert clock.now() >= last
            database.ways = (there, back)
            before = abs(clock.now() - database.now())
            clock.follow(await database.read())
            last = clock.now()
            assert abs(last - database.now()) <= max(before, (there + back) * SECOND) + timedelta(microseconds=5)

    asyncio.run(read_them())
