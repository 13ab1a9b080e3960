"""Changing, suspending and deleting tenants through a real gRPC server and a real Postgres."""

import asyncio
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from comitia.common.v1 import tenant_data_pb2 as data_pb
from comitia.gateway.v1 import tenant_pb2
from comitia.gateway.v1 import tenant_service_pb2 as pb
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.errors import remote_error
from tests.integration.gateway.conftest import Face, Metadata


class Room:
    """An operator and a tenant of its own making."""

    def __init__(self, face: Face, operator: Metadata, made: pb.CreateTenantResponse, admin: Metadata) -> None:
        self.face, self.operator, self.admin = face, operator, admin
        self.tenant, self.key = made.tenant, made.admin_api_key

    async def update(self, *paths: str, etag: str = "", request_id: str = "", **fields: Any) -> tenant_pb2.Tenant:
        request = pb.UpdateTenantRequest(
            tenant=tenant_pb2.Tenant(tenant_id=self.tenant.tenant_id, etag=etag, **fields),
            update_mask=FieldMask(paths=paths) if paths else None,
            request_id=request_id,
        )
        return (await self.face.tenants.UpdateTenant(request, metadata=self.operator)).tenant

    async def set_policy(self, etag: str = "", **rules: Any) -> tenant_pb2.Tenant:
        request = pb.SetSecurityPolicyRequest(security_policy=tenant_pb2.SecurityPolicy(**rules), etag=etag)
        return (await self.face.tenants.SetSecurityPolicy(request, metadata=self.admin)).tenant

    async def own(self) -> tenant_pb2.Tenant:
        return (await self.face.tenants.GetOwnTenant(pb.GetOwnTenantRequest(), metadata=self.admin)).tenant

    async def get(self) -> tenant_pb2.Tenant:
        request = pb.GetTenantRequest(tenant_id=self.tenant.tenant_id)
        return (await self.face.tenants.GetTenant(request, metadata=self.operator)).tenant

    async def until_refused(self) -> str:
        """Waits until the gateway's own feed has the state of the tenant; gives the reason."""
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.own()
                except grpc.aio.AioRpcError as error:
                    return remote_error(error).reason
                await asyncio.sleep(0.05)


@pytest.fixture
async def room(face: Face) -> Room:
    operator = await face.admin()
    made = await face.tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=operator)
    return Room(face, operator, made, await face.login(made.admin_api_key))


async def refusal(call: Any) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return remote_error(raised.value)


async def test_quotas_change_alone_or_together_and_a_mask_says_which(room: Room) -> None:
    quotas = tenant_pb2.TenantQuotas(max_agents=5, max_concurrent_runs=3, rate_factor=2)
    whole = await room.update("quotas", quotas=quotas)
    assert whole.quotas == quotas
    one = await room.update("quotas.max_agents", quotas=tenant_pb2.TenantQuotas(max_agents=7, max_workflows=9))
    assert (one.quotas.max_agents, one.quotas.max_workflows, one.quotas.max_concurrent_runs) == (7, 0, 3)
    unmasked = await room.update(residency_region="eu", quotas=tenant_pb2.TenantQuotas(max_storage_bytes=10))
    assert (unmasked.residency_region, unmasked.quotas.max_storage_bytes, unmasked.quotas.max_agents) == ("eu", 10, 7)
    cleared = await room.update("quotas.max_agents", "residency_region", "quotas.rate_factor")
    assert (cleared.quotas.max_agents, cleared.residency_region, cleared.quotas.rate_factor) == (0, "", 1)
    assert await room.own() == cleared == await room.get()


@pytest.mark.parametrize(
    "path", ["state", "name", "tenant_id", "create_time", "security_policy", "quotas.nothing", "*", "", "etag"]
)
async def test_no_mask_reaches_what_only_the_gateway_writes(room: Room, path: str) -> None:
    wrong = await refusal(room.update(path, state=tenant_pb2.TENANT_STATE_ACTIVE))
    assert (wrong.reason, wrong.field) == ("INVALID_FIELD", "update_mask")


