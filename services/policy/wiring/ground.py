"""Opens what everything in policy stands on: databases, bus, guard, and threads for what would hold up the loop."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from comitia.guard_table import GUARDS
from services.meshkit.audit.trail import ServiceAudit, service_audit
from services.meshkit.batching.threads import Threads
from services.meshkit.bus.bus import bus
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import MeshGuard, mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import AsyncEngine, sql_engine
from services.policy.clients.wakes import NatsWakes
from services.policy.settings import PolicySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is open before anything is judged."""

    settings: PolicySettings
    clock: Clock
    ids: IdSource
    app: AsyncEngine
    maintenance: AsyncEngine
    #: Tells the other replicas what changed.
    wakes: NatsWakes
    identity: WorkloadSigner
    audit: ServiceAudit
    guard: MeshGuard
    threads: Threads
    #: For laws that take long, so that the others never wait behind them.
    slow_threads: Threads


@asynccontextmanager
async def ground(settings: PolicySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Ground]:
    """Opens it while the block runs."""
    identity = workload_identity(settings, "policy", clock=clock)
    url = settings.database_url.get_secret_value()
    maintenance_url = settings.maintenance_database_url.get_secret_value()
    async with (
        sql_engine(url, pool_size=settings.pool_size, application_name="policy") as app,
        sql_engine(maintenance_url, pool_size=2, application_name="policy-maintenance") as maintenance,
        bus(settings.nats_url.get_secret_value()) as events,
        service_audit("policy", SqlAuditStore(app=app, maintenance=maintenance), clock=clock) as audit,
        mesh_guard(settings, GUARDS, service="policy", clock=clock, workload=identity, audit=audit) as guard,
        Threads("policy.threads", threads=settings.threads, most_waiting=settings.max_waiting_for_threads) as threads,
        Threads("policy.slow", threads=1, most_waiting=settings.max_waiting_slow) as slow_threads,
    ):
        yield Ground(
            settings=settings,
            clock=clock,
            ids=ids,
            app=app,
            maintenance=maintenance,
            wakes=NatsWakes(events),
            identity=identity,
            audit=audit,
            guard=guard,
            threads=threads,
            slow_threads=slow_threads,
        )
