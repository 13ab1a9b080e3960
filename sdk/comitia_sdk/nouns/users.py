"""People: who may sign in, and by whose word."""

from collections.abc import AsyncGenerator, Sequence
from typing import cast
from uuid import uuid4

from comitia.gateway.v1 import identity_pb2, user_service_pb2, user_service_pb2_grpc
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of


class AsyncUsers:
    """Users of your tenant, and the OpenID Connect issuers that vouch for them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._users = user_service_pb2_grpc.UserServiceStub(connection.channel)

    async def login_options(self, tenant: str) -> list[user_service_pb2.GetLoginOptionsResponse.Option]:
        """Says how to sign in to a tenant; empty when there is no way, or no such tenant. Needs no key."""
        request = user_service_pb2.GetLoginOptionsRequest(tenant=tenant)
        return list((await self._connection.call_open(self._users.GetLoginOptions, request)).options)

    async def exchange(self, tenant: str, id_token: str) -> user_service_pb2.ExchangeOidcTokenResponse:
        """Exchanges an ID token for an access token. Needs no key. Raises: Unauthenticated, MeshUnavailable."""
        request = user_service_pb2.ExchangeOidcTokenRequest(tenant=tenant, id_token=id_token)
        return await self._connection.call_open(self._users.ExchangeOidcToken, request)

    async def invite(self, email: str, *, roles: Sequence[str] = ("tenant_user",)) -> identity_pb2.User:
        """Permits a person to sign in. Raises: AlreadyExists, PermissionDenied."""
        request = user_service_pb2.InviteUserRequest(email=email, roles=_numbers(roles), request_id=str(uuid4()))
        return (await self._connection.call(self._users.InviteUser, request)).user

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[identity_pb2.User]:
        """Gives the tenant's users, newest first, removed ones included."""
        request = user_service_pb2.ListUsersRequest(page_size=page_size)
        async for page in self._connection.pages(self._users.ListUsers, request):
            for user in page.users:
                yield user

    async def set_roles(self, user_id: str, roles: Sequence[str]) -> identity_pb2.User:
        """Gives a user other roles. Raises: NotFound, PermissionDenied, FailedPrecondition: the last administrator."""
        request = user_service_pb2.SetUserRolesRequest(user_id=user_id, roles=_numbers(roles), request_id=str(uuid4()))
        return (await self._connection.call(self._users.SetUserRoles, request)).user

    async def remove(self, user_id: str) -> identity_pb2.User:
        """Removes a user. Raises: NotFound, FailedPrecondition: the last administrator."""
        request = user_service_pb2.RemoveUserRequest(user_id=user_id, request_id=str(uuid4()))
        return (await self._connection.call(self._users.RemoveUser, request)).user

    async def add_issuer(
        self, issuer: str, client_id: str, *, trusted_domains: Sequence[str] = (), default_roles: Sequence[str] = ()
    ) -> identity_pb2.OidcIssuer:
        """Takes the word of an issuer. Raises: AlreadyExists, FailedPrecondition: it cannot be used."""
        request = user_service_pb2.CreateOidcIssuerRequest(
            issuer=issuer,
            client_id=client_id,
            trusted_domains=trusted_domains,
            default_roles=_numbers(default_roles, field="default_roles"),
            request_id=str(uuid4()),
        )
        return (await self._connection.call(self._users.CreateOidcIssuer, request)).oidc_issuer

    async def list_issuers(self, *, page_size: int = 0) -> AsyncGenerator[identity_pb2.OidcIssuer]:
        """Gives the tenant's issuers, newest first."""
        request = user_service_pb2.ListOidcIssuersRequest(page_size=page_size)
        async for page in self._connection.pages(self._users.ListOidcIssuers, request):
            for issuer in page.oidc_issuers:
                yield issuer

    async def remove_issuer(self, oidc_issuer_id: str) -> None:
        """Takes an issuer's word no longer. Raises: NotFound."""
        request = user_service_pb2.DeleteOidcIssuerRequest(oidc_issuer_id=oidc_issuer_id, request_id=str(uuid4()))
        await self._connection.call(self._users.DeleteOidcIssuer, request)


def _numbers(roles: Sequence[str], *, field: str = "roles") -> "list[identity_pb2.Role.ValueType]":
    return [cast(identity_pb2.Role.ValueType, number_of(identity_pb2.Role, role, field=field)) for role in roles]
