"""What a database says that is away reads the same, whichever layer says it."""

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from services.meshkit.core.errors import Unavailable
from services.meshkit.sql.errors import mapped_errors

STARTING_UP = asyncpg.exceptions.CannotConnectNowError("the database system is starting up")


def test_a_server_that_is_starting_up_is_away_to_a_driver() -> None:
    with pytest.raises(Unavailable), mapped_errors():
        raise STARTING_UP


def test_a_server_that_is_starting_up_is_away_to_a_pool_that_connects() -> None:
    with pytest.raises(Unavailable), mapped_errors():
        raise AsyncAdapt_asyncpg_dbapi.Error(str(STARTING_UP), STARTING_UP) from STARTING_UP


def test_any_other_word_of_the_adapter_stays_visible() -> None:
    cause = asyncpg.exceptions.UndefinedTableError("no such table")
    with pytest.raises(AsyncAdapt_asyncpg_dbapi.Error), mapped_errors():
        raise AsyncAdapt_asyncpg_dbapi.Error(str(cause), cause) from cause


@pytest.mark.parametrize(
    "said",
    [
        asyncpg.exceptions.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"),
        asyncpg.exceptions.DiskFullError("could not extend file"),
        asyncpg.exceptions.OutOfMemoryError("out of memory"),
        asyncpg.exceptions.TooManyConnectionsError("sorry, too many clients already"),
        asyncpg.exceptions.QueryCanceledError("canceling statement due to statement timeout"),
        asyncpg.exceptions.PostgresIOError("could not read block"),
    ],
)
def test_a_server_that_cannot_do_its_work_just_now_is_away(said: asyncpg.PostgresError) -> None:
    with pytest.raises(Unavailable), mapped_errors():
        raise said
