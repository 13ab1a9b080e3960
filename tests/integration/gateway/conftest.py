"""A gateway per test, and stubs that speak to it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from comitia.gateway.v1 import identity_service_pb2 as identity
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.gateway.v1.status_service_pb2_grpc import StatusServiceStub
from comitia.gateway.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.meshkit.grpc.channel import channel
from tests.integration.conftest import MakeDatabase
from tests.support.gateway import RunningGateway, running_gateway

if TYPE_CHECKING:
    from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub
    from comitia.gateway.v1.status_service_pb2_grpc import StatusServiceAsyncStub
    from comitia.gateway.v1.tenant_service_pb2_grpc import TenantServiceAsyncStub

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Face:
    """A gateway and stubs over one channel; the channel proves the service `orchestrator`."""

    gateway: RunningGateway
    channel: grpc.aio.Channel
    identity: "IdentityServiceAsyncStub"
    tenants: "TenantServiceAsyncStub"
    status: "StatusServiceAsyncStub"

    @classmethod
    def of(cls, gateway: RunningGateway, opened: grpc.aio.Channel) -> "Face":
        """Makes the stubs."""
        return cls(gateway, opened, IdentityServiceStub(opened), TenantServiceStub(opened), StatusServiceStub(opened))

    async def login(self, key: str) -> Metadata:
        """Exchanges a key; gives the metadata of calls."""
        answer = await self.identity.ExchangeApiKey(identity.ExchangeApiKeyRequest(api_key=key))
        return (("authorization", f"Bearer {answer.access_token}"),)

    async def admin(self) -> Metadata:
        """Logs in with the bootstrap key."""
        return await self.login(self.gateway.admin_key)


@pytest.fixture
async def face(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[Face]:
    async with (
        running_gateway(make_migrated, tmp_path) as gateway,
        channel(gateway.target, identity=gateway.keys.workload("orchestrator")) as opened,
    ):
        await opened.channel_ready()
        yield Face.of(gateway, opened)
