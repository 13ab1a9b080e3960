"""The time of the database, for what replicas must agree on whatever their machines' clocks show."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.sql.scope import driver_scope
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Pause between two readings: so long a machine that slept, or a primary with another clock, may go unseen.
_EVERY_SECONDS: Final = 5.0
#: The same while the database does not answer.
_RETRY_SECONDS: Final = 1.0
#: Readings of one round, of which the one with the shortest round trip counts.
_READINGS: Final = 3
#: A time that was shown is shown on until the database is as far, if that takes no longer than this.
_STAND_STILL_SECONDS: Final = 60.0
#: Difference of the machine's clock from the database's that somebody should be told of.
_ALARMING_SECONDS: Final = 5.0
_READ: Final = "SELECT clock_timestamp()"

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the clock of the database showed while a question was on its way."""

    shown: datetime
    #: Times of our monotonic clock before the question and after the answer, seconds.
    asked: float
    answered: float

    @property
    def took(self) -> float:
        """The round trip, seconds."""
        return self.answered - self.asked


ReadClock = Callable[[AsyncEngine, Clock], Awaitable[Reading]]


async def read_clock(engine: AsyncEngine, clock: Clock) -> Reading:
    """Asks the database what time it is, a few times; gives the reading with the shortest round trip.

    Args:
        engine: of the `maintenance` role.
        clock: whose monotonic time the reading is on.
    Raises: Unavailable: Postgres is away. DatabaseBusy: no free connection.
    """
    readings: list[Reading] = []
    async with driver_scope(engine, None, read_only=True) as scope:
        for _ in range(_READINGS):
            asked = clock.monotonic()
            shown: datetime = await scope.driver.fetchval(_READ)
            readings.append(Reading(shown=shown, asked=asked, answered=clock.monotonic()))
    return min(readings, key=lambda reading: reading.took)


class DatabaseClock:
    """Shows the time of the database: what a reading showed, and the monotonic time that has passed since.

    So a wall clock that is wrong, or jumps, changes nothing, and replicas agree to within a round trip. While the
    database is away it goes on from the last reading. It does not go back, but stands still until the database is as
    far. A database that is behind by more than a minute was itself set back, and is followed at once: else replicas
    that started before and after would count different periods. `monotonic` and `sleep` are those of the machine.

    Args:
        first: where it begins.
        read: asks the database again.
        clock: of the machine.
        service: label of the metric.
    """

    def __init__(self, first: Reading, read: Callable[[], Awaitable[Reading]], *, clock: Clock, service: str) -> None:
        self._read = read
        self._clock = clock
        # Bound once: each group of calls asks for the time.
        self._elapsed = clock.monotonic
        self.monotonic = clock.monotonic
        self.sleep = clock.sleep
        #: Unix time of the database when the monotonic clock was at 0.
        self._origin = _earliest(first) + first.took / 2
        #: Unix time that was shown and before which none is.
        self._shown = -math.inf
        self._alarmed = False
        metrics.CLOCK_AHEAD.labels(service).set_function(self._ahead)
        self._compare()

    def now(self) -> datetime:
        """See `Clock.now`."""
        seconds = self._origin + self._elapsed()
        return datetime.fromtimestamp(seconds if seconds > self._shown else self._shown, UTC)

    async def __call__(self) -> None:
        """Reads the database's clock again and again, until cancelled."""
        pause = _EVERY_SECONDS
        while True:
            await self._clock.sleep(pause)
            try:
                self.follow(await self._read())
                pause = _EVERY_SECONDS
            except MeshError as error:
                if pause == _EVERY_SECONDS:
                    log.warning("the database's clock is not read right now", error=error.message)
                pause = _RETRY_SECONDS
            self._compare()

    def follow(self, reading: Reading) -> None:
        """Corrects itself, no further than the reading proves: what a slow round trip leaves open is no error."""
        earliest = _earliest(reading)
        origin = min(max(self._origin, earliest), earliest + reading.took)
        elapsed = self._elapsed()
        shown = max(self._shown, self._origin + elapsed)
        behind = shown - (origin + elapsed)
        if behind > _STAND_STILL_SECONDS:
            log.error("the database's clock was set back", seconds=round(behind, 3))
            shown = -math.inf
        elif origin - self._origin > _STAND_STILL_SECONDS:
            log.warning("the database's clock was set forward", seconds=round(origin - self._origin, 3))
        self._origin, self._shown = origin, shown

    def _ahead(self) -> float:
        return (self._clock.now() - self.now()).total_seconds()

    def _compare(self) -> None:
        """Tells once when the machine's clock is far from the database's."""
        ahead = self._ahead()
        alarming = abs(ahead) > _ALARMING_SECONDS
        if alarming and not self._alarmed:
            log.warning("the machine's clock differs from the database's, which counts", seconds_ahead=round(ahead, 3))
        self._alarmed = alarming


def _earliest(reading: Reading) -> float:
    """The least that the Unix time of the database can have been when our monotonic clock was at 0."""
    return reading.shown.timestamp() - reading.answered
