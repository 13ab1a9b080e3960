"""The archive to which Postgres hands its write-ahead log, where it has one: whether it is taken there."""

from dataclasses import dataclass
from typing import Final

from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.sql.scope import driver_scope
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Pause between two looks, seconds.
LOOK_SECONDS: Final = 15.0
#: A segment waits while the newest in the archive is older than the one that ended last, by the digits after the
#: timeline. A name of another length is that of no segment, a standby ends none, and time while Postgres did not run is
#: nobody's delay.
_READ: Final = """
    SELECT current_setting('archive_mode') <> 'off' AS kept, archived_count AS segments,
           coalesce(last_failed_wal, '') AS failed, failing,
           CASE WHEN failing OR waiting
                THEN extract(epoch FROM clock_timestamp() - greatest(last_archived_time, pg_postmaster_start_time()))
                ELSE 0 END::float8 AS late_seconds
    FROM pg_stat_archiver,
         LATERAL (SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) AS failing) one,
         LATERAL (SELECT CASE WHEN pg_is_in_recovery() OR last_archived_wal !~ '^[0-9A-F]{24}$' THEN false
                    ELSE coalesce(substr(last_archived_wal, 9) COLLATE "C" < substr(pg_walfile_name(
                        pg_current_wal_lsn() - pg_size_bytes(current_setting('wal_segment_size'))), 9), false)
                    END AS waiting) other"""

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveState:
    """How the archive stands. All of it is open to every role."""

    #: Whether there is one.
    kept: bool
    #: How many it has taken since Postgres began to count.
    segments: int
    #: Which segment it refused last; empty when none.
    failed: str
    #: It has taken none since.
    failing: bool
    #: Time for which it has taken nothing while a segment waits; 0 when none does.
    late_seconds: float


async def read_archive(driver: Connection) -> ArchiveState:
    """Asks Postgres how its archive stands."""
    [row] = await driver.fetch(_READ)
    return ArchiveState(**row)


class WalArchive:
    """Looks every 15 s whether segments wait for the archive, and shows for how long. A `Background`.

    Args:
        engine: of the server whose log it is.
    """

    def __init__(self, engine: AsyncEngine, *, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def __call__(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                await self.look()
            except MeshError as error:
                log.warning("the archive of the log is not looked at right now", error=error.message)
            except Exception as error:
                # A server that is run by others may forbid the question, which is no reason to end the gateway.
                log.exception("the archive of the log cannot be looked at", cause=str(error))
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Looks once. Raises: Unavailable: Postgres is away; what was seen last is shown on."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            state = await read_archive(scope.driver)
        metrics.WAL_ARCHIVE_LATE.set(state.late_seconds if state.kept else 0)
