"""Puts inference together. Each file of this room builds one part; this one says in which order they open."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from comitia.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from comitia.inference.v1.model_batch_service_pb2_grpc import add_ModelBatchServiceServicer_to_server
from comitia.inference.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from services.inference.chain import configured
from services.inference.clients.hold_client import CostHoldClient
from services.inference.settings import InferenceSettings
from services.inference.storage.tenant_data import TENANT_DATA
from services.inference.wiring.batches import batches
from services.inference.wiring.core import core
from services.inference.wiring.doors import doors
from services.inference.wiring.ground import ground
from services.inference.wiring.models import model_servicer
from services.inference.wiring.registry import known_models
from services.meshkit.calls.sweep import Sweep
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.server import Server
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData


@asynccontextmanager
async def inference(settings: InferenceSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what inference needs and gives its server; leaving the block closes everything."""
    async with ground(settings, clock=clock, ids=ids) as on:
        deployments, holds = configured(settings), CostHoldClient(on.money, ids=ids)
        known = known_models(on, deployments=deployments)
        if known.kept is not None:
            await known.kept.recall()
        asking = core(on, deployments=deployments, known=known, holds=holds)
        models = model_servicer(on, known, deployments=deployments, asking=asking)
        patient = batches(on, known=known)
        guard = on.guard
        yield Server(
            name="inference",
            listen=settings.listen,
            registrations=(
                partial(add_InferenceServiceServicer_to_server, asking.servicer),
                partial(add_ModelServiceServicer_to_server, models),
                partial(add_ModelBatchServiceServicer_to_server, patient.servicer),
                TenantData(TenantRows("inference", on.maintenance, TENANT_DATA), tenants=guard.feed).registration,
                *guard.registrations,
            ),
            admission=guard.admission,
            tls=on.identity.tls,
            refusals=on.audit.refusals,
            background=(
                *asking.background,
                on.claims,
                *known.background,
                patient.poll,
                Sweep(
                    calls=on.calls,
                    holds=holds,
                    clock=clock,
                    every_seconds=settings.sweep_seconds,
                    retention=timedelta(hours=settings.call_retention_hours),
                ),
                *on.sealed.background,
                ForgetRequests(on.maintenance, clock=clock),
                *guard.background,
            ),
            beside=doors(on, core=asking, registry=known.registry),
            ready=guard.ready,
            metrics_listen=settings.metrics_listen,
            notice_seconds=settings.notice_seconds,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )
