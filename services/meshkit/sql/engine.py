"""Opens the pool of one database role."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy import URL, event, exc, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection

#: Prepared statements kept per connection, oldest dropped first.
_STATEMENTS_PER_CONNECTION: Final = 512
#: A transaction that sits open without a statement for this long is ended by the server.
_IDLE_IN_TRANSACTION_SECONDS: Final = 30
#: A connection beside the last used one is let go after this long: it costs the server 5 to 10 MB.
_SPARE_SECONDS: Final = 8.0
_LOOK_SECONDS: Final = 2.0
#: Longest wait for the server to take leave.
_LEAVE_SECONDS: Final = 2.0


class PreambleConnection(asyncpg.Connection):  # type: ignore[type-arg]
    """A connection that sends statements of ours in the same message as BEGIN and as COMMIT.

    So a transaction with its tenant setting and its audit entry costs no round trip more than one without.
    """

    #: Sent once, right after the next BEGIN. Set by `scope.py` only, from UUIDs and constants.
    preamble: str = ""
    #: Sent once, right before the next COMMIT, which does not happen when it fails. Set by `scope.py` only.
    farewell: str = ""

    async def execute(
        self,
        query: str,
        *args: object,
        timeout: float | None = None,
    ) -> str:
        """See `asyncpg.Connection.execute`."""
        if self.preamble and query.startswith("BEGIN"):
            query, self.preamble = f"{query.rstrip(';')};{self.preamble}", ""
        elif self.farewell and query.startswith("COMMIT"):
            return await self._commit(query)
        return await super().execute(query, *args, timeout=timeout)

    async def _commit(self, commit: str) -> str:
        farewell, self.farewell = self.farewell, ""
        try:
            return await super().execute(f"{farewell};{commit}")
        except asyncpg.PostgresError:
            # Nothing was committed; nobody above knows that the transaction is still there.
            if not self.is_closed() and self.is_in_transaction():
                await super().execute("ROLLBACK")
            raise


class Spare:
    """A connection of a pool, for whole transactions of the driver's own: Core resets nothing when it is put back."""

    __slots__ = ("_entry", "_pool", "driver")

    def __init__(self, pool: "_SparePool", entry: ConnectionPoolEntry, driver: PreambleConnection) -> None:
        self._pool = pool
        self._entry = entry
        self.driver = driver

    def put_back(self) -> None:
        """Lets others have it. One that has broken meanwhile is replaced by whoever comes next."""
        self._pool.put_back(self._entry)


class PooledEngine(AsyncEngine):
    """An engine that can say whether a connection is there to be taken. Opened by `sql_engine`."""

    def take_spare(self) -> Spare | None:
        """Gives a connection that nobody uses just now; None when one would have to be waited for or opened.

        Nothing is awaited by that, nor when it is put back. So neither needs the greenlets in which Core waits, nor
        what it does for each connection that goes out and comes in: both cost more than a short statement does.
        """
        pool = self.sync_engine.pool
        if not isinstance(pool, _SparePool):
            raise TypeError("open the engine with sql_engine")
        return pool.take_spare()


def asyncpg_url(url: str | URL) -> URL:
    """Names our driver in a `postgresql://` address and turns libpq's `sslmode` into asyncpg's `ssl`."""
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    mode = parsed.query.get("sslmode")
    if mode is None:
        return parsed
    return parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})


@asynccontextmanager
async def sql_engine(
    url: str | URL,
    *,
    pool_size: int = 8,
    pool_timeout_seconds: float = 5.0,
    command_timeout_seconds: float = 30.0,
    lock_timeout_seconds: float = 5.0,
    connect_timeout_seconds: float = 5.0,
    application_name: str = "comitia",
) -> AsyncGenerator[PooledEngine]:
    """Opens a bounded pool on one database as one role and closes it at the end. Connects on first use.

    Connections that nobody has needed for a while are closed, all but one.

    Args:
        url: `postgresql://role@host/database`, with or without a driver; `?host=/path` for a Unix socket.
        pool_size: most connections at any time; the next caller waits.
        pool_timeout_seconds: longest wait for a free connection; `scope.py` then raises `DatabaseBusy`.
        command_timeout_seconds: longest single statement.
        lock_timeout_seconds: longest wait for a row or table lock.
    """
    engine = create_async_engine(
        asyncpg_url(url),
        pool_size=pool_size,
        poolclass=_SparePool,
        max_overflow=0,
        pool_timeout=pool_timeout_seconds,
        pool_use_lifo=True,
        # Errors name the statement; what was in it is nobody's business.
        hide_parameters=True,
        connect_args={
            "connection_class": PreambleConnection,
            "timeout": connect_timeout_seconds,
            "command_timeout": command_timeout_seconds,
            "prepared_statement_cache_size": _STATEMENTS_PER_CONNECTION,
            "server_settings": {
                "application_name": application_name,
                "lock_timeout": f"{int(lock_timeout_seconds * 1000)}ms",
                # What is sent outside of a scope is the call of a function (`one_trip.py`), of which there is one plan.
                "plan_cache_mode": "force_generic_plan",
                "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_SECONDS}s",
                "timezone": "UTC",
            },
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    pool = engine.sync_engine.pool
    if not isinstance(pool, _SparePool):
        raise TypeError("the engine was given another pool")
    letting_go = asyncio.create_task(pool.let_go())
    try:
        yield PooledEngine(engine.sync_engine)
    finally:
        letting_go.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await letting_go
        await engine.dispose()


class _SparePool(AsyncAdaptedQueuePool):
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


def _refuse_closed(
    connection: DBAPIConnection,
    _entry: ConnectionPoolEntry,
    proxy: PoolProxiedConnection,
) -> None:
    """Makes the pool replace a connection whose socket has gone; unlike a ping it costs no round trip."""
    del connection
    driver: Any = proxy.driver_connection  # typed as the DBAPI's own object by SQLAlchemy
    if driver is None or driver.is_closed():
        raise exc.DisconnectionError("the server closed this connection")
