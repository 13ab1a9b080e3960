"""Tenants and the state of the mesh through a real gRPC server and a real Postgres."""

import asyncio
import json
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from comitia.gateway.v1 import identity_pb2, status_service_pb2
from comitia.gateway.v1 import identity_service_pb2 as identity
from comitia.gateway.v1 import tenant_service_pb2 as pb
from services.gateway.domain.errors import BootstrapKeyDiffers
from services.gateway.storage.tables import METADATA
from services.gateway.wiring import gateway
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import drift, migrate
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.conftest import Face
from tests.support.gateway import gateway_settings, new_key_text, running_gateway


async def test_a_new_tenant_has_an_admin_of_its_own(face: Face) -> None:
    request = pb.CreateTenantRequest(name="acme", residency_region="eu")
    made = await face.tenants.CreateTenant(request, metadata=await face.admin())
    me = await face.identity.WhoAmI(identity.WhoAmIRequest(), metadata=await face.login(made.admin_api_key))
    assert (made.tenant.name, made.tenant.residency_region) == ("acme", "eu")
    assert (me.tenant_id, list(me.roles)) == (made.tenant.tenant_id, [identity_pb2.ROLE_ADMIN])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "Acme"}, "name"),
        ({"name": "-acme"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": "ac\x00me"}, "name"),
        ({"name": "acmé"}, "name"),
        ({"name": "acme", "residency_region": "E U"}, "residency_region"),
        ({"name": "acme", "request_id": "x"}, "request_id"),
    ],
)
async def test_a_wrong_tenant_is_refused_with_its_field(face: Face, fields: dict[str, str], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await face.tenants.CreateTenant(pb.CreateTenantRequest(**fields), metadata=await face.admin())
    assert (raised.value.code(), remote_error(raised.value).field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_name_belongs_to_one_tenant(face: Face) -> None:
    admin = await face.admin()
    await face.tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=admin)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await face.tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=admin)
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert remote_error(raised.value).reason == "ALREADY_EXISTS"


async def test_a_repeated_request_makes_one_tenant_even_at_the_same_time(face: Face) -> None:
    admin = await face.admin()
    request = pb.CreateTenantRequest(name="acme", request_id=str(SystemIds().uuid()))
    calls = (face.tenants.CreateTenant(request, metadata=admin) for _ in range(5))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    # Who comes while the first is at work is told so, and gets its answer by asking again.
    for refusal in (outcome for outcome in outcomes if isinstance(outcome, BaseException)):
        assert isinstance(refusal, grpc.aio.AioRpcError)
        assert remote_error(refusal).reason == "REQUEST_IN_PROGRESS"
    answers.append(await face.tenants.CreateTenant(request, metadata=admin))
    assert len({answer.tenant.tenant_id for answer in answers}) == 1
    assert sum(bool(answer.admin_api_key) for answer in answers) == 1


async def test_tenants_are_listed_in_pages_by_name(face: Face) -> None:
    admin = await face.admin()
    for name in ("zeta", "beta", "alpha"):
        await face.tenants.CreateTenant(pb.CreateTenantRequest(name=name), metadata=admin)
    first = await face.tenants.ListTenants(pb.ListTenantsRequest(page_size=3), metadata=admin)
    rest = pb.ListTenantsRequest(page_size=3, page_token=first.next_page_token)
    second = await face.tenants.ListTenants(rest, metadata=admin)
    assert [tenant.name for tenant in (*first.tenants, *second.tenants)] == ["alpha", "beta", "local", "zeta"]
    assert second.next_page_token == ""
    for wrong in (pb.ListTenantsRequest(page_size=-1), pb.ListTenantsRequest(page_token="x")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await face.tenants.ListTenants(wrong, metadata=admin)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_status_names_all_seven_and_waits_for_them_at_once(face: Face) -> None:
    started = time.monotonic()
    answer = await face.status.GetMeshStatus(status_service_pb2.GetMeshStatusRequest())
    # For each of them two seconds at most, not for one after the other.
    assert time.monotonic() - started < 10
    assert [service.name for service in answer.services] == [
        *("cost", "gateway", "inference", "memory", "orchestrator", "policy", "tools")
    ]
    assert {service.health for service in answer.services} == {status_service_pb2.SERVICE_HEALTH_UNREACHABLE}
    assert not answer.serving
    assert answer.version


async def test_a_service_that_serves_is_seen(
    face: Face, make_migrated: MakeDatabase, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("second")
    async with (
        running_gateway(make_migrated, folder, targets={"cost_target": face.gateway.target}) as second,
        grpc.aio.insecure_channel(second.target) as channel,
    ):
        ask = channel.unary_unary(
            "/comitia.gateway.v1.StatusService/GetMeshStatus",
            response_deserializer=status_service_pb2.GetMeshStatusResponse.FromString,
        )
        answer = await ask(b"")
        health = {service.name: service.health for service in answer.services}
        assert health["cost"] == status_service_pb2.SERVICE_HEALTH_SERVING
        await face.gateway.serving.health.drain()
        answer = await ask(b"")
    health = {service.name: service.health for service in answer.services}
    assert health["cost"] == status_service_pb2.SERVICE_HEALTH_NOT_SERVING


async def test_the_openapi_document_is_given_as_it_is(face: Face) -> None:
    answer = await face.status.GetOpenApi(status_service_pb2.GetOpenApiRequest())
    assert answer.content_type == "application/json"
    assert json.loads(answer.data)["openapi"] == "3.1.0"


#: Tables that belong to no tenant, each with its reason beside it in the migrations.
UNTENANTED = {
    "audit_acknowledgement",
    "audit_break",
    "audit_cursor",
    "audit_stream",
    "guard_change",
    "guard_version",
    "rate_bucket",
    "schema_version_gateway",
    "signing_key",
}


async def test_every_table_is_guarded(make_database: MakeDatabase) -> None:
    urls = await make_database("gateway")
    await migrate("services.gateway", urls.migrator)
    async with sql_engine(urls.migrator) as engine, engine.connect() as connection:
        guards = await audit_catalogue(connection)
    assert {guard.name: guard.faults for guard in guards if guard.faults} == {}
    assert {guard.name for guard in guards if guard.untenanted} == UNTENANTED


async def test_the_tables_are_what_the_migrations_make_and_migrations_go_back(make_database: MakeDatabase) -> None:
    urls = await make_database("gateway")
    await migrate("services.gateway", urls.migrator)
    assert await drift("services.gateway", urls.migrator, METADATA) == []
    await migrate("services.gateway", urls.migrator, to="base", back=True)
    await migrate("services.gateway", urls.migrator)


async def test_a_second_start_changes_nothing_and_a_changed_key_file_is_noticed(face: Face, tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, face.gateway.keys, face.gateway.urls)
    async with gateway(settings, clock=SystemClock(), ids=SystemIds()):
        pass
    keys = await face.identity.ListApiKeys(identity.ListApiKeysRequest(), metadata=await face.admin())
    assert len(keys.api_keys) == 1
    changed = "_".join([*face.gateway.admin_key.split("_")[:2], new_key_text().split("_")[2]])
    for text in (changed, "no key"):
        (tmp_path / "admin.key").write_text(text)
        with pytest.raises(BootstrapKeyDiffers):
            async with gateway(settings, clock=SystemClock(), ids=SystemIds()):
                pass
