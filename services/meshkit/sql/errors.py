"""What the database says, as errors of the mesh. Mapped once, here."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import asyncpg
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from services.meshkit.core.errors import Conflict, Exhausted, Invalid, Unavailable

#: deadlock_detected, serialization_failure, lock_not_available
_CONFLICT_STATES: Final = frozenset({"40P01", "40001", "55P03"})
#: character_not_in_repertoire, untranslatable_character: U+0000, which no text of Postgres holds
_CHARACTER_STATES: Final = frozenset({"22021", "22P05"})
#: What asyncpg says of a number that is too big for its column.
_TOO_BIG: Final = "value out of int"
#: admin_shutdown, crash_shutdown, cannot_connect_now; query_canceled by its timeout; io_error;
#: read_only_sql_transaction: a primary that has become a standby
_AWAY_STATES: Final = frozenset({"57P01", "57P02", "57P03", "57014", "58030", "25006"})
#: insufficient_resources: no disk, no memory, no connection left
_SHORT_OF: Final = "53"


class TransactionConflict(Conflict):
    """Two transactions stood in each other's way. Redo the whole step."""

    reason = "TRANSACTION_CONFLICT"


class ValueUnstorable(Invalid):
    """The request holds a value that nothing stored can have, in a field that had no rule of its own against it."""

    reason = "VALUE_UNSTORABLE"

    def __init__(self, sentence: str) -> None:
        super().__init__("request", sentence)


class DatabaseBusy(Exhausted):
    """Every connection of the pool is taken. Try again shortly."""

    reason = "DATABASE_BUSY"


@contextmanager
def mapped_errors() -> Generator[None]:
    """Turns outages, a full pool, lost races and values that no column holds into mesh errors.

    Constraint violations pass for the repository.
    """
    try:
        yield
    except exc.TimeoutError as cause:
        raise DatabaseBusy(
            "every database connection is in use; try again shortly",
            retry_after=timedelta(seconds=1),
        ) from cause
    except exc.DBAPIError as cause:
        driver = cause.driver_exception if cause.orig is not None else cause
        _raise_mapped(driver, cause)
        if cause.connection_invalidated:
            raise Unavailable("postgres") from cause
        raise
    except AsyncAdapt_asyncpg_dbapi.Error as cause:
        # Core does not wrap what a pool raises that connects for a raw connection.
        _raise_mapped(cause.__cause__, cause)
        raise
    except asyncpg.PostgresError as cause:
        _raise_mapped(cause, cause)
        raise
    except asyncpg.InterfaceError as cause:
        # A socket that was lost a moment ago; any other misuse of the driver is ours and stays visible.
        if "closed" in str(cause):
            raise Unavailable("postgres") from cause
        raise
    except (asyncpg.InternalClientError, OSError) as cause:
        raise Unavailable("postgres") from cause


def _raise_mapped(driver: object, cause: BaseException) -> None:
    """Raises the mesh error for what the server or the driver said, if there is one."""
    if not isinstance(driver, asyncpg.PostgresError):
        return
    if driver.sqlstate in _CONFLICT_STATES:
        raise TransactionConflict("another change got in the way; reload and try again") from cause
    if driver.sqlstate in _CHARACTER_STATES:
        raise ValueUnstorable(
            "holds the character U+0000, which cannot be stored or looked for; leave it out"
        ) from cause
    if isinstance(driver, asyncpg.NumericValueOutOfRangeError) or (
        isinstance(driver, asyncpg.DataError) and _TOO_BIG in str(driver)
    ):
        raise ValueUnstorable("holds a number that is too big to be stored or looked for") from cause
    state = driver.sqlstate or ""
    is_away = state in _AWAY_STATES or state.startswith(_SHORT_OF)
    if is_away or isinstance(driver, asyncpg.PostgresConnectionError):
        raise Unavailable("postgres") from cause


def violates(error: exc.IntegrityError, constraint: str) -> bool:
    """Tells whether this constraint was the one that refused the row."""
    driver = error.driver_exception
    return isinstance(driver, asyncpg.IntegrityConstraintViolationError) and driver.constraint_name == constraint
