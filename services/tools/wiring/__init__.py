"""Builds tools: the only room that names every concrete class."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.server import Server
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData
from services.tools.domain.shipped import shipped_tools
from services.tools.settings import ToolsSettings
from services.tools.storage.tenant_data import TENANT_DATA
from services.tools.storage.tool_repository import ToolRepository
from services.tools.usecases.catalogue import Catalogue
from services.tools.wiring.calling import calling
from services.tools.wiring.doors import doors
from services.tools.wiring.ground import ground


@asynccontextmanager
async def tools(settings: ToolsSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what tools needs and gives its server; leaving the block closes everything."""
    shipped = shipped_tools(settings.http_allowed_hosts)
    async with ground(settings, clock=clock, ids=ids) as on:
        catalogue = Catalogue(tools=ToolRepository(on.app, ids=ids), shipped=shipped, tenants=on.guard.feed)
        calls = calling(on, catalogue)
        yield Server(
            name="tools",
            listen=settings.listen,
            registrations=(
                doors(on, catalogue, calls.tool_call),
                TenantData(TenantRows("tools", on.maintenance, TENANT_DATA), tenants=on.guard.feed).registration,
                *on.guard.registrations,
            ),
            admission=on.guard.admission,
            tls=on.identity.tls,
            refusals=on.audit.refusals,
            background=(
                *calls.background,
                *on.sealed.background,
                ForgetRequests(on.maintenance, clock=clock),
                *on.guard.background,
            ),
            ready=on.guard.ready,
            metrics_listen=settings.metrics_listen,
            notice_seconds=settings.notice_seconds,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )
