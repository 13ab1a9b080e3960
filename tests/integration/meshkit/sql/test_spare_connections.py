"""A pool lets go of what nobody needs, and nobody notices."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import greenlet_spawn

from services.meshkit.sql import spare_pool
from services.meshkit.sql.engine import PooledEngine, sql_engine
from tests.integration.conftest import MakeDatabase

_COUNT = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'spares'")


async def test_all_but_one_are_closed_and_the_next_callers_get_new_ones(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare_pool, "_SPARE_SECONDS", 0.2)
    monkeypatch.setattr(spare_pool, "_LOOK_SECONDS", 0.05)
    urls = await make_database("spares")
    async with sql_engine(urls.app, pool_size=4, application_name="spares") as engine:
        together = asyncio.Barrier(4)

        async def ask() -> int:
            async with engine.connect() as connection:
                await together.wait()
                return (await connection.execute(_COUNT)).scalar_one()

        async def crowd() -> None:
            assert max(await asyncio.gather(*(ask() for _ in range(4)))) == 4

        async def count() -> int:
            async with engine.connect() as connection:
                return (await connection.execute(_COUNT)).scalar_one()

        await crowd()
        async with asyncio.timeout(10):
            while await count() > 1:
                pass
        await crowd()


async def test_one_whose_opening_was_given_up_is_no_spare(make_database: MakeDatabase) -> None:
    urls = await make_database("given_up")
    async with sql_engine(urls.app, pool_size=2) as engine:
        held, lost = await engine.raw_connection(), await engine.raw_connection()
        await greenlet_spawn(lost.invalidate)
        opening = asyncio.create_task(engine.raw_connection())
        await asyncio.sleep(0)
        await greenlet_spawn(held.close)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert engine.take_spare() is None
        again = await engine.raw_connection()
        await greenlet_spawn(again.close)
        assert _taken_and_put_back(engine)


async def test_one_that_somebody_waits_for_is_no_spare(make_database: MakeDatabase) -> None:
    urls = await make_database("waited_for")
    async with sql_engine(urls.app, pool_size=1) as engine:
        held = await engine.raw_connection()
        waiting = asyncio.create_task(engine.raw_connection())
        await asyncio.sleep(0)
        await greenlet_spawn(held.close)
        async with asyncio.timeout(10):
            while not waiting.done():
                assert engine.take_spare() is None
                await asyncio.sleep(0)
        await greenlet_spawn(waiting.result().close)
        assert _taken_and_put_back(engine)


async def test_one_that_is_older_than_a_loss_is_no_spare(make_database: MakeDatabase) -> None:
    urls = await make_database("older")
    async with sql_engine(urls.app, pool_size=2) as engine:
        held = await engine.raw_connection()
        with pytest.raises(DBAPIError):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        await greenlet_spawn(held.close)
        assert engine.take_spare() is None
        again = await engine.raw_connection()
        await greenlet_spawn(again.close)
        assert _taken_and_put_back(engine)


async def test_one_that_breaks_while_it_is_used_is_replaced(make_database: MakeDatabase) -> None:
    urls = await make_database("broken")
    async with sql_engine(urls.app, pool_size=1) as engine:
        first = await engine.raw_connection()
        await greenlet_spawn(first.close)
        spare = engine.take_spare()
        assert spare is not None
        assert engine.take_spare() is None
        with pytest.raises(asyncpg.PostgresError):
            await spare.driver.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
        spare.put_back()
        assert engine.take_spare() is None
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
        assert _taken_and_put_back(engine)


def _taken_and_put_back(engine: PooledEngine) -> bool:
    spare = engine.take_spare()
    if spare is None:
        return False
    spare.put_back()
    return True
