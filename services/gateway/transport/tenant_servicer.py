"""gRPC face of tenants."""

from typing import Any, Final

from comitia.gateway.v1 import tenant_service_pb2 as pb
from comitia.gateway.v1.tenant_service_pb2_grpc import TenantServiceServicer
from services.gateway.transport import convert
from services.gateway.usecases.create_tenant import CreateTenant
from services.gateway.usecases.ports import TenantReader
from services.meshkit.core.paging import clamp_page_size, decode_page_token, encode_page_token
from services.meshkit.grpc.call import caller_of

_CREATE: Final = "comitia.gateway.v1.TenantService/CreateTenant"


class TenantServicer(TenantServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(self, *, create_tenant: CreateTenant, tenants: TenantReader) -> None:
        self._create_tenant = create_tenant
        self._tenants = tenants

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.CreateTenantResponse:
        """See `tenant_service.proto`, as the other method."""
        made = await self._create_tenant(
            caller_of(context),
            name=request.name,
            residency_region=request.residency_region,
            request=convert.to_repeatable(request, request.request_id, method=_CREATE),
        )
        key = "" if made.admin_key is None else made.admin_key.text
        return pb.CreateTenantResponse(tenant=convert.tenant_to_proto(made.tenant), admin_api_key=key)

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        size = clamp_page_size(request.page_size)
        place = decode_page_token(request.page_token, str)
        found = await self._tenants.tenants(after=None if place is None else str(place[0]), most=size + 1)
        more = len(found) > size
        return pb.ListTenantsResponse(
            tenants=[convert.tenant_to_proto(tenant) for tenant in found[:size]],
            next_page_token=encode_page_token(found[size - 1].name) if more else "",
        )
