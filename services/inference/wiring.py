"""Builds inference: the only file that names every concrete class."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceStub
from comitia.guard_table import GUARDS
from comitia.inference.v1.inference_service_pb2_grpc import (
    add_InferenceServiceServicer_to_server,
    add_ModelServiceServicer_to_server,
)
from comitia.policy.v1 import policy_pb2
from services.inference.chain import configured
from services.inference.clients.hold_client import CostHoldClient
from services.inference.clients.price_list import CostPriceList
from services.inference.domain.deployment import Adapter
from services.inference.domain.vector_cache import VectorCache
from services.inference.providers.anthropic import AnthropicProvider
from services.inference.providers.embeddings import OpenAiEmbeddings
from services.inference.providers.http import ProviderHttp, provider_http
from services.inference.providers.openai import Endpoint, OpenAiProvider
from services.inference.providers.openai_compatible import OpenAiCompatibleProvider
from services.inference.providers.stub import StubProvider
from services.inference.settings import InferenceSettings
from services.inference.storage.call_repository import CallRepository
from services.inference.storage.kept_vectors import SqlKeptVectors
from services.inference.storage.tenant_data import TENANT_DATA
from services.inference.transport.inference_servicer import InferenceServicer, ModelServicer
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.embed import Embed
from services.inference.usecases.embed_once import EmbedOnce
from services.inference.usecases.generate import Generate
from services.inference.usecases.list_models import ListModels
from services.inference.usecases.model_call import ModelCall
from services.inference.usecases.ports import EmbeddingProvider, ModelProvider
from services.inference.usecases.stream_generate import StreamGenerate
from services.meshkit.audit.trail import service_audit
from services.meshkit.calls.cost_holds import operations
from services.meshkit.calls.law_gate import PolicyLawGate, evaluations
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.calls.sweep import Sweep
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.core.secret import NO_SECRET, Secret
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.server import Server
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.sealing import sealing
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.telemetry import metrics
from services.meshkit.tenant_data.servicer import TenantData


@asynccontextmanager
async def inference(settings: InferenceSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what inference needs and gives its server; leaving the block closes everything."""
    identity = workload_identity(settings, "inference", clock=clock)
    async with (
        sql_engine(
            settings.database_url.get_secret_value(), pool_size=settings.pool_size, application_name="inference"
        ) as app,
        sql_engine(
            settings.maintenance_database_url.get_secret_value(), pool_size=1, application_name="inference-maintenance"
        ) as maintenance,
        channel(settings.policy_target, identity=identity) as to_policy,
        channel(settings.cost_target, identity=identity) as to_cost,
        provider_http(connections=settings.max_provider_connections) as http,
        evaluations(to_policy, clock=clock) as to_law,
        operations(to_cost, clock=clock) as to_money,
        service_audit("inference", SqlAuditStore(app=app, maintenance=maintenance), clock=clock) as audit,
        mesh_guard(settings, GUARDS, service="inference", clock=clock, workload=identity, audit=audit) as guard,
        sealing(
            settings, service="inference", app=app, maintenance=maintenance, tenants=guard.feed, clock=clock, ids=ids
        ) as sealed,
        CallRepository(app, maintenance, keys=sealed.keys).running() as calls,
    ):
        notes = SettledNotes("inference_settled_notes", calls, clock=clock)
        law = PolicyLawGate(to_law, operation=policy_pb2.OPERATION_GENERATE)
        holds = CostHoldClient(to_money, ids=ids)
        vectors = VectorCache(most=settings.vector_cache_entries)
        metrics.show_size("inference.vectors", vectors)
        deployments = configured(settings)
        prices = CostPriceList(PricingServiceStub(to_cost), clock=clock)
        model_call = ModelCall(
            deployments=deployments,
            providers=_providers(settings, http),
            law=law,
            holds=holds,
            prices=prices,
            calls=calls,
            notes=notes,
            tenants=guard.feed,
            clock=clock,
        )
        in_flight = CallsInFlight(most=settings.max_model_calls)
        servicer = InferenceServicer(
            generate=Generate(model_call=model_call, in_flight=in_flight),
            stream_generate=StreamGenerate(model_call=model_call, in_flight=in_flight),
            embed=EmbedOnce(
                embed=Embed(
                    deployments=deployments,
                    embedders=_embedders(settings, http),
                    law=law,
                    holds=holds,
                    cache=vectors,
                    tenants=guard.feed,
                    clock=clock,
                    most_calls=settings.max_embedding_calls,
                ),
                answers=SqlKeptVectors(app, keys=sealed.keys),
            ),
            deployments=deployments,
            clock=clock,
            ids=ids,
        )
        models = ModelServicer(list_models=ListModels(deployments=deployments, prices=prices))
        yield Server(
            name="inference",
            listen=settings.listen,
            registrations=(
                partial(add_InferenceServiceServicer_to_server, servicer),
                partial(add_ModelServiceServicer_to_server, models),
                TenantData(TenantRows("inference", maintenance, TENANT_DATA), tenants=guard.feed).registration,
                *guard.registrations,
            ),
            admission=guard.admission,
            tls=identity.tls,
            refusals=audit.refusals,
            background=(
                notes,
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
            ready=guard.ready,
            metrics_listen=settings.metrics_listen,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )


def _providers(settings: InferenceSettings, http: ProviderHttp) -> dict[Adapter, ModelProvider]:
    """Makes the adapters of what is configured."""
    providers: dict[Adapter, ModelProvider] = {}
    endpoints = _endpoints(settings)
    if Adapter.OPENAI in endpoints:
        providers[Adapter.OPENAI] = OpenAiProvider(http, endpoints[Adapter.OPENAI])
    if settings.anthropic_api_key is not None:
        endpoint = Endpoint(
            base_url=settings.anthropic_base_url.rstrip("/"), key=Secret(settings.anthropic_api_key.get_secret_value())
        )
        providers[Adapter.ANTHROPIC] = AnthropicProvider(http, endpoint)
    for adapter in (Adapter.OPENAI_COMPATIBLE, Adapter.LOCAL):
        if adapter in endpoints:
            providers[adapter] = OpenAiCompatibleProvider(http, endpoints[adapter])
    if settings.stub_enabled:
        providers[Adapter.STUB] = StubProvider()
    return providers


def _embedders(settings: InferenceSettings, http: ProviderHttp) -> dict[Adapter, EmbeddingProvider]:
    return {adapter: OpenAiEmbeddings(http, endpoint) for adapter, endpoint in _endpoints(settings).items()}


def _endpoints(settings: InferenceSettings) -> dict[Adapter, Endpoint]:
    """Gives the addresses at which OpenAI's dialect is spoken."""
    endpoints: dict[Adapter, Endpoint] = {}
    if settings.openai_api_key is not None:
        endpoints[Adapter.OPENAI] = Endpoint(
            base_url=settings.openai_base_url.rstrip("/"), key=Secret(settings.openai_api_key.get_secret_value())
        )
    if settings.compatible_base_url is not None:
        given = settings.compatible_api_key
        key = NO_SECRET if given is None else Secret(given.get_secret_value())
        endpoints[Adapter.OPENAI_COMPATIBLE] = Endpoint(base_url=settings.compatible_base_url.rstrip("/"), key=key)
    if settings.local_model_url is not None:
        endpoints[Adapter.LOCAL] = Endpoint(base_url=f"{settings.local_model_url.rstrip('/')}/v1")
    return endpoints
