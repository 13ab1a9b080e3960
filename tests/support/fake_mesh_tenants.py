"""Tenants in the fake mesh."""

from dataclasses import dataclass, field
from typing import Any

from comitia.common.v1 import tenant_data_pb2
from comitia.gateway.v1 import tenant_pb2
from comitia.gateway.v1 import tenant_service_pb2 as pb
from services.meshkit.core.errors import AlreadyExists, ErrorKind, Invalid, NotFound
from tests.support.fake_mesh_rooms import NOON, Refused, one_page

_ENDED = (tenant_pb2.TENANT_STATE_DELETING, tenant_pb2.TENANT_STATE_DELETED)
_PLAN = tenant_data_pb2.ErasureStep(
    service="memory", store="memory", action=tenant_data_pb2.ERASURE_ACTION_DELETE, count=3
)


@dataclass(slots=True)
class Tenants:
    """Tenants of the installation, beside the caller's own."""

    listed: list[tenant_pb2.Tenant] = field(default_factory=list[tenant_pb2.Tenant])
    own: tenant_pb2.Tenant = field(
        default_factory=lambda: tenant_pb2.Tenant(
            tenant_id="tenant_1",
            name="acme",
            state=tenant_pb2.TENANT_STATE_ACTIVE,
            quotas=tenant_pb2.TenantQuotas(rate_factor=1),
            create_time=NOON,
            etag="1",
        )
    )

    def _tenant(self, tenant_id: str) -> tenant_pb2.Tenant:
        for tenant in (self.own, *self.listed):
            if tenant.tenant_id == tenant_id:
                return tenant
        raise NotFound("tenant", tenant_id)

    def CreateTenant(self, request: Any, _context: Any) -> pb.CreateTenantResponse:
        if any(tenant.name == request.name for tenant in self.listed):
            raise AlreadyExists("tenant", request.name)
        tenant = tenant_pb2.Tenant(
            tenant_id=f"tenant_{len(self.listed) + 2}",
            name=request.name,
            residency_region=request.residency_region,
            state=tenant_pb2.TENANT_STATE_ACTIVE,
            quotas=tenant_pb2.TenantQuotas(rate_factor=1),
            create_time=NOON,
            etag="1",
        )
        self.listed.append(tenant)
        return pb.CreateTenantResponse(tenant=tenant, admin_api_key=f"ck_{request.name}_made")

    def ListTenants(self, request: Any, _context: Any) -> pb.ListTenantsResponse:
        page, token = one_page(self.listed, request)
        return pb.ListTenantsResponse(tenants=page, next_page_token=token)

    def GetTenant(self, request: Any, _context: Any) -> pb.GetTenantResponse:
        return pb.GetTenantResponse(tenant=self._tenant(request.tenant_id))

    def GetOwnTenant(self, _request: Any, _context: Any) -> pb.GetOwnTenantResponse:
        return pb.GetOwnTenantResponse(tenant=self.own)

    def UpdateTenant(self, request: Any, _context: Any) -> pb.UpdateTenantResponse:
        tenant = self._tenant(request.tenant.tenant_id)
        _check_etag(tenant, request.tenant.etag)
        request.update_mask.MergeMessage(request.tenant, tenant, True, True)
        tenant.etag = str(int(tenant.etag) + 1)
        return pb.UpdateTenantResponse(tenant=tenant)

    def SetSecurityPolicy(self, request: Any, _context: Any) -> pb.SetSecurityPolicyResponse:
        _check_etag(self.own, request.etag)
        self.own.security_policy.CopyFrom(request.security_policy)
        return pb.SetSecurityPolicyResponse(tenant=self.own)

    def SuspendTenant(self, request: Any, _context: Any) -> pb.SuspendTenantResponse:
        return pb.SuspendTenantResponse(tenant=self._moved(request.tenant_id, tenant_pb2.TENANT_STATE_SUSPENDED))

    def ResumeTenant(self, request: Any, _context: Any) -> pb.ResumeTenantResponse:
        return pb.ResumeTenantResponse(tenant=self._moved(request.tenant_id, tenant_pb2.TENANT_STATE_ACTIVE))

    def DeleteTenant(self, request: Any, _context: Any) -> pb.DeleteTenantResponse:
        tenant = self._tenant(request.tenant_id)
        if request.plan_only:
            return pb.DeleteTenantResponse(plan=[_PLAN], tenant=tenant)
        if request.confirm_name != tenant.name:
            raise Invalid("confirm_name", "must be the name of the tenant, typed again")
        tenant.state = tenant_pb2.TENANT_STATE_DELETING
        return pb.DeleteTenantResponse(plan=[_PLAN], tenant=tenant)

    def GetErasure(self, request: Any, _context: Any) -> pb.GetErasureResponse:
        tenant = self._tenant(request.tenant_id)
        if tenant.state not in _ENDED:
            raise NotFound("erasure of tenant", request.tenant_id)
        tenant.state = tenant_pb2.TENANT_STATE_DELETED
        return pb.GetErasureResponse(done_services=["memory"], steps=[_PLAN], start_time=NOON, end_time=NOON)

    def _moved(self, tenant_id: str, state: tenant_pb2.TenantState.ValueType) -> tenant_pb2.Tenant:
        tenant = self._tenant(tenant_id)
        if tenant.state in _ENDED:
            raise Refused(ErrorKind.PRECONDITION, "TENANT_ENDED", f"tenant {tenant.name!r} is deleted")
        tenant.state = state
        return tenant


def _check_etag(tenant: tenant_pb2.Tenant, etag: str) -> None:
    if etag not in ("", tenant.etag):
        raise Refused(ErrorKind.CONFLICT, "ETAG_STALE", "the tenant was changed meanwhile; read it again")
