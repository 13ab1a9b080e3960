"""Puts the gateway together."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from secrets import token_bytes
from typing import Any

from comitia.gateway.v1 import identity_service_pb2_grpc, status_service_pb2_grpc, tenant_service_pb2_grpc
from comitia.guard_table import GUARDS
from services.gateway.access_wiring import access
from services.gateway.audit_wiring import audit_trail
from services.gateway.clients.health_probe import GrpcHealthProbe, health_probe
from services.gateway.people_wiring import people
from services.gateway.settings import GatewaySettings
from services.gateway.storage.api_key_reader import SqlApiKeyReader
from services.gateway.storage.identity_directory import SqlIdentityDirectory
from services.gateway.storage.unit_of_work import SqlBeginWork
from services.gateway.transport import access_servicer, edge_authorization, edge_reflection
from services.gateway.transport.edge_authorization import EdgeAuthorization
from services.gateway.transport.identity_servicer import IdentityServicer
from services.gateway.transport.status_servicer import StatusServicer
from services.gateway.transport.tenant_servicer import TenantServicer
from services.gateway.usecases.create_api_key import CreateApiKey, KeyMaker
from services.gateway.usecases.create_tenant import CreateTenant
from services.gateway.usecases.ensure_bootstrap import EnsureBootstrap
from services.gateway.usecases.exchange_api_key import ExchangeApiKey
from services.gateway.usecases.exchange_grant import ExchangeGrant
from services.gateway.usecases.issue_grant import IssueGrant
from services.gateway.usecases.mesh_status import MeshStatus
from services.gateway.usecases.revoke_api_key import RevokeApiKey
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.identity import TokenSigner, WorkloadSigner
from services.meshkit.grpc.server import Registration, Server
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.engine import sql_engine


@asynccontextmanager
async def gateway(settings: GatewaySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Gives the gateway, ready to serve; the bootstrap key is stored by then."""
    signer = TokenSigner(SigningKey.read(settings.signing_key_path), clock=clock)
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
        workload = WorkloadSigner("gateway", SigningKey.read(settings.workload_key_path), clock=clock)
        guard = await stack.enter_async_context(
            mesh_guard(
                settings,
                GUARDS | edge_authorization.GUARD | edge_reflection.GUARD,
                service="gateway",
                clock=clock,
                workload=workload,
            )
        )
        audit = await stack.enter_async_context(audit_trail(settings, engine=engine, workload=workload, clock=clock))
        relations = await stack.enter_async_context(access(settings, engine=engine))
        users = await stack.enter_async_context(
            people(settings, engine=engine, maintenance=maintenance, signer=signer, clock=clock, ids=ids)
        )
        directory = SqlIdentityDirectory(maintenance)
        begin = SqlBeginWork(engine, ids)
        maker = KeyMaker(clock=clock, ids=ids, randomness=token_bytes)
        exchange = ExchangeApiKey(
            directory=directory,
            signer=signer,
            clock=clock,
            ids=ids,
            seconds=settings.key_cache_seconds,
            remember=settings.max_cached_keys,
        )
        if settings.bootstrap_key_path is not None:
            ensure = EnsureBootstrap(directory=directory, begin=begin, maker=maker, clock=clock, ids=ids)
            await ensure(settings.bootstrap_key_path.read_text())
        identity = IdentityServicer(
            exchange_api_key=exchange,
            create_api_key=CreateApiKey(begin=begin, maker=maker, clock=clock),
            revoke_api_key=RevokeApiKey(begin=begin, clock=clock, forget=exchange.forget),
            issue_grant=IssueGrant(begin=begin, clock=clock, ids=ids),
            exchange_grant=ExchangeGrant(directory=directory, signer=signer, clock=clock, ids=ids),
            keys=SqlApiKeyReader(engine),
        )
        tenants = TenantServicer(
            create_tenant=CreateTenant(begin=begin, maker=maker, clock=clock, ids=ids), tenants=directory
        )
        status = StatusServicer(
            status=MeshStatus(await _probes(stack, settings)),
            version=version("comitia"),
            openapi=settings.openapi_path.read_bytes(),
        )
        yield Server(
            name="gateway",
            listen=settings.listen,
            registrations=(
                *_registrations(settings, identity, tenants, status, EdgeAuthorization(exchange)),
                users,
                access_servicer.registration(relations),
                audit.registration,
                *guard.registrations,
            ),
            admission=guard.admission,
            background=(*guard.background, *audit.background),
            ready=guard.ready,
            metrics_listen=settings.metrics_listen,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )


async def _probes(stack: AsyncExitStack, settings: GatewaySettings) -> list[GrpcHealthProbe]:
    targets = {
        "cost": settings.cost_target,
        "gateway": settings.gateway_target,
        "inference": settings.inference_target,
        "memory": settings.memory_target,
        "orchestrator": settings.orchestrator_target,
        "policy": settings.policy_target,
        "tools": settings.tools_target,
    }
    return [await stack.enter_async_context(health_probe(name, target)) for name, target in targets.items()]


def _registrations(
    settings: GatewaySettings,
    identity: IdentityServicer,
    tenants: TenantServicer,
    status: StatusServicer,
    authorization: EdgeAuthorization,
) -> list[Registration]:
    def reflection(server: Any) -> None:
        descriptors = settings.descriptors_path.read_bytes()
        edge_reflection.add_to_server(server, descriptors=descriptors, guards=GUARDS)

    return [
        partial(identity_service_pb2_grpc.add_IdentityServiceServicer_to_server, identity),
        partial(tenant_service_pb2_grpc.add_TenantServiceServicer_to_server, tenants),
        partial(status_service_pb2_grpc.add_StatusServiceServicer_to_server, status),
        partial(edge_authorization.add_to_server, authorization),
        reflection,
    ]
