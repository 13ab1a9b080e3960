"""Tenants: their life, what they may use, and the rules that they set themselves."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, cast
from uuid import uuid4

from google.protobuf.field_mask_pb2 import FieldMask

from comitia.gateway.v1 import tenant_pb2, tenant_service_pb2_grpc
from comitia.gateway.v1 import tenant_service_pb2 as pb
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of

#: Planning asks all services, so it may take longer than other calls.
_PLAN_SECONDS: Final = 30.0


class AsyncTenants:
    """Tenants of the installation, for its operators; and what a tenant may know and change of itself."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tenants = tenant_service_pb2_grpc.TenantServiceStub(connection.channel)

    async def create(self, name: str, *, residency_region: str = "") -> pb.CreateTenantResponse:
        """Makes a tenant and its first admin key, which is shown once. Raises: AlreadyExists, PermissionDenied."""
        request = pb.CreateTenantRequest(name=name, residency_region=residency_region, request_id=str(uuid4()))
        return await self._connection.call(self._tenants.CreateTenant, request)

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[tenant_pb2.Tenant]:
        """Gives the tenants of the installation, by name."""
        request = pb.ListTenantsRequest(page_size=page_size)
        async for page in self._connection.pages(self._tenants.ListTenants, request):
            for tenant in page.tenants:
                yield tenant

    async def get(self, tenant_id: str) -> tenant_pb2.Tenant:
        """Gives a tenant. Raises: NotFound."""
        answer = await self._connection.call(self._tenants.GetTenant, pb.GetTenantRequest(tenant_id=tenant_id))
        return answer.tenant

    async def own(self) -> tenant_pb2.Tenant:
        """Gives your own tenant."""
        answer = await self._connection.call(self._tenants.GetOwnTenant, pb.GetOwnTenantRequest())
        return answer.tenant

    async def set_quotas(
        self, tenant_id: str, quotas: Mapping[str, int | float], *, etag: str = ""
    ) -> tenant_pb2.Tenant:
        """Changes what a tenant may use; what is not named stays. Services follow within 5 s.

        Args:
            quotas: by their names in the contract, such as `{"max_agents": 10}`; 0 means no limit.
            etag: of the tenant as it was read; empty for whichever it is.
        Raises: NotFound, InvalidRequest, Conflict.
        """
        # The names are open here; those that the contract does not know are refused by the message.
        values: dict[str, Any] = dict(quotas)
        tenant = tenant_pb2.Tenant(tenant_id=tenant_id, etag=etag, quotas=tenant_pb2.TenantQuotas(**values))
        return await self._update(tenant, [f"quotas.{name}" for name in quotas])

    async def set_region(self, tenant_id: str, region: str, *, etag: str = "") -> tenant_pb2.Tenant:
        """Says in which region a tenant's content must stay; empty for anywhere. Raises: NotFound, Conflict."""
        tenant = tenant_pb2.Tenant(tenant_id=tenant_id, etag=etag, residency_region=region)
        return await self._update(tenant, ["residency_region"])

    async def set_security_policy(
        self,
        *,
        allowed_tools: Sequence[str] = (),
        tools_forbidden: bool = False,
        allowed_hosts: Sequence[str] = (),
        allowed_networks: Sequence[str] = (),
        audit_level: str = "mutations",
        archive_after_days: int = 0,
        delete_runs_after_days: int = 0,
        etag: str = "",
    ) -> tenant_pb2.Tenant:
        """Replaces all rules of your own tenant. Services follow within 5 s.

        Args:
            allowed_tools: names of tools that may be called; empty for all.
            allowed_hosts: hosts that tools may reach, `*.example.com` for all below a name; empty for every public one.
            allowed_networks: client networks, such as `10.0.0.0/8`; empty for all.
            audit_level: `mutations`, or `refusals` to audit refused reads too.
            archive_after_days: days after its end at which a run's facts move to the archive, from where a run is
                exported and nothing else; 0 for what the operator says.
            delete_runs_after_days: days after its end at which a run is deleted for good; 0 for never.
        Raises: InvalidRequest; Conflict: the etag is stale; FailedPrecondition: you would lock yourself out.
        """
        level = cast(
            tenant_pb2.AuditLevel.ValueType, number_of(tenant_pb2.AuditLevel, audit_level, field="audit_level")
        )
        policy = tenant_pb2.SecurityPolicy(
            allowed_tools=allowed_tools,
            tools_forbidden=tools_forbidden,
            allowed_hosts=allowed_hosts,
            allowed_networks=allowed_networks,
            audit_level=level,
            archive_after_days=archive_after_days,
            delete_runs_after_days=delete_runs_after_days,
        )
        request = pb.SetSecurityPolicyRequest(security_policy=policy, etag=etag, request_id=str(uuid4()))
        return (await self._connection.call(self._tenants.SetSecurityPolicy, request)).tenant

    async def suspend(self, tenant_id: str, *, reason: str = "") -> tenant_pb2.Tenant:
        """Has every call of a tenant refused within 5 s. Its runs wait, and nothing is lost."""
        request = pb.SuspendTenantRequest(tenant_id=tenant_id, reason=reason, request_id=str(uuid4()))
        return (await self._connection.call(self._tenants.SuspendTenant, request)).tenant

    async def resume(self, tenant_id: str) -> tenant_pb2.Tenant:
        """Lets a suspended tenant work again; its runs go on."""
        request = pb.ResumeTenantRequest(tenant_id=tenant_id, request_id=str(uuid4()))
        return (await self._connection.call(self._tenants.ResumeTenant, request)).tenant

    async def plan_deletion(self, tenant_id: str) -> pb.DeleteTenantResponse:
        """Says what deleting a tenant would do, and changes nothing. Raises: MeshUnavailable: a service is away."""
        request = pb.DeleteTenantRequest(tenant_id=tenant_id, plan_only=True)
        return await self._connection.call(self._tenants.DeleteTenant, request, timeout=_PLAN_SECONDS)

    async def delete(self, tenant_id: str, *, confirm_name: str) -> pb.DeleteTenantResponse:
        """Erases a tenant from all services; there is no way back. Follow it with `erasure`.

        Args:
            confirm_name: name of the tenant.
        Raises: InvalidRequest: another name; FailedPrecondition: it is your own.
        """
        request = pb.DeleteTenantRequest(tenant_id=tenant_id, confirm_name=confirm_name, request_id=str(uuid4()))
        return await self._connection.call(self._tenants.DeleteTenant, request, timeout=_PLAN_SECONDS)

    async def erasure(self, tenant_id: str) -> pb.GetErasureResponse:
        """Says how far the erasure of a tenant is. Raises: NotFound: also when it is not being erased."""
        return await self._connection.call(self._tenants.GetErasure, pb.GetErasureRequest(tenant_id=tenant_id))

    async def _update(self, tenant: tenant_pb2.Tenant, paths: Sequence[str]) -> tenant_pb2.Tenant:
        request = pb.UpdateTenantRequest(tenant=tenant, update_mask=FieldMask(paths=paths), request_id=str(uuid4()))
        return (await self._connection.call(self._tenants.UpdateTenant, request)).tenant
