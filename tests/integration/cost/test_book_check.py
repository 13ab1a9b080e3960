"""Whoever changes the books behind the back of cost is found out by them."""

import asyncpg
import pytest

from services.cost.storage.book_check import BookCheck
from services.meshkit.core.identity import Role
from services.meshkit.sql.engine import sql_engine
from tests.integration.cost.conftest import CostMesh, StartCost

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def looked_through(mesh: CostMesh) -> tuple[str, list[str]]:
    async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine:
        return await BookCheck(engine).differences()


async def test_books_that_agree_are_found_sound_and_each_difference_is_named(start_cost: StartCost) -> None:
    async with start_cost() as mesh:
        anna = mesh.caller(Role.ADMIN)
        await anna.spend()
        await anna.spend(input_tokens=3)
        await anna.release(await anna.reserve())
        held = await anna.reserve()
        await anna.dispatch(await anna.reserve())
        assert await looked_through(mesh) == ("1 budgets, 5 holds, 2 entries of the ledger", [])

        connection: asyncpg.Connection = await asyncpg.connect(mesh.urls.migrator)
        try:
            await connection.execute("UPDATE hold SET amount_nano_usd = amount_nano_usd + 7 WHERE state = 1")
            _, [sentence] = await looked_through(mesh)
            said = (await anna.budget()).held_nano_usd
            assert sentence.endswith(f"holds {said} nano-USD, and its open holds {said + 7}")
            await connection.execute("UPDATE hold SET amount_nano_usd = amount_nano_usd - 7 WHERE state = 1")
            await connection.execute("DELETE FROM cost_event WHERE ctid = (SELECT min(ctid) FROM cost_event)")
            _, [sentence] = await looked_through(mesh)
            assert sentence.endswith("nano-USD, and the ledger says 0")
        finally:
            await connection.close()
        assert held.amount_nano_usd > 0
