"""Whoever changes the books behind the back of cost is found out by them."""

from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.cost.v1 import budget_service_pb2 as budget_pb
from services.cost.settings import CostSettings
from services.cost.storage.book_check import BookCheck
from services.cost.wiring import checking
from services.meshkit.checking import STATEMENT_SECONDS
from services.meshkit.core.identity import Role
from services.meshkit.sql.engine import sql_engine
from tests.integration.cost.conftest import CostMesh, StartCost
from tests.support.money import a_run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def looked_through(mesh: CostMesh) -> tuple[str, list[str]]:
    async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine:
        return await BookCheck(engine).differences()


async def change(mesh: CostMesh, statement: str) -> None:
    connection: asyncpg.Connection = await asyncpg.connect(mesh.urls.migrator)
    try:
        assert not (await connection.execute(statement)).endswith(" 0")
    finally:
        await connection.close()


async def test_books_that_agree_are_found_sound_and_each_difference_is_named(start_cost: StartCost) -> None:
    async with start_cost() as mesh:
        anna = mesh.caller(Role.ADMIN)
        await anna.spend()
        await anna.spend(input_tokens=3)
        await anna.release(await anna.reserve())
        held = await anna.reserve()
        await anna.dispatch(await anna.reserve())
        assert await looked_through(mesh) == ("1 budgets, 5 holds, 2 entries of the ledger", [])

        await change(mesh, "UPDATE hold SET amount_nano_usd = amount_nano_usd + 7 WHERE state = 1")
        _, [sentence] = await looked_through(mesh)
        said = (await anna.budget()).held_nano_usd
        assert sentence.endswith(f"holds {said} nano-USD, and its open holds {said + 7}")
        await change(mesh, "UPDATE hold SET amount_nano_usd = amount_nano_usd - 7 WHERE state = 1")
        await change(mesh, "DELETE FROM cost_event WHERE ctid = (SELECT min(ctid) FROM cost_event)")
        _, [sentence] = await looked_through(mesh)
        assert sentence.endswith("nano-USD, and the ledger says 0")
        assert held.amount_nano_usd > 0


async def test_what_a_run_has_spent_is_held_against_what_its_calls_were_charged(start_cost: StartCost) -> None:
    async with start_cost() as mesh:
        anna, orchestrator = mesh.caller(Role.ADMIN), mesh.caller(peer="orchestrator")
        create = budget_pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=10**9)
        run = (await orchestrator.call("CreateBudget", create)).budget
        for _ in range(2):
            await anna.spend(budget_ids=[run.budget_id])
        assert (await looked_through(mesh))[1] == []

        spent = (await anna.budget(run.budget_id)).spent_nano_usd
        await change(mesh, "UPDATE budget SET spent_nano_usd = spent_nano_usd - 1 WHERE run_id IS NOT NULL")
        _, [sentence] = await looked_through(mesh)
        assert sentence.endswith(f"has spent {spent - 1} nano-USD, and its calls were charged {spent}")
        # Of a run that is older than the oldest hold that there is, nobody can tell.
        await change(
            mesh, "UPDATE rollup_mark SET holds_from = (SELECT max(created_time) FROM budget) + interval '1 s'"
        )
        assert (await looked_through(mesh))[1] == []


async def test_a_hold_that_outlives_its_entries_is_no_fault_and_a_younger_one_without_is(start_cost: StartCost) -> None:
    async with start_cost() as mesh:
        anna = mesh.caller(Role.ADMIN)
        await anna.spend()
        mesh.clock.advance(seconds=5)
        await anna.spend()
        await change(mesh, "UPDATE rollup_mark SET kept_from = (SELECT max(created_time) FROM hold)")
        await change(mesh, "DELETE FROM cost_event WHERE created_time < (SELECT kept_from FROM rollup_mark)")
        assert await looked_through(mesh) == ("1 budgets, 2 holds, 1 entries of the ledger", [])

        await change(mesh, "DELETE FROM cost_event")
        _, [sentence] = await looked_through(mesh)
        assert sentence.endswith("nano-USD, and the ledger says 0")


async def test_a_statement_of_a_look_may_take_longer_than_one_of_a_caller(
    start_cost: StartCost, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    whole = checking.sql_engine

    def opened(url: str, *, command_timeout_seconds: float, **others: Any) -> AbstractAsyncContextManager[AsyncEngine]:
        given.append(command_timeout_seconds)
        return whole(url, command_timeout_seconds=command_timeout_seconds, **others)

    monkeypatch.setattr(checking, "sql_engine", opened)
    async with start_cost() as mesh:
        settings = SimpleNamespace(maintenance_database_url=SecretStr(mesh.urls.maintenance))
        [checked] = await checking.check_money(cast(CostSettings, settings))
    assert list(checked.faults) == []
    assert given == [STATEMENT_SECONDS]