async def test_fields_that_only_we_write_are_left_alone_when_a_tenant_is_sent_back_whole(room: Room) -> None:
    before = await room.get()
    forged = tenant_pb2.Tenant()
    forged.CopyFrom(before)
    forged.state, forged.name = tenant_pb2.TENANT_STATE_SUSPENDED, "other"
    forged.security_policy.tools_forbidden = True
    forged.quotas.max_agents = 4
    answer = await room.face.tenants.UpdateTenant(pb.UpdateTenantRequest(tenant=forged), metadata=room.operator)
    after = answer.tenant
    assert (after.state, after.name, after.security_policy) == (before.state, before.name, before.security_policy)
    assert after.quotas.max_agents == 4


@pytest.mark.parametrize(
    ("quotas", "field"),
    [
        ({"max_agents": -1}, "tenant.quotas.max_agents"),
        ({"rate_factor": -0.5}, "tenant.quotas.rate_factor"),
        ({"rate_factor": float("nan")}, "tenant.quotas.rate_factor"),
        ({"rate_factor": 1e9}, "tenant.quotas.rate_factor"),
    ],
)
async def test_a_wrong_quota_is_named(room: Room, quotas: dict[str, Any], field: str) -> None:
    wrong = await refusal(room.update("quotas", quotas=tenant_pb2.TenantQuotas(**quotas)))
    assert (wrong.reason, wrong.field) == ("INVALID_FIELD", field)


async def test_a_stale_etag_is_told_and_changes_nothing(room: Room) -> None:
    before = await room.own()
    await room.update("quotas.max_agents", etag=before.etag, quotas=tenant_pb2.TenantQuotas(max_agents=1))
    stale = await refusal(room.update("residency_region", etag=before.etag, residency_region="eu"))
    assert stale.reason == "ETAG_STALE"
    assert (await refusal(room.set_policy(etag=before.etag))).reason == "ETAG_STALE"
    assert (await room.own()).residency_region == ""


async def test_a_repeat_changes_nothing_more(room: Room) -> None:
    request_id = str(uuid4())
    first = await room.update("residency_region", residency_region="eu", request_id=request_id)
    again = await room.update("residency_region", residency_region="eu", request_id=request_id)
    assert again == first
    other = await refusal(room.update("residency_region", residency_region="us", request_id=request_id))
    assert other.reason == "REQUEST_ID_REUSED"


async def test_a_tenant_sets_its_own_rules_in_one_spelling(room: Room) -> None:
    tenant = await room.set_policy(
        allowed_tools=["calculator", "calculator"],
        allowed_hosts=["API.Example.com.", "*.example.org"],
        allowed_networks=["127.0.0.0/8", "2001:DB8::/32"],
        audit_level=tenant_pb2.AUDIT_LEVEL_REFUSALS,
        archive_after_days=30,
        delete_runs_after_days=30,
    )
    policy = tenant.security_policy
    assert list(policy.allowed_tools) == ["calculator"]
    assert list(policy.allowed_hosts) == ["*.example.org", "api.example.com"]
    assert list(policy.allowed_networks) == ["127.0.0.0/8", "2001:db8::/32"]
    assert (policy.archive_after_days, policy.delete_runs_after_days) == (30, 30)
    assert (await room.own()).security_policy == policy
    assert (await room.set_policy()).security_policy == tenant_pb2.SecurityPolicy(
        audit_level=tenant_pb2.AUDIT_LEVEL_MUTATIONS
    )


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"allowed_tools": ["no tool"]}, "security_policy.allowed_tools"),
        ({"allowed_tools": ["a\x00b"]}, "security_policy.allowed_tools"),
        ({"allowed_hosts": ["https://example.com"]}, "security_policy.allowed_hosts[0]"),
        ({"allowed_hosts": ["*"]}, "security_policy.allowed_hosts"),
        ({"allowed_networks": ["10.0.0.1/8"]}, "security_policy.allowed_networks[0]"),
        ({"allowed_networks": ["everywhere"]}, "security_policy.allowed_networks[0]"),
        ({"audit_level": 99}, "security_policy.audit_level"),
        ({"archive_after_days": -1}, "security_policy.archive_after_days"),
        ({"archive_after_days": 36_501}, "security_policy.archive_after_days"),
        ({"delete_runs_after_days": -1}, "security_policy.delete_runs_after_days"),
        ({"delete_runs_after_days": 36_501}, "security_policy.delete_runs_after_days"),
        ({"archive_after_days": 30, "delete_runs_after_days": 29}, "security_policy.delete_runs_after_days"),
    ],
)
async def test_a_wrong_rule_is_named(room: Room, rules: dict[str, Any], field: str) -> None:
    wrong = await refusal(room.set_policy(**rules))
    assert (wrong.reason, wrong.field) == ("INVALID_FIELD", field)


