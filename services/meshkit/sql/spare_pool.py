"""A pool that knows which of its connections nobody uses, gives them out at once, and lets go of them."""

import asyncio
import contextlib
import time
from typing import Any, Final

import asyncpg
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from services.meshkit.sql.connection import PreambleConnection

#: A connection beside the last used one is let go after this long: it costs the server 5 to 10 MB.
_SPARE_SECONDS: Final = 8.0
_LOOK_SECONDS: Final = 2.0
#: Longest wait for the server to take leave.
_LEAVE_SECONDS: Final = 2.0


class Spare:
    """A connection of a pool, for whole transactions of the driver's own: Core resets nothing when it is put back."""

    __slots__ = ("_entry", "_pool", "driver")

    def __init__(self, pool: "SparePool", entry: ConnectionPoolEntry, driver: PreambleConnection) -> None:
        self._pool = pool
        self._entry = entry
        self.driver = driver

    def put_back(self) -> None:
        """Lets others have it. One that has broken meanwhile is replaced by whoever comes next."""
        self._pool.put_back(self._entry)


class SparePool(AsyncAdaptedQueuePool):
    """Knows which connections nobody uses just now.

    Core's events do not tell: a connection counts as checked out only when it has been opened, and as checked in even
    when that has failed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Core's own, some of them private
        super().__init__(*args, **kwargs)
        #: Since when each lies in the queue, in its order: the last goes out next.
        self._since: dict[ConnectionPoolEntry, float] = {}
        #: Those who take one out, or wait for one that is on its way to them.
        self._taking = 0

    def _do_get(self) -> ConnectionPoolEntry:
        self._taking += 1
        try:
            entry = super()._do_get()
        finally:
            self._taking -= 1
        self._since.pop(entry, None)
        return entry

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self._since[record] = time.monotonic()
        super()._do_return_conn(record)

    def take_spare(self) -> Spare | None:
        """Gives the connection that goes out next if it is there, open, and nobody waits for it."""
        if self._taking or not self._since:
            return None
        entry: Any = next(reversed(self._since))  # Core types less of it than there is
        # After one was lost in mid-statement Core opens all anew that are older.
        if self._invalidate_time > entry.last_connect_time or not _is_open(entry):
            return None
        taken = self._do_get()
        driver: Any = taken.driver_connection
        return Spare(self, taken, driver)

    def put_back(self, entry: ConnectionPoolEntry) -> None:
        """Takes a spare back."""
        self._do_return_conn(entry)

    async def let_go(self) -> None:
        """Closes what has been spare for long, all but one, until cancelled. The pool finds it closed and opens it."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            due = time.monotonic() - _SPARE_SECONDS
            for entry in [entry for entry, since in list(self._since.items())[:-1] if since < due]:
                # It may have gone out while an earlier one took leave.
                if self._since.get(entry, due) < due and _is_open(entry):
                    await _leave(entry)


def _is_open(entry: ConnectionPoolEntry) -> bool:
    driver: Any = entry.driver_connection  # typed as the DBAPI's own object by SQLAlchemy
    return driver is not None and not driver.is_closed()


async def _leave(entry: ConnectionPoolEntry) -> None:
    driver: Any = entry.driver_connection
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        # From its first step on the connection counts as closed.
        await driver.close(timeout=_LEAVE_SECONDS)
