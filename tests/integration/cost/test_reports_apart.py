"""Reports that stand still take nothing from what is spent."""

import asyncio

import pytest
from sqlalchemy import text

from comitia.cost.v1 import ledger_service_pb2 as pb
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.cost.conftest import StartCost

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_calls_are_paid_for_while_every_report_waits(start_cost: StartCost) -> None:
    async with start_cost() as mesh, sql_engine(mesh.urls.migrator, pool_size=1) as engine:
        await mesh.caller().spend()
        async with maintenance_scope(engine) as scope:
            await scope.execute(text("LOCK TABLE cost_hour, cost_day, cost_run_hour IN ACCESS EXCLUSIVE MODE"))
            reports = [
                asyncio.ensure_future(mesh.caller().call("GetCostSummary", pb.GetCostSummaryRequest()))
                for _ in range(4)
            ]
            done, _ = await asyncio.wait(reports, timeout=0.5)
            assert not done
            for _ in range(20):
                await mesh.caller().spend()
        # They may have given up by now.
        await asyncio.gather(*reports, return_exceptions=True)