async def test_nobody_locks_itself_out(room: Room) -> None:
    locked = await refusal(room.set_policy(allowed_networks=["203.0.113.0/24"]))
    assert (locked.reason, locked.metadata["address"]) == ("LOCKED_OUT", "127.0.0.1")
    assert not (await room.own()).security_policy.allowed_networks


async def test_a_tenant_may_be_used_from_its_networks_only(room: Room) -> None:
    """The gateway believes the edge, which runs on this machine, about where a caller is."""
    await room.set_policy(allowed_networks=["127.0.0.1/32", "203.0.113.0/24"])
    # A channel without the assertion of a service: as one from outside.
    async with grpc.aio.insecure_channel(room.face.gateway.target) as outside:
        ask = outside.unary_unary(
            "/comitia.gateway.v1.TenantService/GetOwnTenant",
            request_serializer=pb.GetOwnTenantRequest.SerializeToString,
            response_deserializer=pb.GetOwnTenantResponse.FromString,
        )

        async def called_from(address: str) -> str:
            try:
                await ask(pb.GetOwnTenantRequest(), metadata=(*room.admin, ("x-forwarded-for", address)))
            except grpc.aio.AioRpcError as error:
                return remote_error(error).reason
            return "let in"

        async with asyncio.timeout(10):
            while await called_from("198.51.100.7") == "let in":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await called_from("198.51.100.7") == "NETWORK_NOT_ALLOWED"
        assert await called_from("203.0.113.9, 198.51.100.7") == "NETWORK_NOT_ALLOWED"
        assert await called_from("198.51.100.7, 203.0.113.9") == "let in"
    # What another service does on behalf of the tenant was checked when the caller came in.
    forwarded = (*room.admin, ("x-forwarded-for", "198.51.100.7"))
    await room.face.tenants.GetOwnTenant(pb.GetOwnTenantRequest(), metadata=forwarded)


async def test_a_suspended_tenant_is_refused_and_works_again_when_resumed(room: Room) -> None:
    tenants, request = room.face.tenants, pb.SuspendTenantRequest(tenant_id=room.tenant.tenant_id, reason="unpaid")
    for _ in range(2):
        answer = await tenants.SuspendTenant(request, metadata=room.operator)
        assert answer.tenant.state == tenant_pb2.TENANT_STATE_SUSPENDED
    assert await room.until_refused() == "TENANT_SUSPENDED"
    resume = pb.ResumeTenantRequest(tenant_id=room.tenant.tenant_id)
    for _ in range(2):
        resumed = await tenants.ResumeTenant(resume, metadata=room.operator)
        assert resumed.tenant.state == tenant_pb2.TENANT_STATE_ACTIVE
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await room.own()).name == "acme"
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)


async def test_operators_do_not_end_their_own_tenant(room: Room) -> None:
    me = await room.face.tenants.GetOwnTenant(pb.GetOwnTenantRequest(), metadata=room.operator)
    tenants, tenant_id = room.face.tenants, me.tenant.tenant_id
    suspend = pb.SuspendTenantRequest(tenant_id=tenant_id)
    delete = pb.DeleteTenantRequest(tenant_id=tenant_id, confirm_name="local")
    assert (await refusal(tenants.SuspendTenant(suspend, metadata=room.operator))).reason == "OWN_TENANT"
    assert (await refusal(tenants.DeleteTenant(delete, metadata=room.operator))).reason == "OWN_TENANT"


async def test_who_is_no_operator_reaches_no_other_tenant(room: Room) -> None:
    tenants, other = room.face.tenants, room.tenant.tenant_id
    for call in (
        tenants.GetTenant(pb.GetTenantRequest(tenant_id=other), metadata=room.admin),
        tenants.UpdateTenant(pb.UpdateTenantRequest(tenant=tenant_pb2.Tenant(tenant_id=other)), metadata=room.admin),
        tenants.SuspendTenant(pb.SuspendTenantRequest(tenant_id=other), metadata=room.admin),
        tenants.DeleteTenant(pb.DeleteTenantRequest(tenant_id=other, plan_only=True), metadata=room.admin),
    ):
        assert (await refusal(call)).reason == "PERMISSION_MISSING"


