"""Opens the pool of one database role."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import URL, event, exc, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from services.meshkit.sql.connection import PreambleConnection
from services.meshkit.sql.spare_pool import Spare, SparePool

#: Prepared statements kept per connection, oldest dropped first.
_STATEMENTS_PER_CONNECTION: Final = 512
#: A transaction that sits open without a statement for this long is ended by the server.
_IDLE_IN_TRANSACTION_SECONDS: Final = 30


class PooledEngine(AsyncEngine):
    """An engine that can say whether a connection is there to be taken. Opened by `sql_engine`."""

    def take_spare(self) -> Spare | None:
        """Gives a connection that nobody uses just now; None when one would have to be waited for or opened.

        Nothing is awaited by that, nor when it is put back. So neither needs the greenlets in which Core waits, nor
        what it does for each connection that goes out and comes in: both cost more than a short statement does.
        """
        pool = self.sync_engine.pool
        if not isinstance(pool, SparePool):
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
        poolclass=SparePool,
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
    if not isinstance(pool, SparePool):
        raise TypeError("the engine was given another pool")
    letting_go = asyncio.create_task(pool.let_go())
    try:
        yield PooledEngine(engine.sync_engine)
    finally:
        letting_go.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await letting_go
        await engine.dispose()


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
