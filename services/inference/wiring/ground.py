"""Opens what all of inference stands on: databases, neighbours, providers and the guard."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import grpc.aio

from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceStub
from comitia.guard_table import GUARDS
from comitia.policy.v1 import policy_pb2
from services.inference.clients.price_list import CostPriceList
from services.inference.providers.http import ProviderHttp, provider_http
from services.inference.settings import InferenceSettings
from services.inference.storage.call_repository import CallRepository
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.claims import Claims
from services.inference.wiring.routing import addresses_of_tenants, egress_rule
from services.meshkit.audit.trail import ServiceAudit, service_audit
from services.meshkit.calls.cost_holds import Operations, operations
from services.meshkit.calls.law_gate import PolicyLawGate, evaluations
from services.meshkit.calls.ports import LawGate
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import MeshGuard, mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import AsyncEngine, sql_engine
from services.meshkit.sql.sealing import Sealing, sealing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is open before any model is asked."""

    settings: InferenceSettings
    clock: Clock
    ids: IdSource
    #: Name of this process among all that ever make calls.
    replica: str
    app: AsyncEngine
    maintenance: AsyncEngine
    gateway: grpc.aio.Channel
    #: What deployments of the settings are asked by, and those that tenants registered.
    http: ProviderHttp
    to_registered: ProviderHttp
    law: LawGate
    #: A batch stream to cost.
    money: Operations
    prices: CostPriceList
    calls: CallRepository
    claims: Claims
    in_flight: CallsInFlight
    identity: WorkloadSigner
    audit: ServiceAudit
    guard: MeshGuard
    sealed: Sealing


@asynccontextmanager
async def ground(settings: InferenceSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Ground]:
    """Opens it while the block runs."""
    identity, replica = workload_identity(settings, "inference", clock=clock), ids.new("replica")
    connect = partial(channel, identity=identity)
    providers = partial(provider_http, connections=settings.max_provider_connections, egress=egress_rule(settings))
    url = settings.database_url.get_secret_value()
    maintenance_url = settings.maintenance_database_url.get_secret_value()
    async with (
        sql_engine(url, pool_size=settings.pool_size, application_name="inference") as app,
        sql_engine(maintenance_url, pool_size=2, application_name="inference-maintenance") as maintenance,
        connect(settings.policy_target) as policy,
        connect(settings.cost_target) as cost,
        connect(settings.gateway_target) as gateway,
        providers() as http,
        providers(addresses=addresses_of_tenants(settings)) as to_registered,
        evaluations(policy, clock=clock) as to_law,
        operations(cost, clock=clock) as money,
        service_audit("inference", SqlAuditStore(app=app, maintenance=maintenance), clock=clock) as audit,
        mesh_guard(settings, GUARDS, service="inference", clock=clock, workload=identity, audit=audit) as guard,
        sealing(
            settings, service="inference", app=app, maintenance=maintenance, tenants=guard.feed, clock=clock, ids=ids
        ) as sealed,
        CallRepository(
            app,
            maintenance,
            keys=sealed.keys,
            replica=replica,
            claim_seconds=settings.claim_seconds,
            unacknowledged=_unacknowledged(settings),
        ).running() as calls,
        Claims(calls, every_seconds=settings.claim_seconds / 3, clock=clock) as claims,
        CallsInFlight(most=settings.max_model_calls + settings.max_waiting_calls) as in_flight,
    ):
        yield Ground(
            settings=settings,
            clock=clock,
            ids=ids,
            replica=replica,
            app=app,
            maintenance=maintenance,
            gateway=gateway,
            http=http,
            to_registered=to_registered,
            law=PolicyLawGate(to_law, operation=policy_pb2.OPERATION_GENERATE),
            money=money,
            prices=CostPriceList(PricingServiceStub(cost), clock=clock),
            calls=calls,
            claims=claims,
            in_flight=in_flight,
            identity=identity,
            audit=audit,
            guard=guard,
            sealed=sealed,
        )


def _unacknowledged(settings: InferenceSettings) -> timedelta:
    """How much longer an answer is kept of which nobody said that it is recorded elsewhere."""
    return timedelta(hours=max(0.0, settings.unacknowledged_retention_hours - settings.call_retention_hours))
