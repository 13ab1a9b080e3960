"""Builds memory: the only file that names every concrete class."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Final

from comitia.guard_table import GUARDS
from comitia.memory.v1.memory_service_pb2_grpc import add_MemoryServiceServicer_to_server
from comitia.policy.v1 import policy_pb2
from services.memory.clients.embedder import InferenceEmbedder
from services.memory.settings import MemorySettings
from services.memory.storage.embed_work import SqlEmbedWork
from services.memory.storage.memory_reader import SqlMemoryReader
from services.memory.storage.memory_writer import SqlMemoryWriter
from services.memory.storage.placement_work import SqlPlacementWork
from services.memory.storage.sealed_rows import SealedRows
from services.memory.storage.tenant_data import TENANT_DATA
from services.memory.transport.convert import ProtoPayload
from services.memory.transport.memory_servicer import MemoryServicer
from services.memory.usecases.embed_memories import EmbedMemories
from services.memory.usecases.erase_vectors import EraseVectors
from services.memory.usecases.forget_memory import ForgetMemory
from services.memory.usecases.place_vectors import PlaceVectors
from services.memory.usecases.project_access import ProjectAccess
from services.memory.usecases.query_vectors import QueryVectors
from services.memory.usecases.recall import Recall
from services.memory.usecases.remember import Remember
from services.memory.vectors.milvus import MilvusVectors
from services.meshkit.audit.trail import service_audit
from services.meshkit.calls.law_gate import PolicyLawGate, evaluations
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.server import Server
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard import access_gate
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.sealing import sealing
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData

#: Longest wait for a verdict: less than Remember may take, so that its caller learns what was down.
_LAW_SECONDS: Final = 8.0


@asynccontextmanager
async def memory(settings: MemorySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what memory needs and gives its server; leaving the block commits what waits and closes everything."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        app = await enter(
            sql_engine(
                settings.database_url.get_secret_value(), pool_size=settings.pool_size, application_name="memory"
            )
        )
        maintenance = await enter(
            sql_engine(
                settings.maintenance_database_url.get_secret_value(), pool_size=2, application_name="memory-maintenance"
            )
        )
        signer = workload_identity(settings, "memory", clock=clock)
        audit = await enter(service_audit("memory", SqlAuditStore(app=app, maintenance=maintenance), clock=clock))
        guard = await enter(mesh_guard(settings, GUARDS, service="memory", clock=clock, workload=signer, audit=audit))
        to_policy = await enter(channel(settings.policy_target, identity=signer))
        to_inference = await enter(channel(settings.inference_target, identity=signer))
        to_gateway = await enter(channel(settings.gateway_target, identity=signer, idempotent=access_gate.IDEMPOTENT))
        gate = access_gate.GatewayAccessGate(to_gateway, clock=clock)
        gate.show("memory")
        to_law = await enter(evaluations(to_policy, clock=clock))
        vectors = await enter(
            MilvusVectors(
                url=None if settings.milvus_url is None else settings.milvus_url.get_secret_value(),
                data_dir=settings.data_dir,
                clock=clock,
            )
        )
        sealed = await enter(
            sealing(
                settings, service="memory", app=app, maintenance=maintenance, tenants=guard.feed, clock=clock, ids=ids
            )
        )
        rows = SealedRows(sealed.keys, ProtoPayload())
        reader = SqlMemoryReader(app, rows)
        await enter(reader.rings)
        writer = SqlMemoryWriter(
            app,
            rows,
            tenants=guard.feed,
            max_items=settings.remember_batch_items,
            max_waiting=settings.remember_queue_items,
        )
        await enter(writer.group)
        embed_work = SqlEmbedWork(app, rows, lease=timedelta(seconds=settings.embed_lease_seconds))
        placement_work = SqlPlacementWork(maintenance, rows)
        embedder = InferenceEmbedder(to_inference, model=settings.embedding_model)
        place = PlaceVectors(
            work=placement_work,
            vectors=vectors,
            clock=clock,
            sweep_seconds=settings.sweep_seconds,
            check_seconds=settings.check_seconds,
        )
        embed = EmbedMemories(
            work=embed_work,
            embedder=embedder,
            vectors=vectors,
            place=place.sweep_soon,
            clock=clock,
            max_tenants=settings.embed_queue_tenants,
            look_seconds=settings.embed_look_seconds,
            gather_seconds=settings.embed_gather_seconds,
        )
        law = PolicyLawGate(to_law, operation=policy_pb2.OPERATION_REMEMBER, timeout_seconds=_LAW_SECONDS)
        servicer = MemoryServicer(
            remember=Remember(law=law, memories=writer, wake=embed.wake, clock=clock, ids=ids),
            recall=Recall(
                memories=reader,
                placements=embed_work,
                queries=QueryVectors(
                    embedder,
                    clock=clock,
                    per_tenant=settings.query_vectors_per_tenant,
                    tenants=settings.query_vector_tenants,
                ),
                vectors=vectors,
                look=embed.look,
                check=place.check_soon,
                clock=clock,
                similarity_seconds=settings.similarity_seconds,
            ),
            forget_memory=ForgetMemory(
                memories=writer, placements=placement_work, vectors=vectors, sweep=place.sweep_soon, clock=clock
            ),
            memories=reader,
            access=ProjectAccess(gate),
            ids=ids,
        )
        yield Server(
            name="memory",
            listen=settings.listen,
            registrations=(
                partial(add_MemoryServiceServicer_to_server, servicer),
                TenantData(
                    TenantRows("memory", maintenance, TENANT_DATA), tenants=guard.feed, others=(EraseVectors(vectors),)
                ).registration,
                *guard.registrations,
            ),
            admission=guard.admission,
            tls=signer.tls,
            refusals=audit.refusals,
            background=(
                embed,
                place,
                ForgetRequests(maintenance, clock=clock),
                *sealed.background,
                *guard.background,
            ),
            ready=guard.ready,
            metrics_listen=settings.metrics_listen,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )
