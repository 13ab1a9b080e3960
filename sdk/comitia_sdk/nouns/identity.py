"""Who may call."""

from collections.abc import AsyncGenerator, Sequence
from typing import cast
from uuid import uuid4

from comitia.gateway.v1 import (
    identity_pb2,
    identity_service_pb2,
    identity_service_pb2_grpc,
    tenant_pb2,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of


class AsyncIdentity:
    """API keys and tenants."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(connection.channel)
        self._tenants = tenant_service_pb2_grpc.TenantServiceStub(connection.channel)

    async def whoami(self) -> identity_service_pb2.WhoAmIResponse:
        """Says who the caller is."""
        return await self._connection.call(self._identity.WhoAmI, identity_service_pb2.WhoAmIRequest())

    async def token(self) -> str:
        """Gives an access token for other clients, such as grpcurl."""
        return await self._connection.access_token()

    async def create_key(
        self, display_name: str, *, roles: Sequence[str] = ("tenant_user",), project: str = ""
    ) -> identity_service_pb2.CreateApiKeyResponse:
        """Makes an API key; its secret is in this answer and nowhere else. Raises: PermissionDenied."""
        numbers = [number_of(identity_pb2.Role, role, field="roles") for role in roles]
        request = identity_service_pb2.CreateApiKeyRequest(
            display_name=display_name,
            roles=[cast(identity_pb2.Role.ValueType, number) for number in numbers],
            project=project,
            request_id=str(uuid4()),
        )
        return await self._connection.call(self._identity.CreateApiKey, request)

    async def list_keys(self, *, page_size: int = 0) -> AsyncGenerator[identity_pb2.ApiKey]:
        """Gives the tenant's API keys, newest first."""
        request = identity_service_pb2.ListApiKeysRequest(page_size=page_size)
        async for page in self._connection.pages(self._identity.ListApiKeys, request):
            for key in page.api_keys:
                yield key

    async def revoke_key(self, api_key_id: str) -> identity_pb2.ApiKey:
        """Revokes an API key. Raises: NotFound."""
        request = identity_service_pb2.RevokeApiKeyRequest(api_key_id=api_key_id)
        return (await self._connection.call(self._identity.RevokeApiKey, request)).api_key

    async def create_tenant(self, name: str) -> tenant_service_pb2.CreateTenantResponse:
        """Makes a tenant and its first admin key, which is shown once. Raises: AlreadyExists, PermissionDenied."""
        request = tenant_service_pb2.CreateTenantRequest(name=name, request_id=str(uuid4()))
        return await self._connection.call(self._tenants.CreateTenant, request)

    async def list_tenants(self, *, page_size: int = 0) -> AsyncGenerator[tenant_pb2.Tenant]:
        """Gives the tenants of the installation, by name."""
        request = tenant_service_pb2.ListTenantsRequest(page_size=page_size)
        async for page in self._connection.pages(self._tenants.ListTenants, request):
            for tenant in page.tenants:
                yield tenant
