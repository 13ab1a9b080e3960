"""Opens what everything in the gateway stands on: databases, signing keys, its own feed and guard."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from comitia.guard_table import GUARDS
from services.gateway.settings import GatewaySettings
from services.gateway.storage.guard_reader import SqlGuardReader
from services.gateway.storage.rate_buckets import SqlRateBuckets
from services.gateway.transport import edge_authorization, edge_reflection
from services.gateway.transport.guard_feed_servicer import GuardFeedServicer
from services.gateway.usecases.guard_news import GuardNews
from services.gateway.wiring.rate import RateLeasing, rate_leasing
from services.gateway.wiring.signing import Signing, signing
from services.meshkit.audit.trail import ServiceAudit, service_audit
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.crypto.key_service import key_wrapper
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import MeshGuard, mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import AsyncEngine, sql_engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is open before anybody is let in."""

    settings: GatewaySettings
    clock: Clock
    ids: IdSource
    app: AsyncEngine
    maintenance: AsyncEngine
    workload: WorkloadSigner
    #: The gateway's own entries, like those of any service.
    audit: ServiceAudit
    rates: RateLeasing
    news: GuardNews
    feed: GuardFeedServicer
    signing: Signing
    guard: MeshGuard


@asynccontextmanager
async def ground(settings: GatewaySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Ground]:
    """Opens it while the block runs."""
    url = settings.database_url.get_secret_value()
    maintenance_url = settings.maintenance_database_url.get_secret_value()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        app = await enter(sql_engine(url, pool_size=settings.pool_size, application_name="gateway"))
        maintenance = await enter(sql_engine(maintenance_url, pool_size=2, application_name="gateway-maintenance"))
        workload = workload_identity(settings, "gateway", clock=clock)
        audit = await enter(service_audit("gateway", SqlAuditStore(app=app, maintenance=maintenance), clock=clock))
        rates = rate_leasing(SqlRateBuckets(maintenance), clock=clock)
        news = GuardNews(SqlGuardReader(maintenance), clock=clock)
        feed = GuardFeedServicer(news, lease=rates.lease)
        wrapper = await enter(key_wrapper(settings, clock=clock))
        yield Ground(
            settings=settings,
            clock=clock,
            ids=ids,
            app=app,
            maintenance=maintenance,
            workload=workload,
            audit=audit,
            rates=rates,
            news=news,
            feed=feed,
            signing=await signing(settings, maintenance=maintenance, wrapper=wrapper, news=news, clock=clock),
            guard=await enter(
                mesh_guard(
                    settings,
                    GUARDS | edge_authorization.GUARD | edge_reflection.GUARD,
                    service="gateway",
                    clock=clock,
                    workload=workload,
                    audit=audit,
                    source=feed.messages,
                    leases=rates.lease,
                )
            ),
        )


def mesh(settings: GatewaySettings) -> Mapping[str, str]:
    """Where each of the seven services is reached, by name."""
    return {
        "cost": settings.cost_target,
        "gateway": settings.gateway_target,
        "inference": settings.inference_target,
        "memory": settings.memory_target,
        "orchestrator": settings.orchestrator_target,
        "policy": settings.policy_target,
        "tools": settings.tools_target,
    }
