"""A pool lets go of what nobody needs, and nobody notices."""

import asyncio

import pytest
from sqlalchemy import text

from services.meshkit.sql import engine as module
from services.meshkit.sql.engine import sql_engine
from tests.integration.conftest import MakeDatabase

_COUNT = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'spares'")


async def test_all_but_one_are_closed_and_the_next_callers_get_new_ones(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SPARE_SECONDS", 0.2)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.05)
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
