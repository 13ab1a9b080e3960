"""Opens what everything in memory stands on: databases, guard, ways to its neighbours, the store of vectors, keys."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc.aio

from comitia.guard_table import GUARDS
from services.memory.settings import MemorySettings
from services.memory.vectors.milvus import MilvusVectors
from services.meshkit.audit.trail import ServiceAudit, service_audit
from services.meshkit.calls.law_gate import Evaluations, evaluations
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard import access_gate
from services.meshkit.guard.mesh_guard import MeshGuard, mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import AsyncEngine, sql_engine
from services.meshkit.sql.sealing import Sealing, sealing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is open before anything is remembered."""

    settings: MemorySettings
    clock: Clock
    ids: IdSource
    app: AsyncEngine
    maintenance: AsyncEngine
    signer: WorkloadSigner
    audit: ServiceAudit
    guard: MeshGuard
    inference: grpc.aio.Channel
    gateway: grpc.aio.Channel
    #: A batch stream to policy.
    law: Evaluations
    vectors: MilvusVectors
    sealed: Sealing


@asynccontextmanager
async def ground(settings: MemorySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Ground]:
    """Opens it while the block runs."""
    url = settings.database_url.get_secret_value()
    maintenance_url = settings.maintenance_database_url.get_secret_value()
    milvus_url = None if settings.milvus_url is None else settings.milvus_url.get_secret_value()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        app = await enter(sql_engine(url, pool_size=settings.pool_size, application_name="memory"))
        maintenance = await enter(sql_engine(maintenance_url, pool_size=2, application_name="memory-maintenance"))
        signer = workload_identity(settings, "memory", clock=clock)
        audit = await enter(service_audit("memory", SqlAuditStore(app=app, maintenance=maintenance), clock=clock))
        guard = await enter(mesh_guard(settings, GUARDS, service="memory", clock=clock, workload=signer, audit=audit))
        connect = partial(channel, identity=signer)
        policy = await enter(connect(settings.policy_target))
        yield Ground(
            settings=settings,
            clock=clock,
            ids=ids,
            app=app,
            maintenance=maintenance,
            signer=signer,
            audit=audit,
            guard=guard,
            inference=await enter(connect(settings.inference_target)),
            gateway=await enter(connect(settings.gateway_target, idempotent=access_gate.IDEMPOTENT)),
            law=await enter(evaluations(policy, clock=clock)),
            vectors=await enter(MilvusVectors(url=milvus_url, data_dir=settings.data_dir, clock=clock)),
            sealed=await enter(
                sealing(
                    settings,
                    service="memory",
                    app=app,
                    maintenance=maintenance,
                    tenants=guard.feed,
                    clock=clock,
                    ids=ids,
                )
            ),
        )
