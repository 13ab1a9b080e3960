"""What the gateway writes into the audit trail about its own mutations."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
from tests.integration.gateway.conftest import Face
from tests.support.gateway import MakeDatabase

TENANT = TenantId(uuid4())
WRITTEN = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def entries(urls: Any) -> list[Any]:
    async with sql_engine(urls.app, pool_size=1) as app, sql_engine(urls.maintenance, pool_size=1) as maintenance:
        return list(await SqlAuditStore(app=app, maintenance=maintenance).after({}, most=1_000))


async def test_the_first_tenant_and_key_are_work_of_the_mesh_itself(face: Face) -> None:
    first, second = await entries(face.gateway.urls)
    assert {first["actor"], second["actor"]} == {"service:gateway"}
    assert [first["action"], second["action"]] == ["tenants.write", "api_keys.write"]
    assert first["target"] == from_uuid("tenant", first["tenant_id"])


async def test_entries_of_the_first_form_move_behind_those_of_today(make_database: MakeDatabase) -> None:
    urls = await make_database("gateway")
    await migrate("services.gateway", urls.migrator, to="0008")
    async with sql_engine(urls.app, pool_size=1) as app, tenant_scope(app, TENANT) as scope:
        for second, subject in enumerate(("key_1", "key_2")):
            await scope.execute(
                text("INSERT INTO audit VALUES (:id, :tenant, 'api_key.created', :subject, 'key_0', :at)"),
                {"id": uuid4(), "tenant": TENANT, "subject": subject, "at": WRITTEN + timedelta(seconds=second)},
            )
        await scope.commit()
    await migrate("services.gateway", urls.migrator, to="0009")
    moved = await entries(urls)
    assert [(one["target"], one["actor"], one["action"]) for one in moved] == [
        ("key_1", "key_0", "api_key.created"),
        ("key_2", "key_0", "api_key.created"),
    ]
    assert moved[0]["details"] == {"written_time": "2026-01-01T12:00:00.000000Z"}
    async with sql_engine(urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        assert (await scope.execute(text("SELECT to_regclass('audit')"))).scalar_one() is None
    await migrate("services.gateway", urls.migrator, to="0008", back=True)
