"""Puts inference together. Each file of this room builds one part; this one says in which order they open."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceStub
from comitia.guard_table import GUARDS
from comitia.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from comitia.inference.v1.model_batch_service_pb2_grpc import add_ModelBatchServiceServicer_to_server
from comitia.inference.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from comitia.policy.v1 import policy_pb2
from services.inference.chain import configured
from services.inference.clients.batch_holds import CostBatchHolds
from services.inference.clients.batch_tokens import BatchGrants
from services.inference.clients.hold_client import CostHoldClient
from services.inference.clients.price_list import CostPriceList
from services.inference.providers.http import provider_http
from services.inference.settings import InferenceSettings
from services.inference.storage.batch_repository import BatchRepository
from services.inference.storage.call_repository import CallRepository
from services.inference.storage.comparison_records import SqlComparisonRecords
from services.inference.storage.kept_vectors import SqlKeptVectors
from services.inference.storage.lesson_records import SqlLessonRecords
from services.inference.storage.registry_feed import SqlRegistryFeed
from services.inference.storage.registry_repository import RegistryRepository
from services.inference.storage.rollout_records import SqlRolloutRecords
from services.inference.storage.tenant_data import TENANT_DATA
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.claims import Claims
from services.inference.wiring.batches import batches
from services.inference.wiring.core import core
from services.inference.wiring.doors import doors
from services.inference.wiring.registry import known_models, model_servicer
from services.inference.wiring.routing import addresses_of_tenants, egress_rule
from services.meshkit.audit.trail import service_audit
from services.meshkit.calls.cost_holds import operations
from services.meshkit.calls.law_gate import PolicyLawGate, evaluations
from services.meshkit.calls.sweep import Sweep
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.server import Server
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.sealing import sealing
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData


@asynccontextmanager
async def inference(settings: InferenceSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what inference needs and gives its server; leaving the block closes everything."""
    identity, replica = workload_identity(settings, "inference", clock=clock), ids.new("replica")
    async with (
        sql_engine(
            settings.database_url.get_secret_value(), pool_size=settings.pool_size, application_name="inference"
        ) as app,
        sql_engine(
            settings.maintenance_database_url.get_secret_value(), pool_size=2, application_name="inference-maintenance"
        ) as maintenance,
        channel(settings.policy_target, identity=identity) as to_policy,
        channel(settings.cost_target, identity=identity) as to_cost,
        channel(settings.gateway_target, identity=identity) as to_gateway,
        provider_http(connections=settings.max_provider_connections, egress=egress_rule(settings)) as http,
        provider_http(
            connections=settings.max_provider_connections,
            egress=egress_rule(settings),
            addresses=addresses_of_tenants(settings),
        ) as to_registered,
        evaluations(to_policy, clock=clock) as to_law,
        operations(to_cost, clock=clock) as to_money,
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
            unacknowledged=timedelta(
                hours=max(0.0, settings.unacknowledged_retention_hours - settings.call_retention_hours)
            ),
        ).running() as calls,
        Claims(calls, every_seconds=settings.claim_seconds / 3, clock=clock) as claims,
        CallsInFlight(most=settings.max_model_calls + settings.max_waiting_calls) as in_flight,
    ):
        holds = CostHoldClient(to_money, ids=ids)
        law = PolicyLawGate(to_law, operation=policy_pb2.OPERATION_GENERATE)
        prices = CostPriceList(PricingServiceStub(to_cost), clock=clock)
        deployments = configured(settings)
        known = known_models(
            settings,
            deployments=deployments,
            http=http,
            to_registered=to_registered,
            repository=RegistryRepository(app, keys=sealed.keys),
            feed=SqlRegistryFeed(maintenance, keys=sealed.keys),
            records=SqlRolloutRecords(app, maintenance, replica=replica, clock=clock),
            wrapper=sealed.wrapper,
            lessons=SqlLessonRecords(app, maintenance),
            clock=clock,
        )
        if known.kept is not None:
            await known.kept.recall()
        asking = core(
            settings,
            deployments=deployments,
            known=known,
            law=law,
            holds=holds,
            prices=prices,
            calls=calls,
            claims=claims,
            in_flight=in_flight,
            answers=SqlKeptVectors(app, keys=sealed.keys),
            comparisons=SqlComparisonRecords(app),
            tenants=guard.feed,
            clock=clock,
            ids=ids,
        )
        models = model_servicer(
            settings,
            known,
            deployments=deployments,
            prices=prices,
            model_call=asking.model_call,
            embed=asking.embed_anew,
            health=asking.health,
            shadows=asking.shadows,
            replica=replica,
            clock=clock,
            ids=ids,
        )
        patient = batches(
            settings,
            known=known,
            repository=BatchRepository(app, maintenance, keys=sealed.keys),
            tokens=BatchGrants(to_gateway, clock=clock),
            law=law,
            holds=CostBatchHolds(to_money, ids=ids),
            prices=prices,
            tenants=guard.feed,
            clock=clock,
            ids=ids,
        )
        yield Server(
            name="inference",
            listen=settings.listen,
            registrations=(
                partial(add_InferenceServiceServicer_to_server, asking.servicer),
                partial(add_ModelServiceServicer_to_server, models),
                partial(add_ModelBatchServiceServicer_to_server, patient.servicer),
                TenantData(TenantRows("inference", maintenance, TENANT_DATA), tenants=guard.feed).registration,
                *guard.registrations,
            ),
            admission=guard.admission,
            tls=identity.tls,
            refusals=audit.refusals,
            background=(
                *asking.background,
                claims,
                *known.background,
                patient.poll,
                Sweep(
                    calls=calls,
                    holds=holds,
                    clock=clock,
                    every_seconds=settings.sweep_seconds,
                    retention=timedelta(hours=settings.call_retention_hours),
                ),
                *sealed.background,
                ForgetRequests(maintenance, clock=clock),
                *guard.background,
            ),
            beside=doors(
                settings,
                core=asking,
                registry=known.registry,
                guard=guard,
                to_gateway=to_gateway,
                tls=identity.tls,
                clock=clock,
                ids=ids,
            ),
            ready=guard.ready,
            metrics_listen=settings.metrics_listen,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )
