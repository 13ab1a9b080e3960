"""A gateway whose neighbours feed it audit entries, and a caller who reads the trail."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

from comitia.gateway.v1 import audit_service_pb2 as pb
from comitia.gateway.v1 import identity_service_pb2
from comitia.gateway.v1.audit_service_pb2_grpc import AuditServiceStub
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.sql.roles import DatabaseUrls
from tests.integration.conftest import MakeDatabase
from tests.support.fake_audit_feed import FakeAuditFeed, served
from tests.support.gateway import NEIGHBOURS, RunningGateway, running_gateway

if TYPE_CHECKING:
    from comitia.gateway.v1.audit_service_pb2_grpc import AuditServiceAsyncStub

Metadata = tuple[tuple[str, str], ...]
Ask = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A gateway at work on the trail."""

    gateway: RunningGateway
    folder: Path
    feeds: dict[str, FakeAuditFeed]
    stub: "AuditServiceAsyncStub"
    #: Of the bootstrap key.
    tenant: TenantId
    admin: Metadata

    def as_role(self, *roles: Role, tenant: UUID | None = None) -> Metadata:
        """Gives the metadata of a caller with these roles."""
        home = self.tenant if tenant is None else TenantId(tenant)
        return call_metadata(self.gateway.keys.principal(*roles, tenant=home))

    async def status(self, metadata: Metadata | None = None) -> pb.GetAuditStatusResponse:
        """Asks for the state of the trail."""
        return await self.stub.GetAuditStatus(pb.GetAuditStatusRequest(), metadata=metadata or self.admin)

    async def until_size(self, size: int, metadata: Metadata | None = None) -> None:
        """Waits until so many entries are chained."""

        async def reached() -> bool:
            return (await self.status(metadata)).size >= size

        await until(reached)

    async def until_signed(self, size: int) -> None:
        """Waits until a head covers so many entries."""

        async def signed() -> bool:
            return (await self.status()).head.size >= size

        await until(signed)

    async def export(self, metadata: Metadata | None = None, *, first: int = 0) -> list[pb.ExportAuditResponse]:
        """Exports the trail."""
        call = self.stub.ExportAudit(pb.ExportAuditRequest(from_index=first), metadata=metadata or self.admin)
        return [line async for line in call]


async def until(ask: Ask, *, seconds: float = 10) -> None:
    """Asks until the answer is true."""
    async with asyncio.timeout(seconds):
        while not await ask():  # noqa: ASYNC110  # another task's database cannot set an event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def open_room(
    make_migrated: MakeDatabase, folder: Path, *, feeds: dict[str, FakeAuditFeed] | None = None, **settings: Any
) -> AsyncGenerator[Room]:
    """Runs a gateway that asks fast. The folder and the feeds may be those of an earlier one."""
    fed = {name: FakeAuditFeed(name) for name in NEIGHBOURS} if feeds is None else feeds
    quick: dict[str, Any] = {"audit_collect_seconds": 0.02, "audit_head_seconds": 0.05, "audit_archive_seconds": 0.05}
    async with (
        served(*fed.values()) as targets,
        running_gateway(make_migrated, folder, targets=targets, **(quick | settings)) as gateway,
        channel(gateway.target, identity=gateway.keys.workload("orchestrator")) as opened,
    ):
        identity = IdentityServiceStub(opened)
        request = identity_service_pb2.ExchangeApiKeyRequest(api_key=gateway.admin_key)
        # A gateway takes calls once it has heard from itself who is revoked and suspended.
        answer = await identity.ExchangeApiKey(request, wait_for_ready=True)
        admin = (("authorization", f"Bearer {answer.access_token}"),)
        me = await identity.WhoAmI(identity_service_pb2.WhoAmIRequest(), metadata=admin)
        yield Room(
            gateway=gateway,
            folder=folder,
            feeds=fed,
            stub=AuditServiceStub(opened),
            tenant=TenantId(to_uuid(me.tenant_id, "tenant")),
            admin=admin,
        )


@pytest.fixture
async def room(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(make_migrated, tmp_path) as opened:
        yield opened


@asynccontextmanager
async def administrator(postgres: str, urls: DatabaseUrls) -> AsyncGenerator[asyncpg.Connection]:
    """Opens the gateway's database as the server's administrator, who may do everything."""
    connection = await asyncpg.connect(postgres, database=urls.app.rpartition("/")[2].partition("?")[0])
    try:
        yield connection
    finally:
        await connection.close()