async def test_what_is_not_there_is_not_found(room: Room) -> None:
    tenants, nobody = room.face.tenants, "tenant_01h455vb4pex5vsknk084sn02q"
    for call in (
        tenants.GetTenant(pb.GetTenantRequest(tenant_id=nobody), metadata=room.operator),
        tenants.UpdateTenant(
            pb.UpdateTenantRequest(tenant=tenant_pb2.Tenant(tenant_id=nobody, residency_region="eu")),
            metadata=room.operator,
        ),
        tenants.SuspendTenant(pb.SuspendTenantRequest(tenant_id=nobody), metadata=room.operator),
        tenants.ResumeTenant(pb.ResumeTenantRequest(tenant_id=nobody), metadata=room.operator),
        tenants.DeleteTenant(pb.DeleteTenantRequest(tenant_id=nobody, confirm_name="x"), metadata=room.operator),
        tenants.GetErasure(pb.GetErasureRequest(tenant_id=nobody), metadata=room.operator),
        tenants.GetErasure(pb.GetErasureRequest(tenant_id=room.tenant.tenant_id), metadata=room.operator),
    ):
        assert (await refusal(call)).reason == "NOT_FOUND"


async def test_a_deletion_needs_the_name_and_goes_on_while_services_are_away(room: Room) -> None:
    tenants, tenant_id = room.face.tenants, room.tenant.tenant_id
    wrong = await refusal(
        tenants.DeleteTenant(pb.DeleteTenantRequest(tenant_id=tenant_id, confirm_name="Acme"), metadata=room.operator)
    )
    assert (wrong.reason, wrong.field) == ("INVALID_FIELD", "confirm_name")
    plan = pb.DeleteTenantRequest(tenant_id=tenant_id, plan_only=True)
    silent = await refusal(tenants.DeleteTenant(plan, metadata=room.operator))
    assert silent.reason == "UNAVAILABLE"
    assert (await room.get()).state == tenant_pb2.TENANT_STATE_ACTIVE
    delete = pb.DeleteTenantRequest(tenant_id=tenant_id, confirm_name="acme")
    done = await tenants.DeleteTenant(delete, metadata=room.operator)
    assert done.tenant.state == tenant_pb2.TENANT_STATE_DELETING
    again = await tenants.DeleteTenant(delete, metadata=room.operator)
    assert again.tenant == done.tenant
    erasure = await tenants.GetErasure(pb.GetErasureRequest(tenant_id=tenant_id), metadata=room.operator)
    assert {"cost", "orchestrator"} <= set(erasure.pending_services)
    assert not erasure.HasField("end_time")
    for change in (
        room.update("residency_region", residency_region="eu"),
        tenants.SuspendTenant(pb.SuspendTenantRequest(tenant_id=tenant_id), metadata=room.operator),
        tenants.ResumeTenant(pb.ResumeTenantRequest(tenant_id=tenant_id), metadata=room.operator),
    ):
        assert (await refusal(change)).reason == "TENANT_ENDED"
    taken = await refusal(tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=room.operator))
    assert taken.reason == "ALREADY_EXISTS"


async def test_only_the_gateway_erases_and_only_what_is_marked(room: Room) -> None:
    erase = room.face.channel.unary_unary(
        "/comitia.common.v1.TenantDataService/EraseTenant",
        request_serializer=data_pb.EraseTenantRequest.SerializeToString,
        response_deserializer=data_pb.EraseTenantResponse.FromString,
    )
    request = data_pb.EraseTenantRequest(tenant_id=room.tenant.tenant_id)
    assert (await refusal(erase(request))).reason == "PEER_NOT_ALLOWED"
    # The channel adds its own assertion, so the gateway's goes over a bare one.
    workload = room.face.gateway.keys.workload("gateway")
    async with grpc.aio.insecure_channel(room.face.gateway.target) as bare:
        ask = bare.unary_unary(
            "/comitia.common.v1.TenantDataService/EraseTenant",
            request_serializer=data_pb.EraseTenantRequest.SerializeToString,
            response_deserializer=data_pb.EraseTenantResponse.FromString,
        )
        refused = await refusal(ask(request, metadata=(("comitia-workload", workload.assertion()),)))
    assert refused.reason == "TENANT_NOT_DELETING"
    assert (await room.own()).name == "acme"
