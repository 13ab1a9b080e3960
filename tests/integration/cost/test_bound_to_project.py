"""What a caller sees of money who is bound to a project, over gRPC on real Postgres."""

import csv
import io
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from comitia.cost.v1 import budget_service_pb2 as budget_pb
from comitia.cost.v1 import cost_pb2, rollup_pb2
from comitia.cost.v1 import ledger_service_pb2 as ledger_pb
from services.cost.storage.ledger_repository import LedgerRepository
from services.cost.usecases.ledger_ports import CostFilter
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
from tests.integration.cost.conftest import CostCaller, CostMesh
from tests.support.money import NOON, a_run_id
from tests.support.planted_charges import a_charge, plant

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SCANS = text("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'ix_cost_event_project'")
#: What one call costs.
EACH = 4_500
REPORTS = (
    ("GetCostSummary", ledger_pb.GetCostSummaryRequest),
    ("GetCostSeries", ledger_pb.GetCostSeriesRequest),
    ("ExportCosts", ledger_pb.ExportCostsRequest),
)


@pytest.fixture
def admin(mesh: CostMesh) -> CostCaller:
    return mesh.caller(Role.ADMIN)


@pytest.fixture(params=[Role.TENANT_USER, Role.AUDITOR, Role.ADMIN])
def bound(mesh: CostMesh, request: pytest.FixtureRequest) -> CostCaller:
    return mesh.caller(request.param, project="claims", peer=None)


async def spend_some(admin: CostCaller) -> None:
    """One call of the project, two of another, one of none; an agent works for both."""
    await admin.spend(run_id="run_mine", project="claims", agent_name="Athena")
    await admin.spend(run_id="run_theirs", project="billing", agent_name="Athena")
    await admin.spend(run_id="run_theirs", project="billing", agent_name="Hermes")
    await admin.spend(run_id="run_free", agent_name="Iris")


async def rows(caller: CostCaller, **changes: Any) -> list[dict[str, str]]:
    pieces = [piece.data async for piece in caller.stream("ExportCosts", ledger_pb.ExportCostsRequest(**changes))]
    return list(csv.DictReader(io.StringIO(b"".join(pieces).decode())))


@pytest.mark.parametrize("project", ["", "claims"])
@pytest.mark.parametrize(
    ("by", "key"),
    [
        (ledger_pb.COST_DIMENSION_RUN, "run_mine"),
        (ledger_pb.COST_DIMENSION_PROJECT, "claims"),
        (ledger_pb.COST_DIMENSION_AGENT, "Athena"),
        (ledger_pb.COST_DIMENSION_MODEL, "gpt-4o-mini"),
    ],
)
async def test_sums_are_those_of_the_project(
    admin: CostCaller, bound: CostCaller, by: ledger_pb.CostDimension.ValueType, key: str, project: str
) -> None:
    await spend_some(admin)
    summary = await bound.call("GetCostSummary", ledger_pb.GetCostSummaryRequest(by=by, project=project))
    assert [(line.key, line.cost_nano_usd) for line in summary.lines] == [(key, EACH)]
    assert (summary.total_nano_usd, summary.event_count) == (EACH, 1)
    series = await bound.call("GetCostSeries", ledger_pb.GetCostSeriesRequest(by=by, project=project))
    assert [(line.key, line.total_nano_usd) for line in series.lines] == [(key, EACH)]


async def test_a_run_of_another_project_has_no_charges(admin: CostCaller, bound: CostCaller) -> None:
    await spend_some(admin)
    for run in ("run_theirs", "run_free", "run_nobody"):
        assert await bound.events(run_id=run) == []
        summary = await bound.call("GetCostSummary", ledger_pb.GetCostSummaryRequest(run_id=run))
        assert summary == ledger_pb.GetCostSummaryResponse(), run
        assert await rows(bound, run_id=run, detail=rollup_pb2.COST_EXPORT_DETAIL_EVENT) == []
    assert [event.run_id for event in await bound.events(run_id="run_mine")] == ["run_mine"]
    theirs = await bound.call("GetCostSummary", ledger_pb.GetCostSummaryRequest(agent_name="Hermes"))
    assert theirs.event_count == 0


async def test_charges_are_listed_and_exported_within_the_project(
    mesh: CostMesh, admin: CostCaller, bound: CostCaller
) -> None:
    for _ in range(2):
        await spend_some(admin)
        mesh.clock.advance(seconds=1)
    first = await bound.call("ListCostEvents", ledger_pb.ListCostEventsRequest(page_size=1))
    rest = await bound.call("ListCostEvents", ledger_pb.ListCostEventsRequest(page_token=first.next_page_token))
    assert [event.project for event in (*first.cost_events, *rest.cost_events)] == ["claims", "claims"]
    assert not rest.next_page_token
    # The place of a page says where to go on, never who may look.
    everything = await admin.call("ListCostEvents", ledger_pb.ListCostEventsRequest(page_size=1))
    after = await bound.call("ListCostEvents", ledger_pb.ListCostEventsRequest(page_token=everything.next_page_token))
    assert {event.project for event in after.cost_events} == {"claims"}
    for detail in (
        rollup_pb2.COST_EXPORT_DETAIL_DAY,
        rollup_pb2.COST_EXPORT_DETAIL_HOUR,
        rollup_pb2.COST_EXPORT_DETAIL_EVENT,
    ):
        found = await rows(bound, detail=detail)
        assert {row["project"] for row in found} == {"claims"}
        assert sum(int(row["cost_nano_usd"]) for row in found) == 2 * EACH


