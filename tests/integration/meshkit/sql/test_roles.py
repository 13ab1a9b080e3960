"""Databases and roles belong to whoever made them first."""

import asyncpg
import pytest

from services.meshkit.sql.roles import OwnedByAnother, provision
from tests.integration.conftest import MakeDatabase


async def test_what_nobody_owns_is_taken_and_what_another_owns_is_refused(
    make_database: MakeDatabase, postgres: str
) -> None:
    name = (await make_database("ledgerette")).app.rpartition("/")[2].partition("?")[0]
    await provision(postgres, name, owner="first")
    await provision(postgres, name, owner="first")
    with pytest.raises(OwnedByAnother, match=f"the database {name} on this server belongs to another mesh") as refused:
        await provision(postgres, name, owner="it's second")
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"COMMENT ON ROLE {refused.value.role} IS NULL")
    finally:
        await connection.close()
    await provision(postgres, name, owner="it's second")


async def test_who_names_no_owner_asks_for_none(make_database: MakeDatabase, postgres: str) -> None:
    name = (await make_database("ledgerette")).app.rpartition("/")[2].partition("?")[0]
    await provision(postgres, name, owner="first")
    await provision(postgres, name)
