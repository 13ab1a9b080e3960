"""What a tenant's record says of itself is not for callers to write."""

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from comitia.gateway.v1 import tenant_pb2
from comitia.gateway.v1 import tenant_service_pb2 as pb
from services.meshkit.grpc.errors import remote_error
from tests.integration.gateway.conftest import Face


@pytest.mark.parametrize("path", ["state", "create_time"])
async def test_a_tenants_state_and_age_are_not_to_be_written(face: Face, path: str) -> None:
    operator = await face.admin()
    made = (await face.tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=operator)).tenant
    claimed = tenant_pb2.Tenant(tenant_id=made.tenant_id, state=tenant_pb2.TENANT_STATE_DELETED)
    claimed.create_time.FromSeconds(0)
    request = pb.UpdateTenantRequest(tenant=claimed, update_mask=FieldMask(paths=[path]))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await face.tenants.UpdateTenant(request, metadata=operator)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "update_mask" in (remote_error(raised.value).field or "")
    found = await face.tenants.GetTenant(pb.GetTenantRequest(tenant_id=made.tenant_id), metadata=operator)
    assert (found.tenant.state, found.tenant.create_time) == (made.state, made.create_time)
