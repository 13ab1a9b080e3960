"""Every table with a tenant says what becomes of it when the tenant is erased, and can be erased as it says."""

import importlib
from collections.abc import Sequence
from uuid import uuid4

import pytest
from sqlalchemy import text

from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import ErasureAction
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.tenant_data import TableStatement, deleted, kept
from services.meshkit.sql.tenant_rows import TenantRows
from tests.integration.conftest import MakeDatabase

SERVICES = ("cost", "gateway", "inference", "memory", "orchestrator", "policy", "tools")


def stated_by(service: str) -> Sequence[TableStatement]:
    return importlib.import_module(f"services.{service}.storage.tenant_data").TENANT_DATA


@pytest.mark.parametrize("service", SERVICES)
async def test_every_table_with_a_tenant_has_a_statement_and_can_be_erased_by_it(
    make_database: MakeDatabase, service: str
) -> None:
    urls = await make_database(service)
    await migrate(f"services.{service}", urls.migrator)
    statements = stated_by(service)
    async with sql_engine(urls.maintenance, pool_size=1) as maintenance:
        async with maintenance.connect() as connection:
            tables = {
                guard.name
                for guard in await audit_catalogue(connection)
                if guard.kind in ("r", "p") and guard.untenanted is None and not guard.is_partition
            }
        assert {statement.table for statement in statements} == tables
        rows, tenant = TenantRows(service, maintenance, statements), TenantId(uuid4())
        assert {step.count for step in await rows.plan(tenant)} == {0}
        for statement in statements:
            assert await rows.erase(tenant, statement) == 0
        await rows.destroy_keys(tenant)


async def test_only_the_tenants_rows_go_and_words_of_kept_rows_are_blanked(make_database: MakeDatabase) -> None:
    urls = await make_database("gateway")
    await migrate("services.gateway", urls.migrator)
    gone, stays = TenantId(uuid4()), TenantId(uuid4())
    async with sql_engine(urls.maintenance, pool_size=1) as maintenance, sql_engine(urls.app, pool_size=1) as app:
        async with app.begin() as connection:
            await connection.execute(
                text("SELECT set_config('app.tenants', :both, true)"), {"both": f"{{{gone},{stays}}}"}
            )
            for tenant, name in ((gone, "canary"), (stays, "other")):
                await connection.execute(
                    text(
                        "INSERT INTO tenant (tenant_id, name, residency_region, create_time, security_policy)"
                        " VALUES (:tenant, :name, 'eu', now(), '{\"allowed_tools\": [\"x\"]}')"
                    ),
                    {"tenant": tenant, "name": name},
                )
                await connection.execute(
                    text(
                        "INSERT INTO person (id, tenant_id, email, roles, create_time)"
                        " VALUES (:id, :tenant, :name, '{admin}', now())"
                    ),
                    {"id": uuid4(), "tenant": tenant, "name": name},
                )
        rows = TenantRows("gateway", maintenance, stated_by("gateway"))
        for statement in rows.statements:
            await rows.erase(gone, statement)
        planned = {step.store: step.count for step in await rows.plan(gone)}
        assert (planned["person"], planned["tenant"]) == (0, 1)
        assert {step.store: step.count for step in await rows.plan(stays)}["person"] == 1
        async with maintenance.connect() as connection:
            found = (await connection.execute(text("SELECT name, residency_region, security_policy FROM tenant"))).all()
    assert sorted((row[0], row[1], bool(row[2])) for row in found) == [("canary", "", False), ("other", "eu", True)]


def test_rows_that_stay_need_a_reason_and_only_they() -> None:
    with pytest.raises(ValueError, match="reason"):
        TableStatement(table="x", action=ErasureAction.KEEP)
    with pytest.raises(ValueError, match="reason"):
        TableStatement(table="x", action=ErasureAction.DELETE, reason="because")
    assert (deleted("x").action, kept("y", "why").reason) == (ErasureAction.DELETE, "why")
