"""A gateway that may reach this machine, a real provider, and people who sign in by it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from comitia.gateway.v1 import identity_pb2, identity_service_pb2
from comitia.gateway.v1 import user_service_pb2 as pb
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.gateway.v1.user_service_pb2_grpc import UserServiceStub
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.errors import remote_error
from tests.integration.conftest import MakeDatabase
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.oidc_provider import CLIENT_ID, OidcProvider, running_oidc_provider

if TYPE_CHECKING:
    from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub
    from comitia.gateway.v1.user_service_pb2_grpc import UserServiceAsyncStub

Metadata = tuple[tuple[str, str], ...]
TENANT = "local"


@dataclass(frozen=True, slots=True)
class People:
    """A gateway and stubs; the channel proves the service `orchestrator`."""

    gateway: RunningGateway
    users: "UserServiceAsyncStub"
    identity: "IdentityServiceAsyncStub"

    async def admin(self) -> Metadata:
        """Logs in with the bootstrap key."""
        request = identity_service_pb2.ExchangeApiKeyRequest(api_key=self.gateway.admin_key)
        return bearer((await self.identity.ExchangeApiKey(request)).access_token)

    async def key(self, *, roles: tuple[str, ...] = ("ROLE_ADMIN",), **fields: object) -> tuple[str, Metadata]:
        """Makes a key; gives its id and the metadata of calls with it."""
        request = identity_service_pb2.CreateApiKeyRequest(display_name="k", roles=roles, **fields)  # type: ignore[arg-type]
        made = await self.identity.CreateApiKey(request, metadata=await self.admin())
        token = await self.identity.ExchangeApiKey(identity_service_pb2.ExchangeApiKeyRequest(api_key=made.secret))
        return made.api_key.api_key_id, bearer(token.access_token)

    async def trust(self, issuer: str, **fields: object) -> identity_pb2.OidcIssuer:
        """Adds an issuer."""
        request = pb.CreateOidcIssuerRequest(issuer=issuer, client_id=CLIENT_ID, **fields)  # type: ignore[arg-type]
        return (await self.users.CreateOidcIssuer(request, metadata=await self.admin())).oidc_issuer

    async def invite(self, email: str, *roles: str) -> identity_pb2.User:
        """Invites somebody."""
        wanted: Any = roles or ("ROLE_TENANT_USER",)  # the constructor takes names too
        request = pb.InviteUserRequest(email=email, roles=wanted)
        return (await self.users.InviteUser(request, metadata=await self.admin())).user

    async def login(self, id_token: str, tenant: str = TENANT) -> Metadata:
        """Exchanges an ID token; gives the metadata of calls."""
        request = pb.ExchangeOidcTokenRequest(tenant=tenant, id_token=id_token)
        return bearer((await self.users.ExchangeOidcToken(request)).access_token)

    async def me(self, who: Metadata) -> identity_service_pb2.WhoAmIResponse:
        """Says who somebody is."""
        return await self.identity.WhoAmI(identity_service_pb2.WhoAmIRequest(), metadata=who)


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


async def id_token(provider: OidcProvider, email: str) -> str:
    """Lets a person sign in at the provider."""
    return (await asyncio.to_thread(provider.sign_in, email)).id_token


def reason_of(error: grpc.aio.AioRpcError) -> str:
    return remote_error(error).reason


class Shifted(SystemClock):
    """The clock of this machine, some seconds ahead."""

    ahead = 0.0

    def now(self) -> datetime:
        """See `Clock.now`."""
        return super().now() + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return super().monotonic() + self.ahead


@pytest.fixture
def clock() -> Shifted:
    return Shifted()


@pytest.fixture
async def people(make_migrated: MakeDatabase, tmp_path: Path, clock: Shifted) -> AsyncIterator[People]:
    async with (
        running_gateway(make_migrated, tmp_path, clock=clock, oidc_reach_local="everybody") as gateway,
        channel(gateway.target, identity=gateway.keys.workload("orchestrator")) as opened,
    ):
        yield People(gateway, UserServiceStub(opened), IdentityServiceStub(opened))


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[OidcProvider]:
    with running_oidc_provider(tmp_path) as running:
        yield running
