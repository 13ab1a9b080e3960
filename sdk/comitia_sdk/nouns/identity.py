"""Who may call."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from typing import cast
from uuid import uuid4

from comitia.gateway.v1 import (
    identity_pb2,
    identity_service_pb2,
    identity_service_pb2_grpc,
)
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of


class AsyncIdentity:
    """API keys, service accounts and signing keys."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(connection.channel)

    async def whoami(self) -> identity_service_pb2.WhoAmIResponse:
        """Says who the caller is."""
        return await self._connection.call(self._identity.WhoAmI, identity_service_pb2.WhoAmIRequest())

    async def token(self) -> str:
        """Gives an access token for other clients, such as grpcurl."""
        return await self._connection.access_token()

    async def create_key(
        self,
        display_name: str,
        *,
        roles: Sequence[str] = ("tenant_user",),
        project: str = "",
        scopes: Sequence[str] = (),
        expire_time: datetime | None = None,
        service_account_id: str = "",
    ) -> identity_service_pb2.CreateApiKeyResponse:
        """Makes an API key; its secret is in this answer and nowhere else.

        Args:
            scopes: permissions it is narrowed to, such as `sessions.read`; empty for all that its roles grant.
            expire_time: aware; None for never.
            service_account_id: account it speaks for, whose roles and project it has; then `roles` is empty.
        Raises: PermissionDenied, InvalidRequest.
        """
        request = identity_service_pb2.CreateApiKeyRequest(
            display_name=display_name,
            roles=_numbers(roles),
            project=project,
            scopes=scopes,
            service_account_id=service_account_id,
            request_id=str(uuid4()),
        )
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time)
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

    async def rotate_key(
        self, api_key_id: str, *, overlap: timedelta = timedelta()
    ) -> identity_service_pb2.RotateApiKeyResponse:
        """Gives an API key a new secret; the old one works for `overlap` more, at most 7 days.

        Without an overlap all tokens that were given for the old secret end with it.

        Raises: NotFound, PermissionDenied, Precondition: the key has ended.
        """
        request = identity_service_pb2.RotateApiKeyRequest(
            api_key_id=api_key_id, overlap_seconds=int(overlap.total_seconds()), request_id=str(uuid4())
        )
        return await self._connection.call(self._identity.RotateApiKey, request)

    async def create_service_account(
        self, display_name: str, *, roles: Sequence[str] = ("tenant_user",), project: str = ""
    ) -> identity_pb2.ServiceAccount:
        """Makes a service account; `create_key` makes keys for it. Raises: PermissionDenied, InvalidRequest."""
        request = identity_service_pb2.CreateServiceAccountRequest(
            display_name=display_name, roles=_numbers(roles), project=project, request_id=str(uuid4())
        )
        return (await self._connection.call(self._identity.CreateServiceAccount, request)).service_account

    async def list_service_accounts(self, *, page_size: int = 0) -> AsyncGenerator[identity_pb2.ServiceAccount]:
        """Gives the tenant's service accounts, newest first."""
        request = identity_service_pb2.ListServiceAccountsRequest(page_size=page_size)
        async for page in self._connection.pages(self._identity.ListServiceAccounts, request):
            for account in page.service_accounts:
                yield account

    async def disable_service_account(self, service_account_id: str) -> identity_pb2.ServiceAccount:
        """Disables a service account and revokes all its keys. Raises: NotFound."""
        request = identity_service_pb2.DisableServiceAccountRequest(service_account_id=service_account_id)
        return (await self._connection.call(self._identity.DisableServiceAccount, request)).service_account

    async def rotate_signing_key(self) -> identity_service_pb2.RotateSigningKeyResponse:
        """Makes a new key that signs access tokens, for operators. Raises: Conflict: a new one does not sign yet."""
        request = identity_service_pb2.RotateSigningKeyRequest(request_id=str(uuid4()))
        return await self._connection.call(self._identity.RotateSigningKey, request)

    async def key_set(self) -> Sequence[identity_service_pb2.GetKeySetResponse.Key]:
        """Gives the public keys that verify access tokens now."""
        answer = await self._connection.call_open(self._identity.GetKeySet, identity_service_pb2.GetKeySetRequest())
        return answer.keys


def _numbers(roles: Sequence[str]) -> list[identity_pb2.Role.ValueType]:
    numbers = [number_of(identity_pb2.Role, role, field="roles") for role in roles]
    return [cast(identity_pb2.Role.ValueType, number) for number in numbers]
