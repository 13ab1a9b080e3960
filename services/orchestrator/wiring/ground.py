"""Opens what everything in the orchestrator stands on: database, bus, guard, keys, and ways to its neighbours."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc.aio

from comitia.guard_table import GUARDS
from services.meshkit.audit.trail import ServiceAudit, service_audit
from services.meshkit.bus.bus import Bus, bus
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
from services.orchestrator.clients.run_events import STREAM
from services.orchestrator.settings import OrchestratorSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Channels to the services that runs call."""

    gateway: grpc.aio.Channel
    memory: grpc.aio.Channel
    inference: grpc.aio.Channel
    tools: grpc.aio.Channel
    cost: grpc.aio.Channel
    policy: grpc.aio.Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is open before anything is driven or served."""

    settings: OrchestratorSettings
    clock: Clock
    ids: IdSource
    app: AsyncEngine
    #: A connection that ticks alone are committed on.
    commits: AsyncEngine
    maintenance: AsyncEngine
    nats: Bus
    signer: WorkloadSigner
    audit: ServiceAudit
    guard: MeshGuard
    sealed: Sealing
    neighbours: Neighbours


@asynccontextmanager
async def ground(settings: OrchestratorSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Ground]:
    """Opens it while the block runs."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        size = settings.database_connections
        app = await enter(sql_engine(settings.database_url.get_secret_value(), pool_size=size))
        commits = await enter(sql_engine(settings.database_url.get_secret_value(), pool_size=1))
        maintenance = await enter(sql_engine(settings.maintenance_database_url.get_secret_value(), pool_size=size))
        nats = await enter(bus(settings.nats_url.get_secret_value(), streams=(STREAM,)))
        signer = workload_identity(settings, "orchestrator", clock=clock)
        audit = await enter(service_audit("orchestrator", SqlAuditStore(app=app, maintenance=maintenance), clock=clock))
        guard = await enter(
            mesh_guard(settings, GUARDS, service="orchestrator", clock=clock, workload=signer, audit=audit)
        )
        connect = partial(channel, identity=signer)
        neighbours = Neighbours(
            gateway=await enter(connect(settings.gateway_target, idempotent=access_gate.IDEMPOTENT)),
            memory=await enter(connect(settings.memory_target)),
            inference=await enter(connect(settings.inference_target)),
            tools=await enter(connect(settings.tools_target)),
            cost=await enter(connect(settings.cost_target)),
            policy=await enter(connect(settings.policy_target)),
        )
        sealed = await enter(
            sealing(
                settings,
                service="orchestrator",
                app=app,
                maintenance=maintenance,
                tenants=guard.feed,
                clock=clock,
                ids=ids,
            )
        )
        yield Ground(
            settings=settings,
            clock=clock,
            ids=ids,
            app=app,
            commits=commits,
            maintenance=maintenance,
            nats=nats,
            signer=signer,
            audit=audit,
            guard=guard,
            sealed=sealed,
            neighbours=neighbours,
        )
