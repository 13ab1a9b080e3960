"""Puts together what cares for tenants."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from services.gateway.clients import tenant_stores
from services.gateway.clients.tenant_stores import GrpcTenantStores
from services.gateway.storage.identity_directory import SqlIdentityDirectory
from services.gateway.storage.tenant_answers import AnswersToOthers
from services.gateway.storage.tenant_data import TENANT_DATA
from services.gateway.storage.tenant_work import SqlBeginTenantWork, SqlErasureBook, SqlTenantReader
from services.gateway.storage.unit_of_work import SqlBeginWork
from services.gateway.transport.tenant_servicer import TenantServicer, TenantVerbs
from services.gateway.usecases.create_tenant import CreateTenant
from services.gateway.usecases.delete_tenant import DeleteTenant
from services.gateway.usecases.erase_tenants import EraseTenants
from services.gateway.usecases.set_security_policy import SetSecurityPolicy
from services.gateway.usecases.suspend_tenant import ResumeTenant, SuspendTenant
from services.gateway.usecases.update_tenant import UpdateTenant
from services.gateway.wiring.audit import erasure_notes
from services.gateway.wiring.ground import Ground, mesh
from services.gateway.wiring.identity import key_maker
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.server import Background, Registration
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenants:
    """What a server needs to care for tenants."""

    registrations: tuple[Registration, ...]
    background: tuple[Background, ...]


@asynccontextmanager
async def tenants(on: Ground) -> AsyncGenerator[Tenants]:
    """Gives it."""
    settings, clock = on.settings, on.clock
    async with AsyncExitStack() as stack:
        stores = await _stores(stack, on)
        begin, reader = SqlBeginTenantWork(on.app), SqlTenantReader(on.app)
        erase = EraseTenants(
            begin=begin,
            book=SqlErasureBook(on.maintenance),
            stores=stores,
            notes=erasure_notes(settings, clock),
            tenants=reader,
            clock=clock,
            settle_seconds=settings.erasure_settle_seconds,
            every_seconds=settings.erasure_seconds,
        )
        servicer = TenantServicer(
            TenantVerbs(
                create=CreateTenant(begin=SqlBeginWork(on.app), maker=key_maker(on), clock=clock, ids=on.ids),
                update=UpdateTenant(begin=begin),
                set_security_policy=SetSecurityPolicy(begin=begin),
                suspend=SuspendTenant(begin=begin),
                resume=ResumeTenant(begin=begin),
                delete=DeleteTenant(begin=begin, tenants=reader, stores=stores, clock=clock, wake=erase.wake),
            ),
            directory=SqlIdentityDirectory(on.maintenance),
            tenants=reader,
            erasures=reader,
            addresses=ClientAddresses(settings.edge_networks),
        )
        rows = TenantRows("gateway", on.maintenance, TENANT_DATA)
        own = TenantData(rows, tenants=on.guard.feed, others=(AnswersToOthers(on.maintenance),))
        yield Tenants(registrations=(servicer.registration, own.registration), background=(erase,))


async def _stores(stack: AsyncExitStack, on: Ground) -> GrpcTenantStores:
    connect = partial(channel, identity=on.workload, idempotent=tenant_stores.IDEMPOTENT)
    opened = {name: await stack.enter_async_context(connect(target)) for name, target in mesh(on.settings).items()}
    return GrpcTenantStores(opened)