@pytest.mark.parametrize(("method", "request_type"), REPORTS)
async def test_asking_for_another_project_is_refused(bound: CostCaller, method: str, request_type: Any) -> None:
    request = request_type(project="billing")
    if method == "ExportCosts":
        with pytest.raises(Exception, match="bound to the project 'claims'"):
            await rows(bound, project="billing")
    else:
        assert await bound.refused(method, request) == "denied/BOUND_TO_PROJECT"


async def test_the_budget_of_the_project_is_all_there_is(mesh: CostMesh, admin: CostCaller, bound: CostCaller) -> None:
    run = a_run_id()
    made: dict[str, str] = {}
    for scope, name in (
        (cost_pb2.BUDGET_SCOPE_PROJECT, "claims"),
        (cost_pb2.BUDGET_SCOPE_PROJECT, "billing"),
        (cost_pb2.BUDGET_SCOPE_AGENT, "claims"),
        (cost_pb2.BUDGET_SCOPE_STEP, f"{run}/rounds"),
    ):
        request = budget_pb.SetBudgetRequest(scope=scope, name=name, limit_nano_usd=10**9)
        budget = (await admin.call("SetBudget", request)).budget
        made[cost_pb2.BudgetScope.Name(scope).removeprefix("BUDGET_SCOPE_").lower() + f":{name}"] = budget.budget_id
    of_run = budget_pb.CreateBudgetRequest(run_id=run, limit_nano_usd=1)
    made[f"run:{run}"] = (await mesh.caller(peer="orchestrator").call("CreateBudget", of_run)).budget.budget_id
    made["tenant"] = (await admin.budget()).budget_id
    own = made.pop("project:claims")
    await admin.spend(project="claims")
    for name in ("project:claims", own):
        assert (await bound.budget(name)).spent_nano_usd == EACH
        shown = await bound.call("GetBudgetStatus", budget_pb.GetBudgetStatusRequest(budget_id=name))
        assert (shown.budget.budget_id, shown.left_nano_usd) == (own, 10**9 - EACH)
    for name in (*made, *made.values()):
        named = ":" in name
        reason = "BUDGET_NODE_NOT_FOUND" if named else "BUDGET_NOT_FOUND"
        for method, request in (
            ("GetBudget", budget_pb.GetBudgetRequest(budget_id=name)),
            ("GetBudgetStatus", budget_pb.GetBudgetStatusRequest(budget_id=name)),
        ):
            assert await bound.refused(method, request) == f"not_found/{reason}", name
            assert (await admin.budget(name)).budget_id in made.values()


async def test_what_is_not_theirs_is_refused_in_the_words_of_what_is_not_there(
    admin: CostCaller, bound: CostCaller
) -> None:
    async def words(name: str) -> str:
        with pytest.raises(MeshError) as refused:
            await bound.budget(name)
        return refused.value.message.replace(name, "NAME")

    request = budget_pb.SetBudgetRequest(scope=cost_pb2.BUDGET_SCOPE_PROJECT, name="billing", limit_nano_usd=1)
    other = (await admin.call("SetBudget", request)).budget.budget_id
    assert await words("project:billing") == await words("project:nobody")
    assert await words(other) == await words(from_uuid("budget", uuid4()))


async def test_a_service_that_acts_for_a_run_is_not_held_against_the_project(mesh: CostMesh) -> None:
    acting = mesh.caller(Role.TENANT_USER, project="claims", run_id=a_run_id(), peer="orchestrator")
    assert (await acting.budget("tenant")).scope == cost_pb2.BUDGET_SCOPE_TENANT
    alone = mesh.caller(Role.TENANT_USER, project="claims", run_id=a_run_id(), peer=None)
    assert (
        await alone.refused("GetBudget", budget_pb.GetBudgetRequest(budget_id="tenant")) == "not_found/BUDGET_NOT_FOUND"
    )


async def test_the_few_charges_of_a_project_are_found_without_a_look_at_all_others(mesh: CostMesh) -> None:
    made = [a_charge(NOON + timedelta(seconds=number), 1, project="billing") for number in range(4_000)]
    made[7]["project"] = "claims"
    await plant(mesh.urls.app, mesh.tenant, made)
    async with sql_engine(mesh.urls.migrator, pool_size=1) as engine, maintenance_scope(engine) as scope:
        await scope.execute(text("ANALYZE cost_event"))
        await scope.commit()
    async with (
        sql_engine(mesh.urls.app, pool_size=1) as reader,
        sql_engine(mesh.urls.maintenance, pool_size=1) as other,
    ):

        async def scans() -> int:
            async with maintenance_scope(other, read_only=True) as scope:
                return int((await scope.execute(_SCANS)).scalar_one())

        before = await scans()
        found = await LedgerRepository(reader).page(mesh.tenant, CostFilter(project="claims"), size=50, after=None)
        assert [entry.id for entry in found] == [made[7]["id"]]
        async with tenant_scope(reader, mesh.tenant, read_only=True) as scope:
            await scope.execute(text("SELECT pg_stat_force_next_flush()"))

        async def counted() -> bool:
            return await scans() > before

        await mesh.until(counted)
