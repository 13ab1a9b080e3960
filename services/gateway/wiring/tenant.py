"""Puts together what cares for tenants."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.gateway.clients import tenant_stores
from services.gateway.clients.tenant_stores import GrpcTenantStores
from services.gateway.settings import GatewaySettings
from services.gateway.storage.identity_directory import SqlIdentityDirectory
from services.gateway.storage.tenant_answers import AnswersToOthers
from services.gateway.storage.tenant_data import TENANT_DATA
from services.gateway.storage.tenant_work import SqlBeginTenantWork, SqlErasureBook, SqlTenantReader
from services.gateway.transport.tenant_servicer import TenantServicer, TenantVerbs
from services.gateway.usecases.create_tenant import CreateTenant
from services.gateway.usecases.delete_tenant import DeleteTenant
from services.gateway.usecases.erase_tenants import EraseTenants
from services.gateway.usecases.set_security_policy import SetSecurityPolicy
from services.gateway.usecases.suspend_tenant import ResumeTenant, SuspendTenant
from services.gateway.usecases.update_tenant import UpdateTenant
from services.meshkit.core.clock import Clock
from services.meshkit.core.tenant import KnowsTenants
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.server import Background, Registration
from services.meshkit.sql.engine import AsyncEngine
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenants:
    """What a server needs to care for tenants."""

    registrations: tuple[Registration, ...]
    background: tuple[Background, ...]


@asynccontextmanager
async def tenants(
    settings: GatewaySettings,
    *,
    engine: AsyncEngine,
    maintenance: AsyncEngine,
    known: KnowsTenants,
    create: CreateTenant,
    workload: WorkloadSigner,
    clock: Clock,
) -> AsyncGenerator[Tenants]:
    """Gives it.

    Args:
        engine: of the role `app`.
        maintenance: of the role `maintenance`.
        known: the gateway's own guard feed.
    """
    async with AsyncExitStack() as stack:
        stores = await _stores(stack, settings, workload)
        begin, reader = SqlBeginTenantWork(engine), SqlTenantReader(engine)
        erase = EraseTenants(
            begin=begin,
            book=SqlErasureBook(maintenance),
            stores=stores,
            clock=clock,
            settle_seconds=settings.erasure_settle_seconds,
            every_seconds=settings.erasure_seconds,
        )
        servicer = TenantServicer(
            TenantVerbs(
                create=create,
                update=UpdateTenant(begin=begin),
                set_security_policy=SetSecurityPolicy(begin=begin),
                suspend=SuspendTenant(begin=begin),
                resume=ResumeTenant(begin=begin),
                delete=DeleteTenant(begin=begin, tenants=reader, stores=stores, clock=clock, wake=erase.wake),
            ),
            directory=SqlIdentityDirectory(maintenance),
            tenants=reader,
            erasures=reader,
            addresses=ClientAddresses(settings.edge_networks),
        )
        rows = TenantRows("gateway", maintenance, TENANT_DATA)
        own = TenantData(rows, tenants=known, others=(AnswersToOthers(maintenance),))
        yield Tenants(registrations=(servicer.registration, own.registration), background=(erase,))


async def _stores(stack: AsyncExitStack, settings: GatewaySettings, workload: WorkloadSigner) -> GrpcTenantStores:
    targets = {
        "cost": settings.cost_target,
        "gateway": settings.gateway_target,
        "inference": settings.inference_target,
        "memory": settings.memory_target,
        "orchestrator": settings.orchestrator_target,
        "policy": settings.policy_target,
        "tools": settings.tools_target,
    }
    opened = {
        name: await stack.enter_async_context(channel(target, identity=workload, idempotent=tenant_stores.IDEMPOTENT))
        for name, target in targets.items()
    }
    return GrpcTenantStores(opened)
