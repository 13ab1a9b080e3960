"""A new connection asks the server for nothing that another one was told."""

from uuid import uuid4

import asyncpg

from services.meshkit.sql.connection import PreambleConnection
from tests.integration.conftest import MakeDatabase


async def test_what_arrays_are_made_of_is_asked_once_and_not_by_each_connection(make_database: MakeDatabase) -> None:
    url, some = (await make_database("arrays")).app, [uuid4(), uuid4()]
    asked: list[list[str]] = []
    for _ in range(2):
        asked.append([])
        connection = await asyncpg.connect(url, connection_class=PreambleConnection)
        try:
            connection.add_query_logger(lambda record: asked[-1].append(record.query))
            found = await connection.fetchval("SELECT $1::uuid[] || $2::uuid", some[:1], some[1])
        finally:
            await connection.close()
        assert found == some
    assert not any("typeinfo_tree" in query for query in asked[1])


async def test_types_that_one_database_has_made_are_asked_of_each(make_database: MakeDatabase) -> None:
    for name, kind, value in (("moods", "text", "glad"), ("ranks", "int", 3)):
        connection = await asyncpg.connect((await make_database(name)).migrator, connection_class=PreambleConnection)
        try:
            await connection.execute(f"CREATE DOMAIN felt AS {kind}")
            assert await connection.fetchval("SELECT ARRAY[$1::felt]", value) == [value]
        finally:
            await connection.close()
