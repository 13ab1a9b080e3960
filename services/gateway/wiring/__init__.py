"""Puts the gateway together."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from secrets import token_bytes
from typing import Any

from comitia.gateway.v1 import status_service_pb2_grpc
from comitia.gateway.v1.guard_feed_service_pb2_grpc import add_GuardFeedServiceServicer_to_server
from comitia.guard_table import GUARDS
from services.gateway.clients.health_probe import GrpcHealthProbe, health_probe
from services.gateway.settings import GatewaySettings
from services.gateway.storage.audit_gaps import SqlBeginGapWork
from services.gateway.storage.audit_reader import SqlAuditReader
from services.gateway.storage.guard_reader import SqlGuardReader
from services.gateway.storage.rate_buckets import SqlRateBuckets
from services.gateway.storage.unit_of_work import SqlBeginWork
from services.gateway.transport import edge_authorization, edge_reflection
from services.gateway.transport.guard_feed_servicer import GuardFeedServicer
from services.gateway.transport.status_servicer import StatusServicer
from services.gateway.usecases.create_api_key import KeyMaker
from services.gateway.usecases.create_tenant import CreateTenant
from services.gateway.usecases.guard_news import GuardNews
from services.gateway.usecases.mesh_status import MeshStatus
from services.gateway.wiring.access import access
from services.gateway.wiring.audit import audit_trail
from services.gateway.wiring.identity import identities, signing
from services.gateway.wiring.people import people
from services.gateway.wiring.rate import rate_leasing
from services.gateway.wiring.tenant import tenants
from services.meshkit.audit.trail import service_audit
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.crypto.key_service import key_wrapper
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.server import Registration, Server
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.request_ids import ForgetRequests


@asynccontextmanager
async def gateway(settings: GatewaySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Gives the gateway, ready to serve; the bootstrap key is stored by then."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            sql_engine(
                settings.database_url.get_secret_value(), pool_size=settings.pool_size, application_name="gateway"
            )
        )
        maintenance = await stack.enter_async_context(
            sql_engine(
                settings.maintenance_database_url.get_secret_value(),
                pool_size=2,
                application_name="gateway-maintenance",
            )
        )
        workload = workload_identity(settings, "gateway", clock=clock)
        entries = await stack.enter_async_context(
            service_audit("gateway", SqlAuditStore(app=engine, maintenance=maintenance), clock=clock)
        )
        rates = rate_leasing(SqlRateBuckets(maintenance), clock=clock)
        news = GuardNews(SqlGuardReader(maintenance), clock=clock)
        guard_feed = GuardFeedServicer(news, lease=rates.lease)
        wrapper = await stack.enter_async_context(key_wrapper(settings, clock=clock))
        tokens = await signing(settings, maintenance=maintenance, wrapper=wrapper, news=news, clock=clock)
        guard = await stack.enter_async_context(
            mesh_guard(
                settings,
                GUARDS | edge_authorization.GUARD | edge_reflection.GUARD,
                service="gateway",
                clock=clock,
                workload=workload,
                audit=entries,
                source=guard_feed.messages,
                leases=rates.lease,
            )
        )
        audit = await stack.enter_async_context(
            audit_trail(
                settings,
                reader=SqlAuditReader(engine),
                begin_gap=SqlBeginGapWork(engine),
                workload=workload,
                clock=clock,
            )
        )
        relations = await stack.enter_async_context(
            access(settings, engine=engine, maintenance=maintenance, clock=clock)
        )
        users = await stack.enter_async_context(
            people(settings, engine=engine, maintenance=maintenance, signer=tokens.ring, clock=clock, ids=ids)
        )
        maker = KeyMaker(clock=clock, ids=ids, randomness=token_bytes)
        identity = await identities(
            settings,
            engine=engine,
            maintenance=maintenance,
            signing=tokens,
            news=news,
            clock=clock,
            ids=ids,
            guard=guard,
        )
        stack.enter_context(guard.feed.changed(identity.exchange.forget))
        customers = await stack.enter_async_context(
            tenants(
                settings,
                engine=engine,
                maintenance=maintenance,
                known=guard.feed,
                create=CreateTenant(begin=SqlBeginWork(engine), maker=maker, clock=clock, ids=ids),
                workload=workload,
                clock=clock,
            )
        )
        status = StatusServicer(
            status=MeshStatus(await _probes(stack, settings, workload)),
            version=version("comitia"),
            openapi=settings.openapi_path.read_bytes(),
        )
        yield Server(
            name="gateway",
            listen=settings.listen,
            registrations=(
                *_registrations(settings, status),
                *customers.registrations,
                *identity.registrations,
                partial(add_GuardFeedServiceServicer_to_server, guard_feed),
                users,
                relations.registration,
                audit.registration,
                *guard.registrations,
            ),
            admission=guard.admission,
            tls=workload.tls,
            refusals=entries.refusals,
            background=(
                news,
                ForgetRequests(maintenance, clock=clock),
                *guard.background,
                *identity.background,
                *customers.background,
                *audit.background,
                *relations.background,
                *rates.background,
            ),
            metrics_listen=settings.metrics_listen,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )


async def _probes(stack: AsyncExitStack, settings: GatewaySettings, workload: WorkloadSigner) -> list[GrpcHealthProbe]:
    targets = {
        "cost": settings.cost_target,
        "gateway": settings.gateway_target,
        "inference": settings.inference_target,
        "memory": settings.memory_target,
        "orchestrator": settings.orchestrator_target,
        "policy": settings.policy_target,
        "tools": settings.tools_target,
    }
    return [
        await stack.enter_async_context(health_probe(name, target, tls=workload.tls))
        for name, target in targets.items()
    ]


def _registrations(settings: GatewaySettings, status: StatusServicer) -> list[Registration]:
    def reflection(server: Any) -> None:
        descriptors = settings.descriptors_path.read_bytes()
        edge_reflection.add_to_server(server, descriptors=descriptors, guards=GUARDS)

    return [
        partial(status_service_pb2_grpc.add_StatusServiceServicer_to_server, status),
        reflection,
    ]
