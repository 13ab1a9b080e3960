"""gRPC face of tenants."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from comitia.gateway.v1 import tenant_service_pb2 as pb
from comitia.gateway.v1.tenant_service_pb2_grpc import TenantServiceServicer, add_TenantServiceServicer_to_server
from services.gateway.domain.erasure import Erasure
from services.gateway.transport import tenant_convert as convert
from services.gateway.usecases.create_tenant import CreateTenant
from services.gateway.usecases.delete_tenant import DeleteTenant, DeleteWish, Deletion
from services.gateway.usecases.ports import TenantReader
from services.gateway.usecases.set_security_policy import SetSecurityPolicy
from services.gateway.usecases.suspend_tenant import ResumeTenant, SuspendTenant
from services.gateway.usecases.tenant_ports import ErasureReader, TenantLookup
from services.gateway.usecases.update_tenant import UpdateTenant
from services.meshkit.core.errors import Invalid
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.once import once
from services.meshkit.grpc.server import Registration
from services.meshkit.tenant_data.convert import steps_to_proto


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantVerbs:
    """What can be done about tenants."""

    create: CreateTenant
    update: UpdateTenant
    set_security_policy: SetSecurityPolicy
    suspend: SuspendTenant
    resume: ResumeTenant
    delete: DeleteTenant


def _deletion_to_proto(deletion: Deletion) -> pb.DeleteTenantResponse:
    response = pb.DeleteTenantResponse(
        plan=steps_to_proto(deletion.plan), tenant=convert.tenant_to_proto(deletion.tenant)
    )
    # The answer is kept for repeats, and nothing that the tenant wrote shall outlive it.
    response.tenant.ClearField("security_policy")
    return response


class TenantServicer(TenantServiceServicer):
    """Converts, calls one use case or a reader, converts back. No decisions here."""

    def __init__(
        self,
        verbs: TenantVerbs,
        *,
        directory: TenantReader,
        tenants: TenantLookup,
        erasures: ErasureReader,
        addresses: ClientAddresses,
    ) -> None:
        self._verbs = verbs
        self._directory = directory
        self._tenants = tenants
        self._erasures = erasures
        self._addresses = addresses

    @property
    def registration(self) -> Registration:
        """Adds it to a server."""
        return partial(add_TenantServiceServicer_to_server, self)

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.CreateTenantResponse:
        """See `tenant_service.proto`, as the other methods."""
        caller = caller_of(context)
        return await once(
            request,
            lambda: self._verbs.create(caller, name=request.name, residency_region=request.residency_region),
            lambda made: pb.CreateTenantResponse(
                tenant=convert.tenant_to_proto(made.tenant), admin_api_key=made.admin_key.text
            ),
            keeps=lambda made: pb.CreateTenantResponse(tenant=convert.tenant_to_proto(made.tenant)),
            answers=pb.CreateTenantResponse,
        )

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        size = clamp_page_size(request.page_size)
        place = decode_page_token(request.page_token, str)
        found = await self._directory.tenants(after=None if place is None else place[0], most=size + 1)
        page, more = one_page(found, size, lambda tenant: (tenant.name,))
        return pb.ListTenantsResponse(
            tenants=[convert.tenant_to_proto(tenant) for tenant in page], next_page_token=more
        )

    async def GetTenant(self, request: pb.GetTenantRequest, context: Any) -> pb.GetTenantResponse:
        tenant = await self._tenants.get(convert.to_tenant_id(request.tenant_id))
        return pb.GetTenantResponse(tenant=convert.tenant_to_proto(tenant))

    async def GetOwnTenant(self, request: pb.GetOwnTenantRequest, context: Any) -> pb.GetOwnTenantResponse:
        tenant = await self._tenants.get(caller_of(context).principal.tenant)
        return pb.GetOwnTenantResponse(tenant=convert.tenant_to_proto(tenant))

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: Any) -> pb.UpdateTenantResponse:
        caller, change = caller_of(context), convert.to_change(request)
        return await once(
            request,
            lambda: self._verbs.update(caller, change),
            lambda tenant: pb.UpdateTenantResponse(tenant=convert.tenant_to_proto(tenant)),
            answers=pb.UpdateTenantResponse,
        )

    async def SetSecurityPolicy(
        self, request: pb.SetSecurityPolicyRequest, context: Any
    ) -> pb.SetSecurityPolicyResponse:
        if not request.HasField("security_policy"):
            raise Invalid("security_policy", "is required; an empty one takes all rules away")
        caller, policy = caller_of(context), convert.to_policy(request.security_policy)
        address = self._addresses.of(context)
        return await once(
            request,
            lambda: self._verbs.set_security_policy(caller, policy, etag=request.etag, address=address),
            lambda tenant: pb.SetSecurityPolicyResponse(tenant=convert.tenant_to_proto(tenant)),
            answers=pb.SetSecurityPolicyResponse,
        )

    async def SuspendTenant(self, request: pb.SuspendTenantRequest, context: Any) -> pb.SuspendTenantResponse:
        caller, tenant_id = caller_of(context), convert.to_tenant_id(request.tenant_id)
        return await once(
            request,
            lambda: self._verbs.suspend(caller, tenant_id, reason=request.reason),
            lambda tenant: pb.SuspendTenantResponse(tenant=convert.tenant_to_proto(tenant)),
            answers=pb.SuspendTenantResponse,
        )

    async def ResumeTenant(self, request: pb.ResumeTenantRequest, context: Any) -> pb.ResumeTenantResponse:
        caller, tenant_id = caller_of(context), convert.to_tenant_id(request.tenant_id)
        return await once(
            request,
            lambda: self._verbs.resume(caller, tenant_id),
            lambda tenant: pb.ResumeTenantResponse(tenant=convert.tenant_to_proto(tenant)),
            answers=pb.ResumeTenantResponse,
        )

    async def DeleteTenant(self, request: pb.DeleteTenantRequest, context: Any) -> pb.DeleteTenantResponse:
        caller = caller_of(context)
        wish = DeleteWish(
            tenant=convert.to_tenant_id(request.tenant_id),
            confirm_name=request.confirm_name,
            plan_only=request.plan_only,
        )
        return await once(
            request, lambda: self._verbs.delete(caller, wish), _deletion_to_proto, answers=pb.DeleteTenantResponse
        )

    async def GetErasure(self, request: pb.GetErasureRequest, context: Any) -> pb.GetErasureResponse:
        erasure: Erasure = await self._erasures.erasure(convert.to_tenant_id(request.tenant_id))
        return convert.erasure_to_proto(erasure)
