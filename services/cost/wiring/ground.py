"""Opens what everything in cost stands on: databases, their clock, bus, guard."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from comitia.guard_table import GUARDS
from services.cost.settings import CostSettings
from services.meshkit.audit.trail import ServiceAudit, service_audit
from services.meshkit.bus.bus import bus
from services.meshkit.bus.subjects import service_stream
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import MeshGuard, mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.database_clock import DatabaseClock, ReadClock
from services.meshkit.sql.engine import AsyncEngine, sql_engine
from services.meshkit.sql.outbox import OutboxRelay

#: Connections of the transactions that all tenants share, and of what tells whose rows are locked.
_GROUPS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is open before anything is spent or told."""

    settings: CostSettings
    #: Of the machine, for identities and waits.
    machine: Clock
    #: Of the database, which replicas share: money goes by it.
    clock: DatabaseClock
    ids: IdSource
    app: AsyncEngine
    #: Waits for locks for a moment only.
    hasty: AsyncEngine
    #: Its connections are never those that spending waits for.
    reports: AsyncEngine
    maintenance: AsyncEngine
    relay: OutboxRelay
    identity: WorkloadSigner
    audit: ServiceAudit
    guard: MeshGuard


@asynccontextmanager
async def ground(
    settings: CostSettings, *, clock: Clock, ids: IdSource, read_clock: ReadClock
) -> AsyncGenerator[Ground]:
    """Opens it while the block runs."""
    identity = workload_identity(settings, "cost", clock=clock)
    url = settings.database_url.get_secret_value()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        app = await enter(sql_engine(url, pool_size=settings.pool_size, application_name="cost"))
        # One group at a time shares a transaction; that of a tenant which waits for locks is one of `app`.
        hasty = await enter(
            sql_engine(
                url,
                pool_size=_GROUPS,
                lock_timeout_seconds=settings.lock_wait_seconds,
                application_name="cost-spending",
            )
        )
        reports = await enter(sql_engine(url, pool_size=settings.report_pool_size, application_name="cost-reports"))
        maintenance = await enter(
            sql_engine(
                settings.maintenance_database_url.get_secret_value(), pool_size=2, application_name="cost-maintenance"
            )
        )
        events = await enter(bus(settings.nats_url.get_secret_value(), streams=(service_stream("cost"),)))
        audit = await enter(service_audit("cost", SqlAuditStore(app=app, maintenance=maintenance), clock=clock))
        guard = await enter(mesh_guard(settings, GUARDS, service="cost", clock=clock, workload=identity, audit=audit))
        read = partial(read_clock, maintenance, clock)
        yield Ground(
            settings=settings,
            machine=clock,
            clock=DatabaseClock(await read(), read, clock=clock, service="cost"),
            ids=ids,
            app=app,
            hasty=hasty,
            reports=reports,
            maintenance=maintenance,
            relay=OutboxRelay(maintenance, events),
            identity=identity,
            audit=audit,
            guard=guard,
        )
